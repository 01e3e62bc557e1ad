//! When a pass of [`super::programmer`] runs: objects or nodes changed, something that was refused is to be tried again, backends that
//! nobody has are to go, or a minute went by. One task; others get snapshots.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::programmer::Programmer;
use super::repairs::Repairs;
use super::snapshot::{AfterPass, Passed, Question, Snapshot};
use crate::datapath::ServiceMaps;
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;
use crate::model::services::ServiceEvent;

/// Changes come in bunches: one pass for all that come in this time.
const BATCH: Duration = Duration::from_millis(5);
/// Events that are taken at once, so that a flood of them does not keep passes away.
const AT_ONCE: usize = 4096;
/// First and longest wait before what was refused is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often the maps are read and compared with what was written.
const CHECK: Duration = Duration::from_secs(60);
/// How often the loop shows that it is alive.
const GLANCE: Duration = Duration::from_secs(2);

/// The loop. Ends only when the watch of the API server has ended.
pub async fn run<M: ServiceMaps>(
    programmer: Programmer<'_, M>,
    mut events: mpsc::Receiver<ServiceEvent>,
    mut cluster: watch::Receiver<Option<Arc<Cluster>>>,
    mut questions: mpsc::Receiver<Question>,
    snapshot: watch::Sender<Snapshot>,
    after: impl AfterPass,
) {
    let mut state = Loop::new(programmer, snapshot, after);
    state.take_cluster(&mut cluster);
    let mut taken = Vec::new();
    let mut glance = Instant::now() + GLANCE;
    loop {
        let next = state.next();
        tokio::select! {
            count = events.recv_many(&mut taken, AT_ONCE) => {
                if count == 0 {
                    return;
                }
                for event in taken.drain(..) {
                    let news = state.programmer.take(event);
                    state.changed(news);
                }
            }
            changed = cluster.changed() => {
                if changed.is_err() {
                    return;
                }
                state.take_cluster(&mut cluster);
            }
            Some(Question { which, answer }) = questions.recv() => {
                // Whoever asked may have gone.
                let _ = answer.send(state.programmer.explain(&which));
            }
            () = sleep_until(glance) => {
                glance = Instant::now() + GLANCE;
                state.snapshot.send_modify(|snapshot| snapshot.alive = Instant::now());
            }
            () = sleep_until(next.unwrap_or(glance)), if next.is_some() => state.turn(),
        }
    }
}

struct Loop<'k, M, A> {
    programmer: Programmer<'k, M>,
    snapshot: watch::Sender<Snapshot>,
    after: A,
    repairs: Repairs,
    /// Why the maps could not be read.
    unread: Option<Problem>,
    /// When the first pass was over.
    filled: Option<Instant>,
    /// When changes are to be written.
    due: Option<Instant>,
    /// When what was refused is tried again.
    retry: Option<Instant>,
    wait: Duration,
    check: Instant,
    pending_since: Option<Instant>,
    /// The wall clock when the loop began, in seconds since 1970: nobody waited for this agent with changes from before.
    began: f64,
}

impl<'k, M: ServiceMaps, A: AfterPass> Loop<'k, M, A> {
    fn new(programmer: Programmer<'k, M>, snapshot: watch::Sender<Snapshot>, after: A) -> Self {
        Self {
            programmer,
            snapshot,
            after,
            repairs: Repairs::default(),
            unread: None,
            filled: None,
            due: None,
            retry: None,
            wait: RETRY.0,
            check: Instant::now() + CHECK,
            pending_since: None,
            began: wall_clock(),
        }
    }

    fn take_cluster(&mut self, cluster: &mut watch::Receiver<Option<Arc<Cluster>>>) {
        let now = cluster.borrow_and_update().clone();
        if let Some(cluster) = now {
            let news = self.programmer.take_cluster(&cluster);
            self.changed(news);
        }
    }

