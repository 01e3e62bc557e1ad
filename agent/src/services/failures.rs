//! Writes that the kernel refused, by what they were for, in words. Each is logged once, however often it is tried.

use std::collections::{BTreeMap, HashMap};

use tracing::{info, warn};
use weft_common::address::from_bytes;

use super::desired::Desired;
use super::state::Write;
use crate::datapath::KernelError;
use crate::model::problem::Problem;

/// All that is refused now.
#[derive(Debug, Default)]
pub struct Failures {
    /// By object and map.
    known: BTreeMap<(String, &'static str), Failure>,
    /// What fails in the pass that is under way.
    new: BTreeMap<(String, &'static str), Failure>,
}

#[derive(Debug)]
struct Failure {
    writes: usize,
    reason: String,
}

impl Failures {
    /// Takes note of what a call of `write` could not do.
    pub fn note(&mut self, failed: &[(&Write, &KernelError)], desired: &Desired) {
        if failed.is_empty() {
            return;
        }
        let owners: HashMap<u64, u64> = desired
            .ports
            .iter()
            .flat_map(|(id, port)| [(port.cluster.generation, *id), (port.local.generation, *id)])
            .collect();
        for (write, error) in failed {
            let object = object(write, desired, &owners);
            let failure = self
                .new
                .entry((object, map(write)))
                .or_insert_with(|| Failure { writes: 0, reason: error.to_string() });
            failure.writes += 1;
        }
    }

    /// Takes note of sockets that could not be ended.
    pub fn note_sockets(&mut self, error: &KernelError) {
        let failure = Failure { writes: 1, reason: error.to_string() };
        self.new.insert(("UDP sockets of this node".to_owned(), SOCKETS), failure);
    }

    /// Ends a pass, and logs what is new. `all`: it tried everything, so what did not fail now is over.
    pub fn end_pass(&mut self, all: bool) {
        for ((object, map), failure) in &self.new {
            if !self.known.contains_key(&(object.clone(), map)) {
                let Failure { writes, reason, .. } = failure;
                warn!(
                    object,
                    map, writes, reason, "the kernel refused a write for Services; it is tried again until it succeeds"
                );
            }
        }
        if all {
            for (object, map) in self.known.keys().filter(|key| !self.new.contains_key(*key)) {
                info!(object, map, "a write for Services that the kernel had refused is no longer missing");
            }
            self.known.clear();
        }
        self.known.append(&mut self.new);
    }

    /// Nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.new.is_empty()
    }

    /// In words for people.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.known.iter().map(|((object, map), failure)| problem(object, map, failure))
    }
}

const SOCKETS: &str = "sockets";

fn problem(object: &str, map: &str, failure: &Failure) -> Problem {
    let Failure { writes, reason } = failure;
    if map == SOCKETS {
        return Problem::new(
            object,
            format!("those whose backend has left could not be ended: {reason}"),
            "the agent tries again; a process that keeps its socket must dial anew",
        );
    }
    Problem::new(
        object,
        format!("{writes} writes to the map {map} are missing, so it stays as it was before its last change: {reason}"),
        "see the reason; the agent tries again until nothing is missing",
    )
}

/// The name of the map that a write is for.
pub const fn map(write: &Write) -> &'static str {
    match write {
        Write::SetBackend(..) | Write::RemoveBackend(_) => "BACKENDS",
        Write::SetServing(..) | Write::RemoveServing(_) => "SERVING",
        Write::SetService(..) | Write::RemoveService(_) => "SERVICES",
        Write::SetSourceRange(_) | Write::RemoveSourceRange(_) => "SOURCE_RANGES",
        Write::SetFrontend(..) | Write::RemoveFrontend(_) => "FRONTENDS",
        Write::SetServiceCidr(_) | Write::RemoveServiceCidr(_) => "SERVICE_CIDRS",
        Write::SetConfig(_) => "SERVICES_CONFIG",
    }
}

/// What a write is for, in the words of the API where it has some.
pub fn object(write: &Write, desired: &Desired, owners: &HashMap<u64, u64>) -> String {
    let port = |id: u64| match desired.ports.get(&id) {
        Some(port) => format!("Service {}", port.name.service),
        None => "a Service that is gone".to_owned(),
    };
    match write {
        Write::SetBackend(key, _) => owners.get(&key.generation).map_or_else(|| port(0), |id| port(*id)),
        Write::RemoveBackend(_) => "backends that no Service has any more".to_owned(),
        Write::SetServing(key, _) | Write::RemoveServing(key) => port(key.service),
        Write::SetService(id, _) | Write::RemoveService(id) => port(*id),
        Write::SetSourceRange(range) | Write::RemoveSourceRange(range) => port(u64::from_ne_bytes(range.key.service)),
        Write::SetFrontend(key, _) => match desired.claims.owner(key) {
            Some((claimant, _)) => format!("Service {}", claimant.service),
            None => port(0),
        },
        Write::RemoveFrontend(key) => format!("the former service address {}", from_bytes(key.address)),
        Write::SetServiceCidr(range) | Write::RemoveServiceCidr(range) => format!("ServiceCIDR {range}"),
        Write::SetConfig(_) => "this node".to_owned(),
    }
}
