//! When the loop looks at the kernel: on a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use weft_agent::datapath::disturbance::Disturbance;
use weft_agent::datapath::fake::{FakeKernel, Faults, UNDERLAY_INDEX};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::model::problem::Problem;
use weft_agent::overlay::driver::{self, AfterPass, Question, Snapshot};
use weft_agent::overlay::pod_devices::PodDevices;
use weft_agent::overlay::reconcile::{Comparison, Pass, Reconciler};
use weft_agent::overlay::state::{OverlayState, Underlay};
use weft_agent::overlay::way::{FastPath, RouteAnswer};

/// When passes were, since the start, and how many of them were in sync.
#[derive(Clone, Default)]
struct Passes(Arc<Mutex<(Vec<Duration>, usize)>>);

struct Count {
    passes: Passes,
    began: Instant,
}

impl AfterPass for Count {
    fn in_sync(&mut self, _: &Comparison) -> Vec<Problem> {
        self.passes.0.lock().unwrap().1 += 1;
        Vec::new()
    }

    fn passed(&mut self, _: &Pass, _: Duration) {
        self.passes.0.lock().unwrap().0.push(self.began.elapsed());
    }
}

struct Loop {
    cluster: watch::Sender<Option<Arc<Cluster>>>,
    disturb: UnboundedSender<Disturbance>,
    questions: mpsc::Sender<Question>,
    snapshot: watch::Receiver<Snapshot>,
    passes: Passes,
}

impl Loop {
    fn count(&self) -> usize {
        self.passes.0.lock().unwrap().0.len()
    }
}

/// Runs the loop beside a test that steers it.
async fn with_loop<F: Future<Output = ()>>(kernel: &FakeKernel, test: impl FnOnce(Loop) -> F) {
    let (cluster, cluster_receiver) = watch::channel(None);
    let (disturb, disturbances) = unbounded();
    let (questions, question_receiver) = mpsc::channel(1);
    let (snapshot_sender, snapshot) = watch::channel(Snapshot::at_start());
    let passes = Passes::default();
    let count = Count { passes: passes.clone(), began: Instant::now() };
    let reconciler = Reconciler::new(kernel, PodDevices::default(), "one".to_owned(), FastPath::Allowed);
    tokio::select! {
        () = driver::run(reconciler, cluster_receiver, disturbances.boxed(), question_receiver, snapshot_sender, count) => {
            panic!("the loop ended");
        }
        () = test(Loop { cluster, disturb, questions, snapshot, passes }) => {}
    }
}

fn kernel() -> FakeKernel {
    FakeKernel::new(OverlayState::default(), Underlay { device: "eth0".to_owned(), mtu: 1500 })
}

