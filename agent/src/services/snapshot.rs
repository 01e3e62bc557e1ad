//! What the services loop tells others: what it knows, what a pass did, and answers to questions.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::plan::ServicePlan;
use crate::model::problem::Problem;
use crate::model::services::ObjectName;

/// What the loop knows, for everybody else.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The loop was alive at this time.
    pub alive: Instant,
    /// The first pass was over at this time: what the kernel takes of the Services is in the maps since then. `None`: not yet since the
    /// agent started.
    pub filled: Option<Instant>,
    /// All that was wanted was in the maps at this time. `None`: not yet since the agent started.
    pub synced: Option<Instant>,
    /// Since when a change has waited to be in the maps; `None`: none does.
    pub pending_since: Option<Instant>,
    /// How many there are.
    pub counts: Counts,
    /// How many entries the maps have; `None`: they have not been read.
    pub entries: Option<MapEntries>,
    /// What is wrong: with Services, with writes that the kernel refused, with entries that somebody keeps changing.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// Before anything happened.
    pub fn at_start() -> Self {
        Self {
            alive: Instant::now(),
            filled: None,
            synced: None,
            pending_since: None,
            counts: Counts::default(),
            entries: None,
            problems: Vec::new(),
        }
    }
}

/// How many entries each map has that can be full, by its name.
pub type MapEntries = [(&'static str, usize); 5];

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services that are ours to serve.
    pub services: usize,
    /// Their ports, once for each family.
    pub ports: usize,
    /// Addresses and ports that clients may dial.
    pub frontends: usize,
    /// Backends of all ports.
    pub backends: usize,
}

/// Asks the loop what becomes of Services, without changing anything.
#[derive(Debug)]
pub struct Question {
    /// Of which.
    pub which: Which,
    /// For the answer: by name, or why nothing can be said yet.
    pub answer: oneshot::Sender<Result<Vec<ServicePlan>, Vec<Problem>>>,
}

/// The Services that somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All. Their endpoints are not told.
    All,
    /// Those of this name, in this namespace or in any. Their endpoints are told.
    Named {
        /// The namespace; `None`: any.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
}

impl Which {
    /// From what somebody typed: NAME or NAMESPACE/NAME.
    pub fn parse(text: &str) -> Self {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text),
        };
        Self::Named { namespace, name: name.to_owned() }
    }

    /// Whether a Service is meant.
    pub fn means(&self, service: &ObjectName) -> bool {
        match self {
            Self::All => true,
            Self::Named { namespace, name } => {
                *name == service.name && namespace.as_ref().is_none_or(|namespace| *namespace == service.namespace)
            }
        }
    }
}

/// What a pass did.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// Ports of Services that were computed anew.
    pub planned: usize,
    /// Writes that were made.
    pub writes: usize,
    /// Writes that the kernel refused. They are tried again.
    pub failed: usize,
    /// Those of the writes that put back what somebody else had changed.
    pub repaired: usize,
    /// How long it took.
    pub took: Duration,
    /// For every change of endpoints that is now in the maps: how long ago it was triggered, in seconds.
    pub programmed: Vec<f64>,
    /// Connected UDP sockets of the host's namespace that were ended, because their backend has left.
    pub ended_sockets: usize,
}

/// What follows a pass.
pub trait AfterPass {
    /// Counts.
    fn passed(&mut self, pass: &Passed);
}

/// How the socket hooks of this node are set up: part of SERVICES_CONFIG.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSockets {
    /// Cookie of the host's network namespace; 0: that of the initial one.
    pub namespace: u64,
    /// Flags of [`weft_common::services::ServicesConfig`].
    pub flags: u32,
}
