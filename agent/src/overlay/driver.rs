//! When a pass of [`super::reconcile`] runs: the cluster changed, somebody disturbed the kernel, a change was refused, or half a
//! minute went by. One task; others get snapshots.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::plan::Blocked;
use super::pod_devices::Records;
use super::reconcile::{Comparison, Pass, Reconciler};
use crate::datapath::Kernel;
use crate::datapath::disturbance::Disturbance;
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;

/// Changes of the cluster come in bunches: one pass for all.
const BATCH: Duration = Duration::from_millis(20);
/// A disturbed kernel is given this time to come to rest, because one change makes several messages.
const SETTLE: Duration = Duration::from_millis(200);
/// Least time between two passes that the kernel asked for: a node that starts many pods makes a message for each.
const GAP: Duration = Duration::from_secs(1);
/// Least time between two passes for changes below the overlay, as which the first does not wait at all: a route that flaps, or a
/// routing daemon that moves a default route, makes a thousand messages a second.
const UNDERLAY_GAP: Duration = Duration::from_millis(100);
/// Or so many times as long as the last pass took, up to [`GAP`]: a storm is not to cost a CPU on a node where passes are long.
const UNDERLAY_REST: u32 = 10;
/// Most time between two passes: whatever no message told of is found then.
const PERIOD: Duration = Duration::from_secs(30);
/// First and longest wait after a pass in which the kernel refused something.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), PERIOD);
/// How often the loop shows that it is alive, and looks for what the kernel tells nobody: changed sysctls and pins.
const GLANCE: Duration = Duration::from_secs(2);

/// What the loop knows, for everybody else.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The cluster that the last pass used; `None` before the first list.
    pub cluster: Option<Arc<Cluster>>,
    /// The last pass; `None` before the first list.
    pub pass: Option<Arc<Pass>>,
    /// What keeps the plugin and its configuration from being installed, after the last pass that was in sync.
    pub installation: Option<Vec<Problem>>,
    /// The loop was alive at this time.
    pub alive: Instant,
    /// Everything essential was in the kernel at this time.
    pub in_sync: Option<Instant>,
}

impl Snapshot {
    /// Before anything happened.
    pub fn at_start() -> Self {
        Self { cluster: None, pass: None, installation: None, alive: Instant::now(), in_sync: None }
    }
}

/// How long packets may leave past `weft0` after somebody last looked at the routes below: an agent that has ended follows none.
const LEASE: Duration = Duration::from_secs(10);

/// Asks the loop to compare now, without changing anything.
#[derive(Debug)]
pub struct Question(pub oneshot::Sender<Result<Comparison, Blocked>>);

/// What follows a pass.
pub trait AfterPass {
    /// Installs what pods need, once the kernel is in sync. What is in the way is returned.
    fn in_sync(&mut self, comparison: &Comparison) -> Vec<Problem>;
    /// Counts.
    fn passed(&mut self, pass: &Pass, took: Duration);
}

/// The loop. Ends only when the watch of the API server has ended.
pub async fn run<K: Kernel, R: Records>(
    mut reconciler: Reconciler<'_, K, R>,
    mut cluster: watch::Receiver<Option<Arc<Cluster>>>,
    mut disturbances: impl Stream<Item = Disturbance> + Unpin,
    mut questions: mpsc::Receiver<Question>,
    snapshot: watch::Sender<Snapshot>,
    mut after: impl AfterPass,
) {
    let mut due: Option<Instant> = None;
    let mut retry = RETRY.0;
    let mut last = LastPass { ended: Instant::now(), took: Duration::ZERO };
    let mut disturbances_ended = false;
    let mut follows_the_routes = false;
    let mut glance = Instant::now() + GLANCE;
    loop {
        tokio::select! {
            changed = cluster.changed() => {
                if changed.is_err() {
                    return;
                }
                due = earlier(due, Instant::now() + BATCH);
            }
            disturbance = disturbances.next(), if !disturbances_ended => {
                disturbances_ended = disturbance.is_none();
                due = disturbed(due, last, disturbance.unwrap_or(Disturbance::Other));
            }
            Some(Question(answer)) = questions.recv() => {
                let now = cluster.borrow().clone();
                let compared = match now {
                    Some(cluster) => reconciler.compare(&cluster).await,
                    None => Err(Blocked { reasons: vec![not_listed()], others: Vec::new() }),
                };
                // Whoever asked may have gone.
                let _ = answer.send(compared);
            }
            () = sleep_until(glance) => {
                glance = Instant::now() + GLANCE;
                snapshot.send_modify(|snapshot| snapshot.alive = Instant::now());
                if follows_the_routes {
                    reconciler.lease_fast_path(LEASE);
                }
                if due.is_some() && reconciler.changed_silently() {
                    due = disturbed(due, last, Disturbance::Other);
                }
            }
            () = sleep_until(due.unwrap_or(glance)), if due.is_some() => {
                let now = cluster.borrow_and_update().clone();
                // A pass is due only after the first list.
                let Some(cluster) = now else {
                    due = None;
                    continue;
                };
                let began = Instant::now();
                let pass = reconciler.pass(&cluster).await;
                last = LastPass { ended: Instant::now(), took: began.elapsed() };
                after.passed(&pass, last.took);
                follows_the_routes = pass.follows_the_routes();
                if follows_the_routes {
                    reconciler.lease_fast_path(LEASE);
                }
                let failed = pass.comparison.is_err() || !pass.failures.is_empty();
                due = Some(last.ended + if failed { retry } else { PERIOD });
                retry = if failed { (retry * 2).min(RETRY.1) } else { RETRY.0 };
                publish(&snapshot, cluster, pass, &mut after);
            }
        }
    }
}

/// The problem of a node whose agent has not heard of the cluster yet.
pub fn not_listed() -> Problem {
    Problem::new(
        "API server",
        "the nodes have not been listed since the agent started; what is in the kernel stays as it is",
        "see the agent's log and `weft status` for why the API server does not answer",
    )
}

fn publish(snapshot: &watch::Sender<Snapshot>, cluster: Arc<Cluster>, pass: Pass, after: &mut impl AfterPass) {
    let installation = match &pass.comparison {
        Ok(comparison) if pass.is_in_sync() => Some(after.in_sync(comparison)),
        _ => None,
    };
    let now = Instant::now();
    snapshot.send_modify(|snapshot| {
        snapshot.alive = now;
        if installation.is_some() {
            snapshot.in_sync = Some(now);
            snapshot.installation = installation;
        }
        snapshot.cluster = Some(cluster);
        snapshot.pass = Some(Arc::new(pass));
    });
}

/// When the last pass ended, and what it took.
#[derive(Clone, Copy)]
struct LastPass {
    ended: Instant,
    took: Duration,
}

/// When to look at a kernel that somebody disturbed. Before the first list there is nothing to bring it to.
fn disturbed(due: Option<Instant>, last: LastPass, disturbance: Disturbance) -> Option<Instant> {
    let now = Instant::now();
    let look = match disturbance {
        Disturbance::Other => (now + SETTLE).max(last.ended + GAP),
        Disturbance::Underlay => now.max(last.ended + (last.took * UNDERLAY_REST).clamp(UNDERLAY_GAP, GAP)),
    };
    due.map(|due| due.min(look))
}

fn earlier(due: Option<Instant>, new: Instant) -> Option<Instant> {
    Some(due.map_or(new, |due| due.min(new)))
}