fn cluster(deleting: bool) -> Option<Arc<Cluster>> {
    let node = Node {
        name: "one".to_owned(),
        internal_ips: vec![[192, 0, 2, 1].into()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        deleting,
        ..Node::default()
    };
    Some(Arc::new(Cluster {
        nodes: BTreeMap::from([("one".to_owned(), node)]),
        problems: Vec::new(),
        ..Cluster::default()
    }))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_the_first_list_but_questions_are_answered() {
    let kernel = kernel();
    with_loop(&kernel, async |loop_| {
        loop_.disturb.unbounded_send(Disturbance::Other).unwrap();
        sleep(Duration::from_secs(300)).await;
        assert_eq!((loop_.count(), kernel.writes().len()), (0, 0));
        assert!(loop_.snapshot.borrow().alive.elapsed() < Duration::from_secs(11), "it shows that it lives");
        let (sender, answer) = oneshot::channel();
        loop_.questions.send(Question(sender)).await.unwrap();
        assert_eq!(answer.await.unwrap().unwrap_err().reasons[0].object, "API server");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_cluster_is_applied_at_once_and_looked_after_every_half_minute() {
    let kernel = kernel();
    with_loop(&kernel, async |loop_| {
        for deleting in [false, true, false] {
            loop_.cluster.send(cluster(deleting)).unwrap();
        }
        sleep(Duration::from_millis(100)).await;
        assert_eq!(loop_.count(), 1, "one pass for the whole bunch");
        assert!(kernel.state().device.is_some());
        assert!(loop_.snapshot.borrow().in_sync.is_some());
        sleep(Duration::from_secs(95)).await;
        assert_eq!(loop_.count(), 4);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_disturbed_kernel_is_repaired_within_two_seconds_and_a_storm_costs_a_pass_a_second() {
    let kernel = kernel();
    with_loop(&kernel, async |loop_| {
        loop_.cluster.send(cluster(false)).unwrap();
        sleep(Duration::from_secs(1)).await;
        kernel.edit(|state| state.routes.clear());
        loop_.disturb.unbounded_send(Disturbance::Other).unwrap();
        sleep(Duration::from_secs(2)).await;
        assert_eq!((kernel.state().routes.len(), loop_.count()), (1, 2));
        for _ in 0..1000 {
            loop_.disturb.unbounded_send(Disturbance::Other).unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        assert!(loop_.count() <= 2 + 12, "{}", loop_.count());
    })
    .await;
}

/// This node and one more.
fn two_nodes() -> Option<Arc<Cluster>> {
    let mut cluster = cluster(false).unwrap().as_ref().clone();
    let two = Node {
        name: "two".to_owned(),
        internal_ips: vec![PEER.into()],
        pod_cidrs: vec!["10.244.2.0/24".parse().unwrap()],
        ..Node::default()
    };
    cluster.nodes.insert(two.name.clone(), two);
    Some(Arc::new(cluster))
}

const PEER: [u8; 4] = [192, 0, 2, 2];

#[tokio::test(start_paused = true)]
async fn a_route_that_moves_is_followed_at_once_and_one_that_flaps_costs_ten_passes_a_second() {
    let kernel = kernel();
    let by = || kernel.state().nodes[&"10.244.2.0/24".parse().unwrap()].underlay;
    with_loop(&kernel, async |loop_| {
        loop_.cluster.send(two_nodes()).unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(by(), Some(UNDERLAY_INDEX));
        kernel.surround(|surroundings| {
            let unreachable = RouteAnswer::None("Network is unreachable".to_owned());
            surroundings.routes.insert(PEER.into(), unreachable);
        });
        loop_.disturb.unbounded_send(Disturbance::Underlay).unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!((by(), loop_.count()), (None, 2), "what goes past weft0 would be lost by now");
        for _ in 0..2000 {
            loop_.disturb.unbounded_send(Disturbance::Underlay).unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        assert!((2 + 15..=2 + 21).contains(&loop_.count()), "{}", loop_.count());
        // The last one is not forgotten.
        kernel.surround(|surroundings| surroundings.routes.clear());
        loop_.disturb.unbounded_send(Disturbance::Underlay).unwrap();
        sleep(Duration::from_millis(150)).await;
        assert_eq!(by(), Some(UNDERLAY_INDEX));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_tells_nobody_is_repaired_within_five_seconds_and_looking_for_it_costs_no_pass() {
    let kernel = kernel();
    with_loop(&kernel, async |loop_| {
        loop_.cluster.send(cluster(false)).unwrap();
        sleep(Duration::from_secs(25)).await;
        assert_eq!(loop_.count(), 1, "nothing changed");
        let desired = kernel.state();
        let damages: [fn(&mut OverlayState); 2] = [
            |state| drop(state.sysctls.insert("net/ipv4/ip_forward".to_owned(), "0".to_owned())),
            |state| drop(state.pins.remove("ENDPOINTS")),
        ];
        for damage in damages {
            let before = loop_.count();
            kernel.edit(damage);
            assert_ne!(kernel.state(), desired);
            sleep(Duration::from_secs(5)).await;
            assert_eq!(kernel.state(), desired);
            assert_eq!(loop_.count(), before + 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_tried_again_after_one_two_four_seconds() {
    let kernel = kernel();
    with_loop(&kernel, async |loop_| {
        kernel.set_faults(Faults::Every(1));
        loop_.cluster.send(cluster(false)).unwrap();
        sleep(Duration::from_millis(7500)).await;
        // At 0, 1, 3 and 7 s.
        assert_eq!(loop_.count(), 4);
        assert_eq!(loop_.passes.0.lock().unwrap().1, 0, "nothing is installed while the kernel refuses");
        kernel.set_faults(Faults::None);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(loop_.passes.0.lock().unwrap().1, 1);
    })
    .await;
}
