//! One pass: look at the kernel, compare it with what should be there, bring it there. [`super::driver`] decides when.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::desired::{desired, too_small};
use super::diff::diff;
use super::plan::{Blocked, Plan, plan};
use super::pod_devices::Records;
use super::state::{Change, OverlayState, Underlay};
use super::sysctls;
use crate::datapath::{Kernel, KernelError};
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;

/// Changes of one pass that are logged one by one; more are counted.
const LOGGED_ONE_BY_ONE: usize = 20;

/// Brings the kernel of one node to the desired state, again and again.
pub struct Reconciler<'k, K, R> {
    kernel: &'k K,
    records: R,
    node: String,
    /// The state that a pass brought about without a failure: what differs from it later was changed by somebody else.
    achieved: Option<OverlayState>,
    /// What is logged already, so that a retry is not logged again.
    known_failures: BTreeMap<String, String>,
    known_problems: Vec<Problem>,
}

/// What should be there beside what is there.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// How this node reaches the others.
    pub plan: Plan,
    /// The device below the overlay.
    pub underlay: Underlay,
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
}

impl<'k, K: Kernel, R: Records> Reconciler<'k, K, R> {
    /// A reconciler that knows nothing of the past.
    pub fn new(kernel: &'k K, records: R, node: String) -> Self {
        Self { kernel, records, node, achieved: None, known_failures: BTreeMap::new(), known_problems: Vec::new() }
    }

    /// What should be there beside what is there, without changing anything.
    pub async fn compare(&self, cluster: &Cluster) -> Result<Comparison, Blocked> {
        let plan = plan(cluster, &self.node)?;
        let underlay = self.kernel.underlay(&plan.internal_ips).await.map_err(|error| {
            blocked(
                &plan,
                &error,
                "give a device of this node the InternalIP of its Node, or correct --node-ip of its kubelet",
            )
        })?;
        if let Some(problem) = too_small(&plan, &underlay) {
            return Err(Blocked { reasons: vec![problem], others: plan.problems.clone() });
        }
        let observed = self
            .kernel
            .observe(&sysctls::watched(&underlay.device))
            .await
            .map_err(|error| blocked(&plan, &error, "see the reason; the agent tries again"))?;
        let pods = self.records.read();
        let desired = desired(&plan, &underlay, &pods.names, &observed.sysctls);
        let mut problems = plan.problems.clone();
        problems.extend(pods.problems);
        Ok(Comparison { plan, underlay, desired, observed, problems })
    }

    /// One pass.
    pub async fn pass(&mut self, cluster: &Cluster) -> Pass {
        let comparison = match self.compare(cluster).await {
            Ok(comparison) => Arc::new(comparison),
            Err(blocked) => {
                self.log_problems(&[blocked.reasons.as_slice(), &blocked.others].concat());
                return Pass {
                    comparison: Err(blocked),
                    applied: Vec::new(),
                    repaired: Vec::new(),
                    failures: Vec::new(),
                };
            }
        };
        self.log_problems(&comparison.problems);
        let changes = diff(&comparison.desired, &comparison.observed);
        let repairs = match &self.achieved {
            Some(achieved) if !changes.is_empty() => diff(achieved, &comparison.observed),
            _ => Vec::new(),
        };
        let (applied, failures) = self.apply(&changes, &comparison.plan).await;
        if failures.is_empty() {
            self.achieved = Some(comparison.desired.clone());
        }
        let repaired: Vec<Change> = applied.iter().filter(|change| repairs.contains(change)).cloned().collect();
        log_applied(&applied, &repaired);
        self.log_failures(&failures);
        Pass { comparison: Ok(comparison), applied, repaired, failures }
    }

    async fn apply(&self, changes: &[Change], plan: &Plan) -> (Vec<Change>, Vec<Failure>) {
        let (mut applied, mut failures) = (Vec::new(), Vec::new());
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
                    failures.push(Failure {
                        kind: change.kind(),
                        object: change.object(),
                        reason: error.to_string(),
                        essential: change.is_essential(plan),
                    });
                }
            }
        }
        (applied, failures)
    }

    /// A pod's device can go between our look and our change.
    fn is_of_a_pod_that_ended(&self, change: &Change) -> bool {
        match change {
            Change::SetFilter(place, _) if !change.needs_device() => !self.records.read().names.contains(&place.device),
            _ => false,
        }
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

fn blocked(plan: &Plan, error: &KernelError, next_step: &str) -> Blocked {
    let reason = Problem::new(error.object.clone(), error.to_string(), next_step);
    Blocked { reasons: vec![reason], others: plan.problems.clone() }
}

fn log_applied(applied: &[Change], repairs: &[Change]) {
    for change in applied.iter().take(LOGGED_ONE_BY_ONE) {
        if repairs.contains(change) {
            warn!(object = change.object(), change = %change, "somebody else changed it; repaired");
        } else {
            info!(object = change.object(), change = %change, "applied");
        }
    }
    if applied.len() > LOGGED_ONE_BY_ONE {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for change in &applied[LOGGED_ONE_BY_ONE..] {
            *counts.entry(change.kind()).or_default() += 1;
            debug!(object = change.object(), change = %change, "applied");
        }
        info!(changes = ?counts, "applied more changes");
    }
}