    fn changed(&mut self, news: bool) {
        if news {
            let now = Instant::now();
            self.due.get_or_insert(now + BATCH);
            if self.pending_since.replace(self.pending_since.unwrap_or(now)).is_none() {
                self.snapshot.send_modify(|snapshot| snapshot.pending_since = Some(now));
            }
        }
    }

    /// When there is something to do.
    fn next(&self) -> Option<Instant> {
        if self.programmer.ready().is_err() {
            return None;
        }
        let removal = self.programmer.next_removal();
        [self.due, self.retry, removal, Some(self.check)].into_iter().flatten().min()
    }

    /// Does what is due.
    fn turn(&mut self) {
        let began = Instant::now();
        let tries_again = self.retry.is_some_and(|at| at <= began);
        let damaged = began >= self.check && self.check_maps(began);
        let outcome = self.programmer.pass(tries_again, began);
        self.due = None;
        let (mut passed, triggered) = match outcome {
            Ok(done) => {
                self.unread = None;
                self.filled.get_or_insert_with(Instant::now);
                done
            }
            Err(error) => {
                self.not_read(&error);
                (Passed::default(), Vec::new())
            }
        };
        let (now, wall) = (Instant::now(), wall_clock());
        passed.took = now - began;
        passed.repaired = if damaged { passed.writes } else { 0 };
        passed.programmed =
            triggered.into_iter().filter(|at| *at >= self.began).map(|at| (wall - at).max(0.0)).collect();
        self.plan_retry(tries_again, now);
        if passed.planned + passed.writes + passed.failed + passed.ended_sockets > 0 {
            self.after.passed(&passed);
        }
        self.publish(now);
    }

    fn plan_retry(&mut self, tried: bool, now: Instant) {
        if !self.programmer.must_retry() && self.unread.is_none() {
            (self.retry, self.wait) = (None, RETRY.0);
        } else if tried || self.retry.is_none() {
            self.retry = Some(now + self.wait);
            self.wait = (self.wait * 2).min(RETRY.1);
        }
    }

    /// Reads the maps while nothing else is to be done. Gives whether they differ from what was written.
    fn check_maps(&mut self, now: Instant) -> bool {
        self.check = now + CHECK;
        if !self.programmer.is_synced() {
            return false;
        }
        match self.programmer.look(now) {
            Ok(objects) => {
                self.unread = None;
                self.repairs.note(&objects, now);
                !objects.is_empty()
            }
            Err(error) => {
                self.not_read(&error);
                false
            }
        }
    }

    fn not_read(&mut self, error: &crate::datapath::KernelError) {
        let problem = Problem::new(error.object.clone(), error.to_string(), "see the reason; the agent tries again");
        if self.unread.replace(problem).is_none() {
            warn!(object = error.object, reason = %error, "the maps for Services cannot be read; the agent tries again");
        }
    }

    fn publish(&mut self, now: Instant) {
        let synced = self.programmer.is_synced();
        if synced {
            self.pending_since = None;
        }
        let (counts, entries) = (self.programmer.counts(), self.programmer.entries());
        let mut problems = self.programmer.problems();
        problems.extend(self.repairs.fights());
        problems.extend(self.unread.clone());
        let (pending_since, filled) = (self.pending_since, self.filled);
        self.snapshot.send_modify(|snapshot| {
            snapshot.alive = now;
            snapshot.pending_since = pending_since;
            snapshot.filled = filled;
            snapshot.counts = counts;
            snapshot.entries = entries;
            if synced {
                if snapshot.synced.is_none() {
                    info!(?counts, "all Services are in the maps");
                }
                snapshot.synced = Some(now);
            }
            if snapshot.problems != problems {
                for problem in problems.iter().filter(|problem| !snapshot.problems.contains(problem)) {
                    warn!(%problem, "a problem with Services");
                }
                snapshot.problems = problems;
            }
        });
    }
}

/// Seconds since 1970.
fn wall_clock() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
