//! Keeps the objects and what follows from them; one pass brings the maps there. [`super::driver`] decides when.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use tokio::time::Instant;

use super::desired::{Desired, DesiredPort, Touched};
use super::here::Here;
use super::identity::Hashes;
use super::snapshot::{Counts, HostSockets, MapEntries, Passed};
use super::store::Store;
use super::wanted;
use super::writer::{Counted, Writer};
use crate::datapath::{KernelError, ServiceMaps};
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;
use crate::model::services::{ObjectName, ServiceEvent};

/// So many ports are most of a cluster: after such a pass memory is tidied up.
const MANY: usize = 1000;

/// Brings the maps for Services of one node to the desired state, again and again.
pub struct Programmer<'k, M> {
    node: String,
    sockets: HostSockets,
    pub(super) store: Store,
    here: Option<Here>,
    pub(super) desired: Desired,
    writer: Writer<'k, M>,
    /// Services to be computed anew.
    dirty: BTreeSet<ObjectName>,
    /// To be compared in the next pass.
    due: Touched,
    /// Changes of endpoints that are not in the maps yet: when they were triggered.
    triggered: Vec<(ObjectName, f64)>,
    /// What is wrong with objects.
    problems: BTreeMap<ObjectName, Vec<Problem>>,
}

impl<'k, M: ServiceMaps> Programmer<'k, M> {
    /// A programmer that knows nothing yet.
    pub fn new(maps: &'k M, node: String, sockets: HostSockets) -> Self {
        Self::with_hashes(maps, node, sockets, Hashes::default())
    }

