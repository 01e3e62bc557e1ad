//! `/metrics`. What happens is counted where it happens; what is, is read when somebody asks.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
use weft_common::layout::LAYOUT_VERSION;
use weft_common::reason::DropReason;

use crate::datapath::maps::Maps;
use crate::overlay::reconcile::Pass;
use crate::report::{self, PeerReport};
use crate::service_metrics;
use crate::view::{View, age_seconds};

/// What a text reader of Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type ByKind = Family<[(&'static str, &'static str); 1], Counter>;

/// Counters of the reconcile loop.
#[derive(Clone, Debug)]
pub struct Metrics {
    changes: ByKind,
    repairs: ByKind,
    errors: ByKind,
    passes: Counter,
    duration: Histogram,
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry, view: View) -> Self {
        let metrics = Self {
            changes: ByKind::default(),
            repairs: ByKind::default(),
            errors: ByKind::default(),
            passes: Counter::default(),
            duration: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
        };
        let build =
            Info::new([("version", env!("CARGO_PKG_VERSION").to_owned()), ("layout", LAYOUT_VERSION.to_string())]);
        registry.register("weft_build", "Version of the agent and of the layout of everything pinned", build);
        registry.register("weft_changes_applied", "Changes made in the kernel, by kind", metrics.changes.clone());
        registry.register(
            "weft_repairs",
            "Changes that put back what somebody else had changed, by kind",
            metrics.repairs.clone(),
        );
        registry.register("weft_apply_errors", "Changes that the kernel refused, by kind", metrics.errors.clone());
        registry.register("weft_passes", "Comparisons of the kernel with what should be there", metrics.passes.clone());
        registry.register_with_unit("weft_sync_duration", "Time of a pass", Unit::Seconds, metrics.duration.clone());
        registry.register_collector(Box::new(Present(view)));
        metrics
    }

    /// Counts a pass.
    pub fn passed(&self, pass: &Pass, took: Duration) {
        self.passes.inc();
        self.duration.observe(took.as_secs_f64());
        for change in &pass.applied {
            self.changes.get_or_create(&[("kind", change.kind())]).inc();
        }
        for change in &pass.repaired {
            self.repairs.get_or_create(&[("kind", change.kind())]).inc();
        }
        for failure in &pass.failures {
            self.errors.get_or_create(&[("kind", failure.kind)]).inc();
        }
    }
}

/// `/metrics`.
pub fn router(registry: Registry) -> Router {
    let registry = std::sync::Arc::new(registry);
    Router::new().route(
        "/metrics",
        get(move || {
            let mut body = String::new();
            // Writing into a string fails only where an encoder does; what is there by then is still true.
            let _ = text::encode(&mut body, &registry);
            async move { ([(CONTENT_TYPE, OPEN_METRICS)], body) }
        }),
    )
}

