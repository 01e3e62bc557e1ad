//! One pass: look at the kernel, compare it with what should be there, bring it there. [`super::driver`] decides when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use weft_common::layout::OVERLAY_DEVICE;

use super::change::SET_NODE;
use super::desired::{desired, pod_mtu, too_small};
use super::diff::diff;
use super::plan::{Blocked, Plan, plan};
use super::pod_devices::{PodDevices, Records};
use super::pods;
use super::repairs::Repairs;
use super::state::{Change, FilterProgram, OverlayState, Underlay};
use super::way::{self, FastPath, Paths, Ways};
use super::{sysctls, underlay};
use crate::datapath::{Kernel, KernelError, Watched};
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;

/// Changes of one pass that are logged one by one; more are counted.
const LOGGED_ONE_BY_ONE: usize = 20;
/// What to do where the kernel did not tell what is there.
const TRY_AGAIN: &str = "see the reason; the agent tries again";

/// Brings the kernel of one node to the desired state, again and again.
pub struct Reconciler<'k, K, R> {
    kernel: &'k K,
    records: R,
    node: String,
    fast_path: FastPath,
    /// The state that a pass brought about without a failure: what differs from it later was changed by somebody else.
    achieved: Option<OverlayState>,
    repairs: Repairs,
    /// What is logged already, so that a retry is not logged again.
    known_failures: BTreeMap<String, String>,
    known_problems: Vec<Problem>,
    known_ways: BTreeMap<String, usize>,
}

/// What should be there beside what is there.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// How this node reaches the others.
    pub plan: Plan,
    /// The device below the overlay.
    pub underlay: Underlay,
    /// Which way packets take to each peer.
    pub ways: Ways,
    /// What should be there.
    pub desired: OverlayState,
    /// What is there.
    pub observed: OverlayState,
    /// What is wrong without being in the way.
    pub problems: Vec<Problem>,
}

/// A change that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of change.
    pub kind: &'static str,
    /// The object in the kernel.
    pub object: String,
    /// The kernel's words.
    pub reason: String,
    /// This node cannot work without it.
    pub essential: bool,
}

/// What a pass found and did.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The comparison that it began with, or what kept it from one.
    pub comparison: Result<Arc<Comparison>, Blocked>,
    /// Changes that were made.
    pub applied: Vec<Change>,
    /// Those of them that put back what somebody else had changed.
    pub repaired: Vec<Change>,
    /// Changes that were refused. They are tried again in the next pass.
    pub failures: Vec<Failure>,
}

impl Pass {
    /// Everything that this node cannot work without is in the kernel.
    pub fn is_in_sync(&self) -> bool {
        self.comparison.is_ok() && !self.failures.iter().any(|failure| failure.essential)
    }

    /// The map says for every peer what the kernel said of the way to it.
    pub fn follows_the_routes(&self) -> bool {
        self.comparison.is_ok() && !self.failures.iter().any(|failure| failure.kind == SET_NODE)
    }
}

impl<'k, K: Kernel, R: Records> Reconciler<'k, K, R> {
    /// A reconciler that knows nothing of the past.
    pub fn new(kernel: &'k K, records: R, node: String, fast_path: FastPath) -> Self {
        Self {
            kernel,
            records,
            node,
            fast_path,
            achieved: None,
            repairs: Repairs::default(),
            known_failures: BTreeMap::new(),
            known_problems: Vec::new(),
            known_ways: BTreeMap::new(),
        }
    }

    /// What should be there beside what is there, without changing anything.
    pub async fn compare(&self, cluster: &Cluster) -> Result<Comparison, Blocked> {
        let plan = plan(cluster, &self.node)?;
        let (plan, underlay) = underlay::settle(self.kernel, cluster, plan).await?;
        if let Some(problem) = too_small(&plan, &underlay) {
            return Err(Blocked { reasons: vec![problem], others: plan.problems.clone() });
        }
        let ways = self.ways(&plan, &underlay).await?;
        let pods = self.records.read();
        let sysctls = sysctls::watched(&underlay.device);
        let watched = Watched { sysctls: &sysctls, pods: &pods.interfaces };
        let observed = self.kernel.observe(&watched).await;
        let observed = observed.map_err(|error| blocked(&plan, &error, TRY_AGAIN))?;
        let desired = desired(&plan, &underlay, &ways, &pods, &observed);
        let mut problems = plan.problems.clone();
        problems.extend(self.lost_devices(&pods, &observed));
        problems.extend(pods.problems);
        problems.extend(self.repairs.fights(Instant::now()));
        Ok(Comparison { plan, underlay, ways, desired, observed, problems })
    }

