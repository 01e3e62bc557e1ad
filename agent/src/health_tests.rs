//! Tests of the health port's answers: what a load balancer or a kubelet sees of a state of the agent.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::http::{Request, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::datapath::requirements::Requirements;
use crate::health::{NEVER, Probes, STUCK, router};
use crate::kubernetes::watch::{ApiServer, WatchedResource};
use crate::model::cluster::{Cluster, Node};
use crate::model::problem::Problem;
use crate::overlay::driver::Snapshot;
use crate::overlay::plan::Blocked;
use crate::overlay::reconcile::Pass;
use crate::overlay::way::FastPath;
use crate::services::snapshot::Snapshot as ServicesSnapshot;
use crate::view::{ServicesView, View};

/// What the loops say, and what becomes of it.
struct State {
    overlay: Snapshot,
    services: ServicesSnapshot,
    server: ApiServer,
}

impl State {
    /// A node that has all it needs.
    fn healthy() -> Self {
        let node = Node { name: "one".to_owned(), ..Node::default() };
        let mut overlay = Snapshot::at_start();
        overlay.cluster = Some(Arc::new(Cluster { nodes: [("one".to_owned(), node)].into(), ..Cluster::default() }));
        // Nothing to compare, and nothing in the way.
        let blocked = Blocked { reasons: Vec::new(), others: Vec::new() };
        let pass = Pass { comparison: Err(blocked), applied: Vec::new(), repaired: Vec::new(), failures: Vec::new() };
        overlay.pass = Some(Arc::new(pass));
        let mut services = ServicesSnapshot::at_start();
        (services.filled, services.synced) = (Some(Instant::now()), Some(Instant::now()));
        Self { overlay, services, server: ApiServer::new("https://192.0.2.9:6443".to_owned(), "a test".to_owned()) }
    }

    fn node(&mut self, edit: impl FnOnce(&mut Node)) {
        let cluster = Arc::get_mut(self.overlay.cluster.as_mut().unwrap()).unwrap();
        edit(cluster.nodes.get_mut("one").unwrap());
    }

    async fn ask(&self, path: &str) -> (StatusCode, Value) {
        let nowhere = std::path::Path::new("/nonexistent");
        let view = View {
            node: "one".to_owned(),
            pin_directory: nowhere.to_owned(),
            requirements: Requirements::of_this_node(nowhere, nowhere),
            fast_path: FastPath::Allowed,
            overlay: watch::channel(self.overlay.clone()).1,
            api_server: watch::channel(self.server.clone()).1,
            services: ServicesView { snapshot: watch::channel(self.services.clone()).1, ..ServicesView::at_start() },
        };
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let answer = router(view, Probes::default()).oneshot(request).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        let (code, body) = (answer.status(), to_bytes(answer.into_body(), 1 << 16).await.unwrap());
        (code, serde_json::from_slice(&body).unwrap())
    }

    /// The status codes of /livez, /readyz and /healthz.
    async fn codes(&self) -> [u16; 3] {
        let mut codes = [0; 3];
        for (code, path) in codes.iter_mut().zip(["/livez", "/readyz", "/healthz"]) {
            *code = self.ask(path).await.0.as_u16();
        }
        codes
    }
}

/// A time of RFC 3339.
fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_healthy_node_answers_200_with_the_fields_of_kube_proxy() {
    let state = State::healthy();
    assert_eq!(state.codes().await, [200; 3]);
    let (_, body) = state.ask("/healthz").await;
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&true.into(), &true.into()));
    assert_eq!(time(&body["lastUpdated"]), time(&body["currentTime"]), "it is up to date");
    let (_, alive) = state.ask("/livez").await;
    assert!(alive.get("nodeEligible").is_none() && alive["healthy"] == true, "{alive}");
}

#[tokio::test]
async fn a_node_that_is_leaving_or_missing_is_not_eligible_but_lives() {
    let changes: [fn(&mut Node); 2] = [|node| node.deleting = true, |node| node.tainted_for_deletion = true];
    for change in changes {
        let mut state = State::healthy();
        state.node(change);
        assert_eq!(state.codes().await, [200, 200, 503]);
        let (_, body) = state.ask("/healthz").await;
        assert_eq!((&body["healthy"], &body["nodeEligible"]), (&true.into(), &false.into()), "{body}");
    }
    let mut state = State::healthy();
    state.overlay.cluster = Some(Arc::default());
    let (code, body) = state.ask("/healthz").await;
    assert_eq!((code.as_u16(), &body["nodeEligible"]), (503, &false.into()), "{body}");
    assert_eq!(state.codes().await[0], 200);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_services_that_waits_for_a_minute_makes_a_node_sick() {
    let mut state = State::healthy();
    tokio::time::advance(Duration::from_secs(3600)).await;
    (state.overlay.alive, state.services.alive) = (Instant::now(), Instant::now());
    let now = Instant::now();
    state.services.pending_since = Some(now - Duration::from_secs(59));
    assert_eq!(state.codes().await, [200; 3]);
    state.services.pending_since = Some(now - Duration::from_secs(60));
    state.services.problems = vec![Problem::new("map BACKENDS", "it is full", "delete some")];
    assert_eq!(state.codes().await, [200, 200, 503], "a restart would not help, and pods have their network");
    let (_, body) = state.ask("/healthz").await;
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&false.into(), &true.into()), "{body}");
    let reason = body["reasons"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("waited for 60 s") && reason.contains("map BACKENDS: it is full"), "{body}");
    assert!(time(&body["lastUpdated"]) < time(&body["currentTime"]), "{body}");
}

#[tokio::test]
async fn pods_wait_for_services_unless_nobody_may_list_them() {
    let mut state = State::healthy();
    (state.services.filled, state.services.synced) = (None, None);
    assert_eq!(state.codes().await, [200, 503, 503]);
    let (_, body) = state.ask("/readyz").await;
    assert_eq!((&body["reasons"][0]["object"], &body["lastUpdated"]), (&"Services".into(), &NEVER.into()), "{body}");

    let problem = Some(Problem::new("API server", "list services: 403", "give the right"));
    let resource = WatchedResource { problem, ..WatchedResource::default() };
    state.server.resources.insert("services", resource);
    assert_eq!(state.codes().await, [200; 3], "pods without Services are better than none");

    // Some are in the maps, and one that the kernel refuses keeps the others from nothing.
    let mut state = State::healthy();
    state.services.synced = None;
    assert_eq!(state.codes().await, [200; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_shows_no_sign_of_life_is_dead() {
    let mut state = State::healthy();
    tokio::time::advance(STUCK + Duration::from_secs(1)).await;
    for (overlay, services, name) in [(true, false, "loop of Services"), (false, true, "reconcile loop")] {
        let then = Instant::now() - STUCK - Duration::from_millis(1);
        state.overlay.alive = if overlay { Instant::now() } else { then };
        state.services.alive = if services { Instant::now() } else { then };
        let (code, body) = state.ask("/livez").await;
        assert_eq!((code.as_u16(), &body["reasons"][0]["object"]), (503, &name.into()), "{body}");
    }
    (state.overlay.alive, state.services.alive) = (Instant::now(), Instant::now());
    assert_eq!(state.codes().await[0], 200);
}
