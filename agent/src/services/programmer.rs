//! Keeps the objects, what should be in the maps, and what is there; one pass brings one to the other. [`super::driver`] decides when.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::time::Duration;

use tokio::time::Instant;
use weft_common::services::{FrontendKey, ServingKey};

use super::desired::{Desired, Touched};
use super::failures::Failures;
use super::here::Here;
use super::mirror::{Mirror, slots_of};
use super::repairs::damage;
use super::snapshot::{Counts, HostSockets, Passed};
use super::state::Write;
use super::steps::{Compared, STEPS, Step, Writes};
use super::store::Store;
use super::wanted;
use crate::datapath::{KernelError, ServiceMaps};
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;
use crate::model::services::{ObjectName, Protocol, ServiceEvent};

/// How long backends stay after the last service has left them: a packet may be on its way with the former set.
pub const GRACE: Duration = Duration::from_secs(1);
/// Ports whose writes are made together: the rest of a full load waits in the objects, not in lists.
const TOGETHER: usize = 256;

/// Brings the maps for Services of one node to the desired state, again and again.
pub struct Programmer<'k, M> {
    maps: &'k M,
    node: String,
    sockets: HostSockets,
    pub(super) store: Store,
    pub(super) here: Option<Here>,
    pub(super) desired: Desired,
    /// `None` before the maps were read.
    pub(super) mirror: Option<Mirror>,
    /// Services to be computed anew.
    dirty: BTreeSet<ObjectName>,
    /// To be compared in the next pass.
    due: Touched,
    /// To be compared when what has failed is tried again.
    waiting: Touched,
    /// When generations may be removed, if nobody has them then.
    fading: BTreeMap<u64, Instant>,
    /// UDP backends that have left, with sockets that are still to be ended.
    gone: BTreeSet<ServingKey>,
    triggered: Vec<(ObjectName, f64)>,
    pub(super) failures: Failures,
    /// What was wrong with objects after the last pass that computed some.
    pub(super) objects_problems: BTreeMap<ObjectName, Vec<Problem>>,
    /// Writes and failures of the pass under way.
    counted: (usize, usize),
}

impl<'k, M: ServiceMaps> Programmer<'k, M> {
    /// A programmer that knows nothing yet.
    pub fn new(maps: &'k M, node: String, sockets: HostSockets) -> Self {
        Self::with_desired(maps, node, sockets, Desired::default())
    }

    /// The same with other ways to make numbers.
    pub fn with_desired(maps: &'k M, node: String, sockets: HostSockets, desired: Desired) -> Self {
        Self {
            maps,
            node,
            sockets,
            store: Store::default(),
            here: None,
            desired,
            mirror: None,
            dirty: BTreeSet::new(),
            due: Touched::default(),
            waiting: Touched::default(),
            fading: BTreeMap::new(),
            gone: BTreeSet::new(),
            triggered: Vec::new(),
            failures: Failures::default(),
            objects_problems: BTreeMap::new(),
            counted: (0, 0),
        }
    }