    /// Which way packets take to each peer.
    async fn ways(&self, plan: &Plan, underlay: &Underlay) -> Result<Ways, Blocked> {
        let paths = match &self.fast_path {
            FastPath::Allowed => self.kernel.paths(&plan.internal_ips, &way::tunnels(plan)).await,
            // There is nothing to choose.
            FastPath::SwitchedOff | FastPath::Unsupported(_) => Ok(Paths::default()),
        };
        let paths = paths.map_err(|error| blocked(plan, &error, TRY_AGAIN))?;
        Ok(way::ways(plan, pod_mtu(plan, underlay), &self.fast_path, &paths))
    }

    /// Pods that have lost their device.
    fn lost_devices(&self, pods: &PodDevices, observed: &OverlayState) -> Vec<Problem> {
        let mut lost: Vec<_> =
            pods.interfaces.iter().filter(|(device, _)| !observed.pods.devices.contains_key(*device)).collect();
        if !lost.is_empty() {
            // DEL takes the record away before the device: perhaps it has just come.
            let now = self.records.read().interfaces;
            lost.retain(|(device, interface)| now.get(*device) == Some(*interface));
        }
        lost.into_iter().map(|(device, interface)| pods::lost(device, interface)).collect()
    }

    /// Whether a pass may find something changed of which the kernel tells nobody.
    pub fn changed_silently(&self) -> bool {
        self.kernel.changed_silently()
    }

    /// Lets packets leave past `weft0` for this long. Without it they go by `weft0`, which needs nobody.
    pub fn lease_fast_path(&self, span: Duration) {
        if let Err(error) = self.kernel.lease_fast_path(span) {
            warn!(object = error.object, reason = %error, "packets go by {OVERLAY_DEVICE} until the lease of the fast path can be written");
        }
    }

    /// One pass.
    pub async fn pass(&mut self, cluster: &Cluster) -> Pass {
        let (mut applied, mut failures) = (Vec::new(), Vec::new());
        let compared = match self.compare(cluster).await {
            Ok(comparison) => self.with_lock(cluster, comparison, &mut applied, &mut failures).await,
            Err(blocked) => Err(blocked),
        };
        let comparison = match compared {
            Ok(comparison) => Arc::new(comparison),
            Err(blocked) => {
                self.log_problems(&[blocked.reasons.as_slice(), &blocked.others].concat());
                return Pass { comparison: Err(blocked), applied, repaired: Vec::new(), failures };
            }
        };
        let changes = diff(&comparison.desired, &comparison.observed);
        let repairs = match &self.achieved {
            Some(achieved) if !changes.is_empty() => diff(achieved, &comparison.observed),
            _ => Vec::new(),
        };
        // Another layout's program finds pods in its own map. Ours must not take its place before they are all in the new one.
        let lacks_endpoints = !failures.is_empty();
        let is_too_early = |change: &Change| lacks_endpoints && replaces_program(change, &comparison.observed);
        let rest: Vec<Change> =
            changes.into_iter().filter(|change| !change.needs_lock() && !is_too_early(change)).collect();
        self.apply(&rest, &comparison.plan, &mut applied, &mut failures).await;
        // What the plugin made is never new to us: a change of it puts right what somebody else did.
        let is_repair = |change: &&Change| {
            self.achieved.is_some() && (repairs.contains(change) || matches!(change, Change::Pod(_)))
        };
        let repaired: Vec<Change> = applied.iter().filter(is_repair).cloned().collect();
        if failures.is_empty() {
            self.achieved = Some(comparison.desired.clone());
        }
        log_applied(&applied, &repaired);
        self.repairs.note(&repaired, &comparison.observed, Instant::now());
        self.log_ways(&comparison.ways);
        self.log_problems(&comparison.problems);
        self.log_failures(&failures);
        Pass { comparison: Ok(comparison), applied, repaired, failures }
    }

