//! How long packets may go past the VXLAN device when nobody follows the routes below it any more: on a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use weft_agent::datapath::fake::{FakeKernel, Faults};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::model::problem::Problem;
use weft_agent::overlay::driver::{self, AfterPass, Snapshot};
use weft_agent::overlay::pod_devices::PodDevices;
use weft_agent::overlay::reconcile::{Comparison, Pass, Reconciler};
use weft_agent::overlay::state::{OverlayState, Underlay};
use weft_agent::overlay::way::FastPath;

struct Nothing;

impl AfterPass for Nothing {
    fn in_sync(&mut self, _: &Comparison) -> Vec<Problem> {
        Vec::new()
    }

    fn passed(&mut self, _: &Pass, _: Duration) {}
}

fn kernel() -> FakeKernel {
    FakeKernel::new(OverlayState::default(), Underlay { device: "eth0".to_owned(), mtu: 1500 })
}

fn cluster() -> Option<Arc<Cluster>> {
    let node = |name: &str, number: u8| Node {
        name: name.to_owned(),
        internal_ips: vec![[192, 0, 2, number].into()],
        pod_cidrs: vec![format!("10.244.{number}.0/24").parse().unwrap()],
        ..Node::default()
    };
    let nodes = BTreeMap::from([("one", 1), ("two", 2)].map(|(name, number)| (name.to_owned(), node(name, number))));
    Some(Arc::new(Cluster { nodes, problems: Vec::new(), ..Cluster::default() }))
}

/// An agent that lives for this long; it has heard of the cluster, or not.
async fn live(kernel: &FakeKernel, cluster: Option<Arc<Cluster>>, span: Duration) {
    let (sender, receiver) = watch::channel(None);
    let (_questions, question_receiver) = mpsc::channel(1);
    let (snapshot, _snapshot_receiver) = watch::channel(Snapshot::at_start());
    let reconciler = Reconciler::new(kernel, PodDevices::default(), "one".to_owned(), FastPath::Allowed);
    if cluster.is_some() {
        sender.send(cluster).unwrap();
    }
    let run = driver::run(reconciler, receiver, stream::pending(), question_receiver, snapshot, Nothing);
    assert!(timeout(span, run).await.is_err(), "the loop goes on until it is ended");
}

#[tokio::test(start_paused = true)]
async fn packets_go_past_the_device_as_long_as_an_agent_follows_the_routes_and_seconds_longer() {
    let kernel = kernel();
    live(&kernel, cluster(), Duration::from_millis(100)).await;
    assert!(kernel.is_leased(), "from the first pass on");
    for _ in 0..10 {
        live(&kernel, cluster(), Duration::from_secs(60)).await;
        assert!(kernel.is_leased());
        // The next agent comes in time.
        sleep(Duration::from_secs(7)).await;
        assert!(kernel.is_leased(), "a restart takes no packet from its way");
    }
    sleep(Duration::from_secs(4)).await;
    assert!(!kernel.is_leased(), "nobody follows the routes any more");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_not_heard_of_the_cluster_does_not_follow_the_routes() {
    let kernel = kernel();
    live(&kernel, None, Duration::from_secs(60)).await;
    assert!(!kernel.is_leased());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_see_or_write_the_ways_gives_no_lease() {
    let kernel = kernel();
    live(&kernel, cluster(), Duration::from_secs(60)).await;
    kernel.set_faults(Faults::Every(1));
    live(&kernel, cluster(), Duration::from_secs(60)).await;
    assert!(!kernel.is_leased());
    kernel.set_faults(Faults::None);
    live(&kernel, cluster(), Duration::from_secs(60)).await;
    assert!(kernel.is_leased());
}