/// What is true at the moment of asking.
#[derive(Debug)]
struct Present(View);

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let view = &self.0;
        let snapshot = view.overlay.borrow().clone();
        let server = view.api_server.borrow().clone();
        let reasons = view.reasons();
        let flag = |value: bool| if value { 1.0 } else { 0.0 };

        gauge(&mut encoder, "weft_ready", "This node can take pods", flag(reasons.is_empty()))?;
        let mut not_ready = encoder.encode_descriptor(
            "weft_not_ready_reason",
            "Why this node is not ready",
            None,
            MetricType::Gauge,
        )?;
        for reason in &reasons {
            let labels = [("object", reason.object.as_str()), ("reason", reason.reason.as_str())];
            ConstGauge::new(1.0).encode(not_ready.encode_family(&labels)?)?;
        }
        let nodes = snapshot.cluster.as_ref().map_or(0, |cluster| cluster.nodes.len());
        gauge(&mut encoder, "weft_nodes", "Nodes in the cluster", count(nodes))?;
        let comparison = snapshot.pass.as_ref().and_then(|pass| pass.comparison.as_ref().ok());
        let routes = comparison.map_or(0, |comparison| comparison.desired.routes.len());
        gauge(&mut encoder, "weft_routes", "Routes of ours that should be in the kernel", count(routes))?;
        let peers = comparison.map(|comparison| report::peers(&comparison.plan, &comparison.ways)).unwrap_or_default();
        let mut family =
            encoder.encode_descriptor("weft_peers", "Other nodes, by the way to them", None, MetricType::Gauge)?;
        for ((way, reason), number) in by_way(&peers) {
            ConstGauge::new(count(number)).encode(family.encode_family(&[("way", way), ("reason", reason)])?)?;
        }
        let failing = snapshot.pass.as_ref().map_or(0, |pass| pass.failures.len());
        gauge(
            &mut encoder,
            "weft_failing_changes",
            "Changes that the kernel refused in the last pass",
            count(failing),
        )?;
        gauge(&mut encoder, "weft_api_connected", "The API server answered the last request", flag(server.connected))?;
        let mut family = encoder.encode_descriptor(
            "weft_api_resource_failing",
            "This resource cannot be listed or watched while the API server is there",
            None,
            MetricType::Gauge,
        )?;
        for (resource, watched) in &server.resources {
            let failing = flag(watched.problem.is_some());
            ConstGauge::new(failing).encode(family.encode_family(&[("resource", *resource)])?)?;
        }
        for (name, help, then) in [
            ("weft_api_heard_age", "Since the API server was last heard", server.heard),
            ("weft_api_list_age", "Since the nodes were last listed whole", server.listed),
            ("weft_sync_age", "Since everything essential was in the kernel", snapshot.in_sync),
        ] {
            let Some(then) = then else { continue };
            let gauge = ConstGauge::new(age_seconds(then));
            gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?)?;
        }
        service_metrics::encode_present(&mut encoder, &view.services.snapshot.borrow())?;
        self.encode_drops(&mut encoder)
    }
}