    /// Makes the changes of a comparison that may be made only under the allocation lock. What was seen without it may be an ADD
    /// or DEL half way, so everything is compared again under it.
    async fn with_lock(
        &mut self,
        cluster: &Cluster,
        seen: Comparison,
        applied: &mut Vec<Change>,
        failures: &mut Vec<Failure>,
    ) -> Result<Comparison, Blocked> {
        let needs_lock = |comparison: &Comparison| {
            let mut changes = diff(&comparison.desired, &comparison.observed);
            changes.retain(Change::needs_lock);
            changes
        };
        let Some(first) = needs_lock(&seen).into_iter().next() else { return Ok(seen) };
        let _lock = match self.records.lock().await {
            Ok(lock) => lock,
            Err(error) => {
                failures.push(failure(&first, &error, &seen.plan));
                return Ok(seen);
            }
        };
        let comparison = self.compare(cluster).await?;
        self.apply(&needs_lock(&comparison), &comparison.plan, applied, failures).await;
        Ok(comparison)
    }

    async fn apply(&self, changes: &[Change], plan: &Plan, applied: &mut Vec<Change>, failures: &mut Vec<Failure>) {
        let mut device_missing = false;
        for change in changes {
            // One failure with its reason says more than a hundred that follow from it.
            if device_missing && change.needs_device() {
                continue;
            }
            match self.kernel.apply(change).await {
                Ok(()) => applied.push(change.clone()),
                Err(_) if self.is_of_a_pod_that_ended(change) => {}
                Err(error) => {
                    device_missing |= matches!(change, Change::CreateDevice(_));
                    failures.push(failure(change, &error, plan));
                }
            }
        }
    }

    /// A pod's device can go between our look and our change.
    fn is_of_a_pod_that_ended(&self, change: &Change) -> bool {
        let Some((device, index)) = change.pod_device() else { return false };
        let recorded = || Some(self.records.read().interfaces.get(device)?.index);
        !index.or_else(recorded).is_some_and(|index| self.records.exists(device, index))
    }

    fn log_problems(&mut self, problems: &[Problem]) {
        for problem in problems.iter().filter(|problem| !self.known_problems.contains(problem)) {
            warn!(object = problem.object, reason = problem.reason, next_step = problem.next_step, "problem");
        }
        for problem in self.known_problems.iter().filter(|problem| !problems.contains(problem)) {
            info!(object = problem.object, reason = problem.reason, "problem is solved");
        }
        self.known_problems = problems.to_vec();
    }

    fn log_ways(&mut self, ways: &Ways) {
        let now = ways.summary();
        if now != self.known_ways {
            let peers: Vec<_> = now.iter().map(|(way, count)| format!("{count} {way}")).collect();
            info!(peers = peers.join("; "), "ways to other nodes");
        }
        self.known_ways = now;
    }

    fn log_failures(&mut self, failures: &[Failure]) {
        let now: BTreeMap<_, _> =
            failures.iter().map(|failure| (failure.object.clone(), failure.reason.clone())).collect();
        for (object, reason) in now.iter().filter(|(object, reason)| self.known_failures.get(*object) != Some(reason)) {
            warn!(object, reason, "the kernel refused a change; it is tried again until it succeeds");
        }
        for object in self.known_failures.keys().filter(|object| !now.contains_key(*object)) {
            info!(object, "a change that the kernel had refused is no longer missing");
        }
        self.known_failures = now;
    }
}

/// Whether a change puts our program in the place of another one that runs now, or before it.
fn replaces_program(change: &Change, observed: &OverlayState) -> bool {
    match change {
        Change::SetFilter(place, _) => observed.filters.get(place) == Some(&FilterProgram::Other),
        // Packets that it takes never come to the program of weft0.
        Change::SetUnderlayFilter(_) => true,
        _ => false,
    }
}

fn blocked(plan: &Plan, error: &KernelError, next_step: &str) -> Blocked {
    let reason = Problem::new(error.object.clone(), error.to_string(), next_step);
    Blocked { reasons: vec![reason], others: plan.problems.clone() }
}

fn failure(change: &Change, error: &dyn std::error::Error, plan: &Plan) -> Failure {
    Failure {
        kind: change.kind(),
        object: change.object(),
        reason: error.to_string(),
        essential: change.is_essential(plan),
    }
}

/// Logs changes that are no repairs.
fn log_applied(applied: &[Change], repaired: &[Change]) {
    let new: Vec<&Change> = applied.iter().filter(|change| !repaired.contains(change)).collect();
    for change in new.iter().take(LOGGED_ONE_BY_ONE) {
        info!(object = change.object(), change = %change, "applied");
    }
    if new.len() > LOGGED_ONE_BY_ONE {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for change in &new[LOGGED_ONE_BY_ONE..] {
            *counts.entry(change.kind()).or_default() += 1;
            debug!(object = change.object(), change = %change, "applied");
        }
        info!(changes = ?counts, "applied more changes");
    }
}