    /// The same with other ways to make numbers.
    pub fn with_hashes(maps: &'k M, node: String, sockets: HostSockets, hashes: Hashes) -> Self {
        Self {
            node,
            sockets,
            store: Store::default(),
            here: None,
            desired: Desired::with_hashes(hashes),
            writer: Writer::new(maps),
            dirty: BTreeSet::new(),
            due: Touched::default(),
            triggered: Vec::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Takes an event. Gives whether a pass has something to do for it.
    pub fn take(&mut self, event: ServiceEvent) -> bool {
        let was_complete = self.store.is_complete();
        let changed = self.store.take(event);
        let news = !changed.services.is_empty() || changed.cidrs || was_complete != self.store.is_complete();
        self.dirty.extend(changed.services);
        self.triggered.extend(changed.triggered);
        if changed.cidrs {
            self.desired.cidrs = self.store.cidrs();
            self.due.cidrs = true;
        }
        news
    }

    /// Takes the nodes. Gives whether a pass has something to do for it. A Node that is gone changes nothing: its pods may still run.
    pub fn take_cluster(&mut self, cluster: &Cluster) -> bool {
        let Some(here) = Here::of(cluster, &self.node) else { return false };
        let before = self.here.as_ref();
        if before == Some(&here) {
            return false;
        }
        let same_node = before.is_some_and(|now| (&now.zone, &now.addresses) == (&here.zone, &here.addresses));
        let same_pods = before.is_some_and(|now| now.pod_cidrs == here.pod_cidrs);
        let concerned = self.store.services().filter(|service| {
            let has_external = !service.external_ips.is_empty() || !service.load_balancer_ips.is_empty();
            !same_node || (!same_pods && has_external)
        });
        self.dirty.extend(concerned.map(|service| service.name.clone()));
        let config = here.config(self.sockets);
        if self.desired.config != Some(config) {
            self.desired.config = Some(config);
            self.due.config = true;
        }
        self.here = Some(here);
        true
    }

    /// This node, once all that is needed is known; else what is not, and what follows from that.
    pub fn ready(&self) -> Result<&Here, Vec<Problem>> {
        let mut missing: Vec<Problem> = self.store.missing().map(not_listed).collect();
        match &self.here {
            Some(here) if missing.is_empty() => Ok(here),
            Some(_) => Err(missing),
            None => {
                missing.push(Problem::of_node(
                    &self.node,
                    "the API server has not told of it yet; the maps for Services stay as they are",
                    "compare NODE_NAME of the agent with `kubectl get nodes`",
                ));
                Err(missing)
            }
        }
    }

    /// Something was refused and is to be tried again.
    pub fn must_retry(&self) -> bool {
        self.writer.must_retry()
    }

    /// Everything that is wanted is in the maps.
    pub fn is_synced(&self) -> bool {
        self.writer.has_read() && self.dirty.is_empty() && self.due.is_empty() && !self.must_retry()
    }

    /// When the next backends may be removed.
    pub fn next_removal(&self) -> Option<Instant> {
        self.writer.next_removal()
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let backends = |port: &DesiredPort| port.cluster.backends.len();
        Counts {
            services: self.store.len(),
            ports: self.desired.ports.len(),
            frontends: self.desired.claims.len(),
            backends: self.desired.ports.values().map(backends).sum(),
        }
    }

    /// How many entries each map has; `None`: the maps have not been read.
    pub fn entries(&self) -> Option<MapEntries> {
        self.writer.entries()
    }

    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        problems.extend(self.desired.problems());
        problems.extend(self.writer.failures().problems());
        problems.sort();
        problems.dedup();
        problems
    }

    /// One pass; with `retry`, also for all that was refused before. Before everything is known it does nothing. Gives what it did,
    /// without times, and when the changes that are in the maps now were triggered.
    pub fn pass(&mut self, retry: bool, now: Instant) -> Result<(Passed, Vec<f64>), KernelError> {
        if self.ready().is_err() {
            return Ok((Passed::default(), Vec::new()));
        }
        if !self.writer.has_read() {
            let found = self.writer.read(now)?;
            self.compare_all(found);
        }
        let planned = self.compute();
        let Counted { writes, failed, ended_sockets } =
            self.writer.pass(&self.desired, take(&mut self.due), retry, now);
        if planned >= MANY {
            self.store.pack();
            self.desired.pack();
            self.writer.pack();
        }
        let late = self.writer.late(&self.desired);
        let (still, done): (Vec<_>, Vec<_>) =
            take(&mut self.triggered).into_iter().partition(|(service, _)| late.contains(service));
        self.triggered = still;
        let passed = Passed { planned, writes, failed, ended_sockets, ..Passed::default() };
        Ok((passed, done.into_iter().map(|(_, at)| at).collect()))
    }

    /// Reads the maps again, and tells what is not as it was written. The next pass repairs it.
    pub fn look(&mut self, now: Instant) -> Result<BTreeSet<String>, KernelError> {
        let (objects, found) = self.writer.look(&self.desired, now)?;
        if !objects.is_empty() {
            self.compare_all(found);
        }
        Ok(objects)
    }

    /// Has the next pass compare all that should be there with all that was found.
    fn compare_all(&mut self, mut found: Touched) {
        found.ports.extend(self.desired.ports.iter().map(|(id, port)| (*id, Some(port.protocol))));
        found.frontends.extend(self.desired.claims.keys());
        found.add(take(&mut self.due));
        self.due = found;
    }

    /// Computes the Services anew that need it. Gives how many ports they have.
    fn compute(&mut self) -> usize {
        let Some(here) = &self.here else { return 0 };
        let mut planned = 0;
        while let Some(name) = self.dirty.pop_first() {
            let service = self.store.service(&name);
            let slices: Vec<_> = self.store.slices(&name).collect();
            let ports = service.map(|service| wanted::ports(service, &slices, here));
            planned += ports.as_ref().map_or(0, Vec::len);
            let mut problems = self.store.problems(&name);
            problems.extend(service.into_iter().flat_map(|service| wanted::problems(service, here)));
            if problems.is_empty() {
                self.problems.remove(&name);
            } else {
                self.problems.insert(name.clone(), problems);
            }
            let again = self.desired.set(&name, service.zip(ports), &mut self.due);
            self.dirty.extend(again);
        }
        planned
    }
}

fn not_listed(kind: &str) -> Problem {
    Problem::new(
        "API server",
        format!("{kind} have not been listed since the agent started; the maps for Services stay as they are"),
        "see the agent's log and `weft status` for why the API server does not answer",
    )
}
