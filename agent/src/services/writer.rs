//! Brings the maps to what is desired: step after step, with what the kernel refuses set aside for another time.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::time::Duration;

use tokio::time::Instant;
use weft_common::services::{FrontendKey, ServingKey};

use super::desired::{Desired, DesiredPort, Touched};
use super::failures::Failures;
use super::mirror::{Mirror, slots_of};
use super::repairs::damage;
use super::snapshot::MapEntries;
use super::state::Write;
use super::steps::{Compared, STEPS, Step, Writes};
use crate::datapath::{KernelError, ServiceMaps};
use crate::model::services::{ObjectName, Protocol};

/// How long backends stay after the last service has left them: a packet may be on its way with the former set.
pub const GRACE: Duration = Duration::from_secs(1);
/// How long they stay when they could not be removed.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Ports whose writes are made together: the rest of a full load waits in the objects, not in lists.
const PORTS: usize = 256;
/// The same for frontends.
const FRONTENDS: usize = 4096;

/// Writes to the maps, and knows what they hold.
#[derive(Debug)]
pub struct Writer<'k, M> {
    maps: &'k M,
    /// `None` before the maps were read.
    mirror: Option<Mirror>,
    /// What was refused, or waits for something that was.
    waiting: Touched,
    /// When generations may be removed, if nobody has them then.
    fading: BTreeMap<u64, Instant>,
    /// UDP backends that have left, with sockets that are still to be ended.
    gone: BTreeSet<ServingKey>,
    failures: Failures,
    counted: Counted,
}

/// What a pass wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Writes that were made.
    pub writes: usize,
    /// Writes that the kernel refused.
    pub failed: usize,
    /// Sockets that were ended.
    pub ended_sockets: usize,
}

impl<'k, M: ServiceMaps> Writer<'k, M> {
    /// A writer that has not looked yet.
    pub fn new(maps: &'k M) -> Self {
        Self {
            maps,
            mirror: None,
            waiting: Touched::default(),
            fading: BTreeMap::new(),
            gone: BTreeSet::new(),
            failures: Failures::default(),
            counted: Counted::default(),
        }
    }

    /// The maps have been read.
    pub const fn has_read(&self) -> bool {
        self.mirror.is_some()
    }

    /// How many entries each map has; `None`: the maps have not been read.
    pub fn entries(&self) -> Option<MapEntries> {
        self.mirror.as_ref().map(Mirror::entries)
    }

    /// Something was refused and is to be tried again.
    pub fn must_retry(&self) -> bool {
        !self.waiting.is_empty() || !self.gone.is_empty() || !self.failures.is_empty()
    }

    /// When the next backends may be removed.
    pub fn next_removal(&self) -> Option<Instant> {
        self.fading.values().min().copied()
    }

    /// What is refused.
    pub const fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Something of these Services is not in the maps yet.
    pub fn late(&self, desired: &Desired) -> BTreeSet<ObjectName> {
        let late = self.waiting.ports.keys().filter_map(|id| desired.ports.get(id));
        late.map(|port| port.name.service.clone()).collect()
    }

    /// Reads the maps for the first time. Gives what is to be compared: all that is there.
    pub fn read(&mut self, now: Instant) -> Result<Touched, KernelError> {
        let mirror = Mirror::of(self.maps.read()?);
        Ok(self.take_over(mirror, now))
    }

    /// Reads the maps again. Gives what is not as it was written, in words, and what is to be compared therefore.
    pub fn look(&mut self, desired: &Desired, now: Instant) -> Result<(BTreeSet<String>, Touched), KernelError> {
        let Some(known) = &self.mirror else { return Ok(Default::default()) };
        if self.maps.hold(known)? {
            return Ok(Default::default());
        }
        let read = Mirror::of(self.maps.read()?);
        let objects = damage(known, &read, desired);
        let touched = if objects.is_empty() { Touched::default() } else { self.take_over(read, now) };
        Ok((objects, touched))
    }

    fn take_over(&mut self, mirror: Mirror, now: Instant) -> Touched {
        let mut found = Touched { cidrs: true, config: true, ..Touched::default() };
        let services = mirror.services.keys(..).chain(mirror.serving.keys(..).map(|key| key.service));
        found.ports.extend(services.chain(mirror.source_ranges.keys(..).map(|(id, _)| id)).map(|id| (id, None)));
        found.frontends.extend(mirror.frontends.keys(..));
        self.fading.extend(mirror.backends.keys(..).map(|key| (key.generation, now + GRACE)));
        self.mirror = Some(mirror);
        found
    }

    /// Gives back what it has room for and does not use.
    pub fn pack(&mut self) {
        self.mirror.iter_mut().for_each(Mirror::pack);
    }

