//! The maps for Services in memory, for tests: they can fail on demand, be full, and show every single write to a witness.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_common::services::ServingKey;

use super::fake::Faults;
use super::{KernelError, ServiceMaps};
use crate::services::failures::map;
use crate::services::mirror::Mirror;
use crate::services::state::{ServiceState, Write};

/// Holds a [`ServiceState`] and makes [`Write`]s to it.
///
/// Every second faulty write has done its work before it fails: so does a real one whose answer is lost.
#[derive(Debug)]
pub struct FakeServiceMaps {
    inner: Mutex<Inner>,
}

struct Inner {
    state: ServiceState,
    faults: Faults,
    calls: u64,
    failed: u64,
    random: u64,
    full: BTreeSet<&'static str>,
    sockets_fail: bool,
    writes: Vec<Write>,
    ended: Vec<ServingKey>,
    witness: Option<Box<Witness>>,
}

/// Is shown what the maps hold after each write.
pub type Witness = dyn FnMut(&Write, &ServiceState) + Send;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("state", &self.state).field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl FakeServiceMaps {
    /// Maps that hold this.
    pub fn new(state: ServiceState) -> Self {
        let inner = Inner {
            state,
            faults: Faults::None,
            calls: 0,
            failed: 0,
            random: 0,
            full: BTreeSet::new(),
            sockets_fail: false,
            writes: Vec::new(),
            ended: Vec::new(),
            witness: None,
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Fails from now on as `faults` says: reads, writes and the end of sockets alike.
    pub fn set_faults(&self, faults: Faults) {
        let mut inner = self.lock();
        inner.faults = faults;
        inner.calls = 0;
        if let Faults::Random { seed, .. } = faults {
            inner.random = seed;
        }
    }

    /// These maps take no new entry from now on.
    pub fn set_full(&self, maps: impl IntoIterator<Item = &'static str>) {
        self.lock().full = maps.into_iter().collect();
    }

    /// Sockets cannot be ended from now on, or can again.
    pub fn set_sockets_fail(&self, fail: bool) {
        self.lock().sockets_fail = fail;
    }

    /// Shows every write that changed something to a witness.
    pub fn set_witness(&self, witness: Box<Witness>) {
        self.lock().witness = Some(witness);
    }

    /// What they hold now.
    pub fn state(&self) -> ServiceState {
        self.lock().state.clone()
    }

    /// Changes what they hold, as somebody else on the node would.
    pub fn edit(&self, edit: impl FnOnce(&mut ServiceState)) {
        edit(&mut self.lock().state);
    }

    /// Every write so far that was not refused, those included that changed nothing, and forgets them.
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.lock().writes)
    }

    /// Backends whose sockets were ended so far, and forgets them.
    pub fn take_ended(&self) -> Vec<ServingKey> {
        std::mem::take(&mut self.lock().ended)
    }

    /// How many calls failed by [`Faults`].
    pub fn failures(&self) -> u64 {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A witness that panicked has failed its test anyway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServiceMaps for FakeServiceMaps {
    fn read(&self) -> Result<ServiceState, KernelError> {
        let mut inner = self.lock();
        if inner.next_call_fails() {
            return Err(error("read map", "FRONTENDS", io::Error::other("injected fault")));
        }
        Ok(inner.state.clone())
    }

    fn hold(&self, known: &Mirror) -> Result<bool, KernelError> {
        Ok(Mirror::of(self.read()?).has_the_same(known))
    }

    fn write(&self, writes: &[Write]) -> Vec<(usize, KernelError)> {
        let mut inner = self.lock();
        let outcome = |(place, write)| inner.write(write).err().map(|error| (place, error));
        writes.iter().enumerate().filter_map(outcome).collect()
    }

    fn end_sockets(&self, gone: &BTreeSet<ServingKey>) -> Result<usize, KernelError> {
        let mut inner = self.lock();
        if inner.next_call_fails() || inner.sockets_fail {
            return Err(error("list", "connected UDP sockets", io::Error::other("injected fault")));
        }
        inner.ended.extend(gone);
        Ok(gone.len())
    }
}

impl Inner {
    fn write(&mut self, write: &Write) -> Result<(), KernelError> {
        let fails = self.next_call_fails();
        if fails && self.failed % 2 == 1 {
            return Err(error("write map", map(write), io::Error::other("injected fault, nothing was done")));
        }
        if self.full.contains(map(write)) && self.state.lacks(write) {
            return Err(error("write map", map(write), io::Error::from_raw_os_error(libc::E2BIG)));
        }
        self.state.make(write);
        if let Some(witness) = &mut self.witness {
            witness(write, &self.state);
        }
        if fails {
            return Err(error("write map", map(write), io::Error::other("injected fault, it was done all the same")));
        }
        self.writes.push(*write);
        Ok(())
    }

    fn next_call_fails(&mut self) -> bool {
        self.calls += 1;
        let fails = match self.faults {
            Faults::None => false,
            Faults::Every(nth) => self.calls.is_multiple_of(nth),
            Faults::Random { percent, .. } => {
                // An additive sequence through a mixing function (SplitMix64), as in the fake kernel.
                self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = self.random;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ (mixed >> 31)) % 100 < percent
            }
        };
        self.failed += u64::from(fails);
        fails
    }
}

/// One write on plain data.
trait Make {
    fn make(&mut self, write: &Write);
    fn lacks(&self, write: &Write) -> bool;
}

impl Make for ServiceState {
    fn make(&mut self, write: &Write) {
        match *write {
            Write::SetBackend(key, backend) => drop(self.backends.insert(key, backend)),
            Write::RemoveBackend(key) => drop(self.backends.remove(&key)),
            Write::SetServing(key, serving) => drop(self.serving.insert(key, serving)),
            Write::RemoveServing(key) => drop(self.serving.remove(&key)),
            Write::SetService(id, service) => drop(self.services.insert(id, service)),
            Write::RemoveService(id) => drop(self.services.remove(&id)),
            Write::SetSourceRange(range) => drop(self.source_ranges.insert(range)),
            Write::RemoveSourceRange(range) => drop(self.source_ranges.remove(&range)),
            Write::SetFrontend(key, frontend) => drop(self.frontends.insert(key, frontend)),
            Write::RemoveFrontend(key) => drop(self.frontends.remove(&key)),
            Write::SetServiceCidr(range) => drop(self.service_cidrs.insert(range)),
            Write::RemoveServiceCidr(range) => drop(self.service_cidrs.remove(&range)),
            Write::SetConfig(config) => self.config = Some(config),
        }
    }

    /// Whether a write would be a new entry.
    fn lacks(&self, write: &Write) -> bool {
        match write {
            Write::SetBackend(key, _) => !self.backends.contains_key(key),
            Write::SetServing(key, _) => !self.serving.contains_key(key),
            Write::SetService(id, _) => !self.services.contains_key(id),
            Write::SetSourceRange(range) => !self.source_ranges.contains(range),
            Write::SetFrontend(key, _) => !self.frontends.contains_key(key),
            Write::SetServiceCidr(range) => !self.service_cidrs.contains(range),
            Write::RemoveBackend(_)
            | Write::RemoveServing(_)
            | Write::RemoveService(_)
            | Write::RemoveSourceRange(_)
            | Write::RemoveFrontend(_)
            | Write::RemoveServiceCidr(_)
            | Write::SetConfig(_) => false,
        }
    }
}

fn error(operation: &'static str, object: &str, source: io::Error) -> KernelError {
    KernelError { operation, object: object.to_owned(), source: Box::new(source) }
}