impl Present {
    fn encode_drops(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // No map, no counters: the agent's start has said why.
        let Ok(counted) = Maps::open(&self.0.pin_directory).and_then(|maps| maps.drop_counters()) else {
            return Ok(());
        };
        for (name, help, told) in [
            ("weft_drops", "Packets dropped without a word, by program and reason", false),
            (
                "weft_refusals",
                "Packets, connections and messages refused, and the sender told, by program and reason",
                true,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            let of_family = |(program, reason, _): &(&str, DropReason, u64)| {
                report::sender_told(program, *reason) == told && report::is_possible(program, *reason)
            };
            for (program, reason, packets) in report::counters(&counted).filter(of_family) {
                let labels = [("program", program), ("reason", reason.name())];
                ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Peers by the way to them and why it is that one; only labels that stay the same.
fn by_way(peers: &[PeerReport]) -> BTreeMap<(&'static str, &str), usize> {
    let mut counts = BTreeMap::new();
    for PeerReport { way, .. } in peers {
        let name = if way.past_overlay { "past_weft0" } else { "weft0" };
        *counts.entry((name, way.reason.as_deref().unwrap_or_default())).or_default() += 1;
    }
    counts
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, ConstGauge::<f64>::TYPE)?)
}

/// Exact for every number of objects that fits into memory.
fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::*;
    use crate::datapath::requirements::Requirements;
    use crate::kubernetes::watch::{ApiServer, WatchedResource};
    use crate::model::cluster::{Cluster, Node};
    use crate::model::problem::Problem;
    use crate::overlay::driver::Snapshot;
    use crate::overlay::pod_devices::PodDevices;
    use crate::overlay::reconcile::{Comparison, Failure};
    use crate::overlay::state::{Change, OverlayState, Underlay};
    use crate::overlay::way::{self, FastPath, Paths, Ways};
    use crate::overlay::{desired, plan};
    use crate::services;
    use crate::view::ServicesView;

    fn pass() -> (Pass, Cluster) {
        let node = |name: &str, last: u8| Node {
            name: name.to_owned(),
            internal_ips: vec![[192, 0, 2, last].into()],
            pod_cidrs: vec![format!("10.244.{last}.0/24").parse().unwrap()],
            ..Node::default()
        };
        let nodes = [node("one", 1), node("two", 2)].map(|node| (node.name.clone(), node));
        let cluster = Cluster { nodes: BTreeMap::from(nodes), problems: Vec::new(), ..Cluster::default() };
        let plan = plan::plan(&cluster, "one").unwrap();
        let underlay = Underlay { device: "eth0".to_owned(), mtu: 1500 };
        let desired =
            desired::desired(&plan, &underlay, &Ways::default(), &PodDevices::default(), &OverlayState::default());
        let observed = desired.clone();
        let ways = way::ways(&plan, 1450, &FastPath::SwitchedOff, &Paths::default());
        let comparison = Comparison { plan, underlay, ways, desired, observed, problems: Vec::new() };
        let failure =
            Failure { kind: "set_node", object: "map".to_owned(), reason: "full".to_owned(), essential: true };
        let pass = Pass {
            comparison: Ok(Arc::new(comparison)),
            applied: vec![Change::SetConfig(1450)],
            repaired: vec![Change::SetConfig(1450)],
            failures: vec![failure],
        };
        (pass, cluster)
    }

    #[tokio::test]
    async fn every_metric_that_is_defined_says_something() {
        let (pass, cluster) = pass();
        let mut server = ApiServer::new("https://192.0.2.9:6443".to_owned(), "--api-server".to_owned());
        (server.connected, server.heard, server.listed) = (true, Some(Instant::now()), Some(Instant::now()));
        let problem = Some(Problem::new("API server", "services are not heard of", "see the rights"));
        server.resources.insert("services", WatchedResource { listed: None, problem });
        let snapshot = Snapshot {
            cluster: Some(Arc::new(cluster)),
            pass: Some(Arc::new(pass.clone())),
            in_sync: Some(Instant::now()),
            ..Snapshot::at_start()
        };
        let services = services::snapshot::Snapshot {
            entries: Some(
                ["FRONTENDS", "SERVICES", "BACKENDS", "SERVING", "SOURCE_RANGES"].map(|map| (map, map.len())),
            ),
            ..services::snapshot::Snapshot::at_start()
        };
        let nowhere = std::path::Path::new("/nonexistent");
        let view = View {
            node: "one".to_owned(),
            pin_directory: nowhere.to_owned(),
            requirements: Requirements::of_this_node(nowhere, nowhere),
            fast_path: FastPath::Allowed,
            overlay: watch::channel(snapshot).1,
            services: ServicesView { snapshot: watch::channel(services).1, ..ServicesView::at_start() },
            api_server: watch::channel(server).1,
        };
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, view);
        metrics.passed(&pass, Duration::from_millis(2));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        let expected = [
            "weft_build_info{version=",
            "weft_changes_applied_total{kind=\"set_config\"} 1",
            "weft_repairs_total{kind=\"set_config\"} 1",
            "weft_apply_errors_total{kind=\"set_node\"} 1",
            "weft_passes_total 1",
            "weft_sync_duration_seconds_count 1",
            "weft_ready 0",
            "weft_not_ready_reason{object=\"map\",reason=\"full\"} 1",
            "weft_nodes 2",
            "weft_routes 2",
            "weft_peers{way=\"weft0\",reason=\"switched_off\"} 1",
            "weft_failing_changes 1",
            "weft_api_connected 1",
            "weft_api_resource_failing{resource=\"services\"} 1",
            "weft_api_heard_age_seconds ",
            "weft_api_list_age_seconds ",
            "weft_sync_age_seconds ",
            "weft_services 0",
            "weft_service_ports 0",
            "weft_service_frontends 0",
            "weft_service_backends 0",
            "weft_service_problems 0",
            "weft_map_entries{map=\"SERVING\"} 7",
            "weft_map_max_entries{map=\"FRONTENDS\"} 131072",
            "weft_service_pending_age_seconds 0",
        ];
        for line in expected {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
            assert!(expected.iter().any(|line| line.starts_with(name)), "{name} is expected by nobody");
        }
    }
}
