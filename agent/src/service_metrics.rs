//! Metrics of Services. Those that kube-proxy has carry its names, units and buckets, because dashboards and alerts know them; they have no
//! label `ip_family`, because one pass serves both families. The others begin with `weft_service`.

use std::fmt::Error;
use std::time::SystemTime;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use weft_common::layout::map;
use weft_common::services::{MAX_BACKENDS, MAX_FRONTENDS, MAX_SERVICES, MAX_SERVING, MAX_SOURCE_RANGES};

use crate::model::services::{ServiceEvent, Update};
use crate::services::snapshot::{AfterPass, Passed, Snapshot};
use crate::view::age_seconds;

/// The maps that can be full, and how many entries each takes. All others have few entries, or let go of what is unused for longest.
const MAX_ENTRIES: [(&str, u32); 5] = [
    (map::FRONTENDS, MAX_FRONTENDS),
    (map::SERVICES, MAX_SERVICES),
    (map::BACKENDS, MAX_BACKENDS),
    (map::SERVING, MAX_SERVING),
    (map::SOURCE_RANGES, MAX_SOURCE_RANGES),
];

type ByResult = Family<[(&'static str, &'static str); 1], Counter>;

/// Counters of the loop of Services, and of what the API server told it.
#[derive(Clone, Debug)]
pub struct ServiceMetrics {
    duration: Histogram,
    programming: Histogram,
    service_changes: Counter,
    endpoint_changes: Counter,
    writes: ByResult,
    repairs: Counter,
    ended_sockets: Counter,
}

impl ServiceMetrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            programming: Histogram::new(programming_buckets()),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            writes: ByResult::default(),
            repairs: Counter::default(),
            ended_sockets: Counter::default(),
        };
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "kubeproxy_sync_proxy_rules_duration",
            "Time of a pass that brings changes of Services to the maps",
            seconds(),
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "kubeproxy_network_programming_duration",
            "From the change of an endpoint, as its EndpointSlice dates it, until it was in the maps",
            seconds(),
            metrics.programming.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes",
            "Services that the API server told of",
            metrics.service_changes.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_endpoint_changes",
            "EndpointSlices that the API server told of",
            metrics.endpoint_changes.clone(),
        );
        registry.register("weft_service_writes", "Writes to the maps for Services, by result", metrics.writes.clone());
        registry.register(
            "weft_service_repairs",
            "Writes to the maps for Services that put back what somebody else had changed",
            metrics.repairs.clone(),
        );
        registry.register(
            "weft_service_ended_sockets",
            "Connected UDP sockets of the host that were ended, because their backend was gone",
            metrics.ended_sockets.clone(),
        );
        metrics
    }

    /// Counts what the API server told.
    pub fn told(&self, event: &ServiceEvent) {
        match event {
            ServiceEvent::Services(update) => drop(self.service_changes.inc_by(objects(update))),
            ServiceEvent::Slices(update) => drop(self.endpoint_changes.inc_by(objects(update))),
            ServiceEvent::Cidrs(_) => {}
        }
    }
}

impl AfterPass for ServiceMetrics {
    fn passed(&mut self, pass: &Passed) {
        self.duration.observe(pass.took.as_secs_f64());
        for seconds in &pass.programmed {
            self.programming.observe(*seconds);
        }
        for (result, number) in [("done", pass.writes), ("refused", pass.failed)] {
            self.writes.get_or_create(&[("result", result)]).inc_by(number as u64);
        }
        self.repairs.inc_by(pass.repaired as u64);
        self.ended_sockets.inc_by(pass.ended_sockets as u64);
    }
}

fn objects<T>(update: &Update<T>) -> u64 {
    match update {
        Update::All(all) => all.len() as u64,
        Update::Set(_) | Update::Remove(_) => 1,
    }
}

/// kube-proxy's: quarters of a second, seconds, then wider, up to five minutes.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

/// What is true at the moment of asking.
pub(crate) fn encode_present(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    let counts = snapshot.counts;
    for (name, help, number) in [
        ("weft_services", "Services that weft serves", counts.services),
        ("weft_service_ports", "Ports of Services, once for each family", counts.ports),
        ("weft_service_frontends", "Entries of the map FRONTENDS", counts.frontends),
        ("weft_service_backends", "Backends of all ports", counts.backends),
        ("weft_service_problems", "Problems of Services, as `weft services` tells them", snapshot.problems.len()),
    ] {
        let gauge = ConstGauge::new(number as u64);
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    let mut entries =
        encoder.encode_descriptor("weft_map_entries", "Entries of a map, by map", None, MetricType::Gauge)?;
    for (map, held) in snapshot.entries.into_iter().flatten() {
        ConstGauge::new(held as u64).encode(entries.encode_family(&[("map", map)])?)?;
    }
    let mut most =
        encoder.encode_descriptor("weft_map_max_entries", "Most entries of a map, by map", None, MetricType::Gauge)?;
    for (map, max) in MAX_ENTRIES {
        ConstGauge::new(u64::from(max)).encode(most.encode_family(&[("map", map)])?)?;
    }
    let mut seconds = |name, help, value: Option<f64>| {
        let Some(value) = value else { return Ok(()) };
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?)
    };
    let unix = |age: f64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs_f64() - age
    };
    let synced = snapshot.synced.map(age_seconds);
    seconds(
        "kubeproxy_sync_proxy_rules_last_timestamp",
        "When all that was wanted of Services was last in the maps",
        synced.map(unix),
    )?;
    seconds(
        "weft_service_pending_age",
        "For how long a change of Services has waited to be in the maps; 0: none does",
        Some(snapshot.pending_since.map_or(0.0, age_seconds)),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text;

    use super::*;
    use crate::model::services::ObjectName;

    #[test]
    fn the_buckets_are_those_of_kube_proxy() {
        let buckets: Vec<_> = programming_buckets().collect();
        assert_eq!(buckets.len(), 2 + 59 + 12 + 7);
        assert_eq!((buckets[..4].to_vec(), buckets.last()), (vec![0.25, 0.5, 1.0, 2.0], Some(&300.0)));
        assert!(buckets.is_sorted());
    }

    #[test]
    fn a_pass_and_what_led_to_it_are_counted_under_kube_proxys_names() {
        let mut registry = Registry::default();
        let mut metrics = ServiceMetrics::register(&mut registry);
        metrics.told(&ServiceEvent::Services(Update::Remove(ObjectName::default())));
        metrics.told(&ServiceEvent::Slices(Update::All(Vec::new())));
        metrics.told(&ServiceEvent::Slices(Update::Remove(ObjectName::default())));
        metrics.passed(&Passed {
            writes: 5,
            failed: 1,
            repaired: 2,
            took: Duration::from_millis(3),
            programmed: vec![0.3, 70.0],
            ended_sockets: 4,
            ..Passed::default()
        });
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\"} 1",
            "kubeproxy_network_programming_duration_seconds_count 2",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
            "weft_service_writes_total{result=\"done\"} 5",
            "weft_service_writes_total{result=\"refused\"} 1",
            "weft_service_repairs_total 2",
            "weft_service_ended_sockets_total 4",
        ] {
            assert!(told.lines().any(|told| told == line), "{line} is missing in\n{told}");
        }
    }
}