    /// One pass over what is due; with `retry`, also over what was refused before.
    pub fn pass(&mut self, desired: &Desired, mut due: Touched, retry: bool, now: Instant) -> Counted {
        let retry = retry || self.waiting.is_empty();
        if retry {
            let mut all = take(&mut self.waiting);
            all.add(due);
            due = all;
        } else {
            self.fetch_related(desired, &mut due);
        }
        self.fading.extend(take(&mut due.dropped).into_iter().map(|generation| (generation, now + GRACE)));
        self.take_steps(desired, &due, now);
        self.set_aside(desired, due);
        self.remove_unused(desired, now);
        self.end_sockets();
        self.failures.end_pass(retry);
        take(&mut self.counted)
    }

    /// What was refused before, and may succeed now because something that it waits for is due.
    fn fetch_related(&self, desired: &Desired, due: &mut Touched) {
        let Some(mirror) = &self.mirror else { return };
        for id in due.ports.keys() {
            let keys = desired.ports.get(id).into_iter().flat_map(DesiredPort::frontends);
            due.frontends.extend(keys.filter(|key| self.waiting.frontends.contains(*key)));
        }
        for key in &due.frontends {
            let leads_to = mirror.frontends.possible(key).map(|entry| entry.service);
            due.ports.extend(leads_to.filter_map(|id| Some((id, *self.waiting.ports.get(&id)?))));
        }
    }

    fn take_steps(&mut self, desired: &Desired, due: &Touched, now: Instant) {
        let ports: Vec<u64> = due.ports.keys().copied().collect();
        let frontends: Vec<FrontendKey> = due.frontends.iter().copied().collect();
        for step in STEPS {
            match step {
                Step::Whole(step) => self.write_of(desired, due, now, step),
                Step::Ports(step) => {
                    for some in ports.chunks(PORTS) {
                        let all = |compared: &Compared<'_>, writes: &mut Writes| {
                            some.iter().for_each(|id| step(compared, *id, writes));
                        };
                        self.write_of(desired, due, now, all);
                    }
                }
                Step::Frontends(step) => {
                    for some in frontends.chunks(FRONTENDS) {
                        let all = |compared: &Compared<'_>, writes: &mut Writes| {
                            some.iter().for_each(|key| step(compared, key, writes));
                        };
                        self.write_of(desired, due, now, all);
                    }
                }
            }
        }
    }

    fn write_of(
        &mut self,
        desired: &Desired,
        due: &Touched,
        now: Instant,
        step: impl FnOnce(&Compared<'_>, &mut Writes),
    ) {
        let Some(mirror) = &self.mirror else { return };
        let mut writes = Writes::default();
        step(&Compared { desired, mirror }, &mut writes);
        self.write(desired, &writes.all, due, now);
    }

    /// Makes writes, and takes note of what became of them.
    fn write(&mut self, desired: &Desired, writes: &[Write], due: &Touched, now: Instant) {
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
        self.counted.writes += writes.len() - failed.len();
        self.counted.failed += failed.len();
        let failed: Vec<(&Write, &KernelError)> =
            failed.iter().map(|(place, error)| (&writes[*place], error)).collect();
        self.failures.note(&failed, desired);
    }

    /// What is still different waits.
    fn set_aside(&mut self, desired: &Desired, mut due: Touched) {
        let Some(mirror) = &self.mirror else { return };
        let compared = Compared { desired, mirror };
        self.waiting.ports.retain(|id, _| !due.ports.contains_key(id));
        self.waiting.frontends.retain(|key| !due.frontends.contains(key));
        due.ports.retain(|id, _| !compared.is_port_settled(*id));
        due.frontends.retain(|key| !compared.is_frontend_settled(key));
        due.cidrs = due.cidrs && !compared.are_cidrs_settled();
        due.config = due.config && !compared.is_config_settled();
        self.waiting.add(due);
    }

    /// Removes backends that nobody has had for a while.
    fn remove_unused(&mut self, desired: &Desired, now: Instant) {
        let Some(mirror) = &self.mirror else { return };
        let due: Vec<u64> =
            self.fading.iter().filter(|(_, at)| **at <= now).map(|(generation, _)| *generation).collect();
        let mut writes = Vec::new();
        for generation in due {
            self.fading.remove(&generation);
            let keep = match desired.set_of_generation(generation) {
                Some(set) => u32::try_from(set.backends.len()).unwrap_or(u32::MAX),
                None if mirror.uses(generation) => continue,
                None => 0,
            };
            let unused = mirror.backends.keys(slots_of(generation)).filter(|key| key.index >= keep || key.zero != 0);
            writes.extend(unused.map(Write::RemoveBackend));
        }
        self.write(desired, &writes, &Touched::default(), now);
        let Some(mirror) = &self.mirror else { return };
        for write in &writes {
            if let Write::RemoveBackend(key) = write
                && mirror.backends.may_have(key)
            {
                self.fading.insert(key.generation, now + GRACE_AFTER_FAILURE);
            }
        }
    }

    /// Ends the sockets of UDP backends that have left.
    fn end_sockets(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        match self.maps.end_sockets(&self.gone) {
            Ok(ended) => {
                self.gone.clear();
                self.counted.ended_sockets += ended;
            }
            Err(error) => self.failures.note_sockets(&error),
        }
    }
}