    /// Takes an event. Gives whether a pass has something to do for it.
    pub fn take(&mut self, event: ServiceEvent) -> bool {
        let was_complete = self.store.is_complete();
        let changed = self.store.take(event);
        let news = !changed.services.is_empty() || changed.cidrs || !was_complete;
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
        let is_same_node =
            before.is_some_and(|before| (&before.zone, &before.addresses) == (&here.zone, &here.addresses));
        let same_pods = before.is_some_and(|before| before.pod_cidrs == here.pod_cidrs);
        let concerned = self.store.services().filter(|service| {
            let has_external = !service.external_ips.is_empty() || !service.load_balancer_ips.is_empty();
            !is_same_node || (!same_pods && has_external)
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

    /// Whether all that is needed is known; else what is not, and what follows from that.
    pub fn ready(&self) -> Result<&Here, Vec<Problem>> {
        let consequence = "; the maps for Services stay as they are";
        let mut missing: Vec<Problem> = self
            .store
            .missing()
            .map(|kind| {
                Problem::new(
                    "API server",
                    format!("{kind} have not been listed since the agent started{consequence}"),
                    "see the agent's log and `weft status` for why the API server does not answer",
                )
            })
            .collect();
        match &self.here {
            Some(here) if missing.is_empty() => Ok(here),
            Some(_) => Err(missing),
            None => {
                missing.push(Problem::of_node(
                    &self.node,
                    format!("the cluster has no Node of this name yet{consequence}"),
                    "compare NODE_NAME of the agent with `kubectl get nodes`",
                ));
                Err(missing)
            }
        }
    }

    /// Something has failed and is to be tried again.
    pub fn must_retry(&self) -> bool {
        !self.waiting.is_empty() || !self.gone.is_empty() || !self.failures.is_empty()
    }

    /// Everything that is wanted is in the maps.
    pub fn is_synced(&self) -> bool {
        self.mirror.is_some() && self.dirty.is_empty() && self.due.is_empty() && !self.must_retry()
    }

    /// When the next backends may be removed.
    pub fn next_removal(&self) -> Option<Instant> {
        self.fading.values().min().copied()
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let (ports, backends) = (&self.desired.ports, |port: &super::desired::DesiredPort| port.cluster.backends.len());
        Counts {
            services: self.store.len(),
            ports: ports.len(),
            frontends: self.desired.claims.len(),
            backends: ports.values().map(backends).sum(),
        }
    }

    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.objects_problems.values().flatten().cloned().collect();
        problems.extend(self.desired.problems());
        problems.extend(self.failures.problems());
        problems.sort();
        problems.dedup();
        problems
    }

    /// One pass; with `retry`, also for all that has failed before. Before everything is known it does nothing. Gives what it did, without
    /// times, and when the changes that are now in the maps were triggered.
    pub fn pass(&mut self, retry: bool, now: Instant) -> Result<(Passed, Vec<f64>), KernelError> {
        if self.ready().is_err() {
            return Ok((Passed::default(), Vec::new()));
        }
        self.read_once(now)?;
        let retry = retry || self.waiting.is_empty();
        let planned = self.compute(now);
        let mut due = take(&mut self.due);
        if retry {
            due.add(take(&mut self.waiting));
        } else {
            self.fetch_related(&mut due);
        }
        self.write_all(&due, now);
        let triggered = self.settle(due);
        self.remove_unused(now);
        let ended_sockets = self.end_sockets();
        self.failures.end_pass(retry);
        let (writes, failed) = take(&mut self.counted);
        Ok((Passed { planned, writes, failed, ended_sockets, ..Passed::default() }, triggered))
    }

    /// Reads the maps, when nobody has yet: whatever is there and should not be there is due.
    fn read_once(&mut self, now: Instant) -> Result<(), KernelError> {
        if self.mirror.is_none() {
            self.take_over(Mirror::of(self.maps.read()?), now);
        }
        Ok(())
    }

    /// Reads the maps again and tells what is not as it was written. The next pass repairs it.
    pub fn look(&mut self, now: Instant) -> Result<BTreeSet<String>, KernelError> {
        let Some(known) = &self.mirror else { return Ok(BTreeSet::new()) };
        let read = Mirror::of(self.maps.read()?);
        let objects = damage(known, &read, &self.desired);
        if !objects.is_empty() {
            self.take_over(read, now);
        }
        Ok(objects)
    }

    /// Everything is due, whether it is in these maps or should be.
    fn take_over(&mut self, mirror: Mirror, now: Instant) {
        let mut due = Touched { cidrs: true, config: true, ..Touched::default() };
        let services = mirror.services.keys(..).chain(mirror.serving.keys(..).map(|key| key.service));
        due.ports.extend(services.chain(mirror.source_ranges.keys(..).map(|(id, _)| id)).map(|id| (id, None)));
        due.ports.extend(self.desired.ports.iter().map(|(id, port)| (*id, Some(port.protocol))));
        due.frontends.extend(mirror.frontends.keys(..));
        due.frontends.extend(self.desired.claims.keys());
        due.dropped.extend(mirror.backends.keys(..).map(|key| key.generation));
        self.fading.extend(take(&mut due.dropped).into_iter().map(|generation| (generation, now + GRACE)));
        self.due.add(due);
        self.mirror = Some(mirror);
    }

    /// Computes the Services anew that need it. Gives how many ports they have.
    fn compute(&mut self, now: Instant) -> usize {
        let Some(here) = &self.here else { return 0 };
        let mut planned = 0;
        while let Some(name) = self.dirty.pop_first() {
            let service = self.store.service(&name);
            let ports = service.map(|service| wanted::ports(service, self.store.slices(&name), here));
            planned += ports.as_ref().map_or(0, Vec::len);
            let mut problems = self.store.problems(&name);
            problems.extend(service.into_iter().flat_map(|service| wanted::problems(service, here)));
            if problems.is_empty() {
                self.objects_problems.remove(&name);
            } else {
                self.objects_problems.insert(name.clone(), problems);
            }
            let again = self.desired.set(&name, service.zip(ports), &mut self.due);
            self.dirty.extend(again);
        }
        self.fading.extend(take(&mut self.due.dropped).into_iter().map(|generation| (generation, now + GRACE)));
        planned
    }

    /// What has failed before, and may succeed now because something that it waits for is due.
    fn fetch_related(&mut self, due: &mut Touched) {
        let Some(mirror) = &self.mirror else { return };
        for id in due.ports.keys() {
            let keys = self.desired.ports.get(id).into_iter().flat_map(|port| port.frontends());
            due.frontends.extend(keys.filter(|key| self.waiting.frontends.contains(*key)));
        }
        for key in &due.frontends {
            let leads_to = mirror.frontends.possible(key).map(|entry| entry.service);
            due.ports.extend(leads_to.filter_map(|id| Some((id, *self.waiting.ports.get(&id)?))));
        }
    }

    fn write_all(&mut self, due: &Touched, now: Instant) {
        let ports: Vec<u64> = due.ports.keys().copied().collect();
        let frontends: Vec<FrontendKey> = due.frontends.iter().copied().collect();
        for step in STEPS {
            match step {
                Step::Whole(step) => self.write_of(due, now, |compared, writes| step(compared, writes)),
                Step::Ports(step) => {
                    for some in ports.chunks(TOGETHER) {
                        self.write_of(due, now, |compared, writes| {
                            some.iter().for_each(|id| step(compared, *id, writes))
                        });
                    }
                }
                Step::Frontends(step) => {
                    for some in frontends.chunks(TOGETHER * 8) {
                        self.write_of(due, now, |compared, writes| {
                            some.iter().for_each(|key| step(compared, key, writes))
                        });
                    }
                }
            }
        }
    }

    fn write_of(&mut self, due: &Touched, now: Instant, step: impl FnOnce(&Compared<'_>, &mut Writes)) {
        let Some(mirror) = &self.mirror else { return };
        let mut writes = Writes::default();
        step(&Compared { desired: &self.desired, mirror }, &mut writes);
        self.write(&writes.all, due, now);
    }

    /// Makes writes, and takes note of what became of them.
    fn write(&mut self, writes: &[Write], due: &Touched, now: Instant) {
        let Some(mirror) = self.mirror.as_mut().filter(|_| !writes.is_empty()) else { return };
        let failed: BTreeMap<usize, KernelError> = self.maps.write(writes).into_iter().collect();
        for (place, write) in writes.iter().enumerate() {
            let done = !failed.contains_key(&place);
            if let Write::SetService(id, _) | Write::RemoveService(id) = write {
                let former = mirror.services.possible(id).flat_map(|entry| [entry.cluster, entry.local]);
                self.fading.extend(former.filter(|set| set.count > 0).map(|set| (set.generation, now + GRACE)));
            }
            mirror.note(write, done);
            match write {
                Write::SetServing(key, _) => drop(self.gone.remove(key)),
                Write::RemoveServing(key) if done => {
                    // Of what a former agent left nobody knows the protocol.
                    let protocol = due.ports.get(&key.service).copied().flatten();
                    if protocol.is_none_or(|protocol| protocol == Protocol::Udp) {
                        self.gone.insert(*key);
                    }
                }
                _ => {}
            }
        }
        self.counted.0 += writes.len() - failed.len();
        self.counted.1 += failed.len();
        let failed: Vec<(&Write, &KernelError)> =
            failed.iter().map(|(place, error)| (&writes[*place], error)).collect();
        self.failures.note(&failed, &self.desired);
    }

    /// What is still different waits. Gives when the changes that do not were triggered.
    fn settle(&mut self, mut due: Touched) -> Vec<f64> {
        let Some(mirror) = &self.mirror else { return Vec::new() };
        let compared = Compared { desired: &self.desired, mirror };
        for id in due.ports.keys() {
            self.waiting.ports.remove(id);
        }
        for key in &due.frontends {
            self.waiting.frontends.remove(key);
        }
        due.ports.retain(|id, _| !compared.is_port_settled(*id));
        due.frontends.retain(|key| !compared.is_frontend_settled(key));
        due.cidrs = due.cidrs && !compared.are_cidrs_settled();
        due.config = due.config && !compared.is_config_settled();
        self.waiting.add(due);
        let waits: BTreeSet<&ObjectName> =
            self.waiting.ports.keys().filter_map(|id| Some(&self.desired.ports.get(id)?.name.service)).collect();
        let (still, done): (Vec<_>, Vec<_>) =
            take(&mut self.triggered).into_iter().partition(|(service, _)| waits.contains(service));
        self.triggered = still;
        done.into_iter().map(|(_, at)| at).collect()
    }

    /// Removes backends that nobody has had for a while.
    fn remove_unused(&mut self, now: Instant) {
        let Some(mirror) = &self.mirror else { return };
        let due: Vec<u64> =
            self.fading.iter().filter(|(_, at)| **at <= now).map(|(generation, _)| *generation).collect();
        let mut writes = Vec::new();
        for generation in due {
            self.fading.remove(&generation);
            let wanted = self.desired.set_of_generation(generation).map(|set| set.backends.len());
            let keep = match wanted {
                Some(count) => u32::try_from(count).unwrap_or(u32::MAX),
                None if mirror.uses(generation) => continue,
                None => 0,
            };
            let unused = mirror.backends.keys(slots_of(generation)).filter(|key| key.index >= keep || key.zero != 0);
            writes.extend(unused.map(Write::RemoveBackend));
        }
        self.write(&writes, &Touched::default(), now);
        let Some(mirror) = &self.mirror else { return };
        for write in &writes {
            if let Write::RemoveBackend(key) = write
                && mirror.backends.may_have(key)
            {
                self.fading.insert(key.generation, now + GRACE * 5);
            }
        }
    }

    /// Ends the sockets of UDP backends that have left.
    fn end_sockets(&mut self) -> usize {
        if self.gone.is_empty() {
            return 0;
        }
        match self.maps.end_sockets(&self.gone) {
            Ok(ended) => {
                self.gone.clear();
                ended
            }
            Err(error) => {
                self.failures.note_sockets(&error);
                0
            }
        }
    }
}
