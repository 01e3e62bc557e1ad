//! A kernel in memory, for tests: it behaves as the real one where the order of changes matters, and can fail on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use weft_common::layout::{OVERLAY_DEVICE, program};

use super::{Kernel, KernelError, Watched};
use crate::overlay::plan::Tunnel;
use crate::overlay::pods::{PodChange, PodRoute, PodState};
use crate::overlay::state::{Change, FilterProgram, OverlayState, Pin, RouteKind, Underlay};
use crate::overlay::way::{Device, Hop, Paths, RouteAnswer};

/// When a [`FakeKernel`] fails. Faults hit every call of [`Kernel`], `underlay` and `observe` too.
///
/// Every second faulty `apply` has done its work before it fails: so does a real one whose answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Never.
    None,
    /// Every nth call: with 3, the third, the sixth and so on.
    Every(u64),
    /// Each call with this chance, from a sequence that the seed alone decides.
    Random {
        /// Start of the sequence.
        seed: u64,
        /// Calls in a hundred that fail.
        percent: u64,
    },
}

/// Index of the underlay in a new [`FakeKernel`].
pub const UNDERLAY_INDEX: u32 = 2;

/// Holds an [`OverlayState`] and applies [`Change`]s to it.
///
/// What depends on something else needs it here too: addresses, overlay routes and filters need `weft0`, a preferred source
/// must be an address of `weft0`, and whatever hangs on a removed device or address goes with it. A change that does
/// nothing is not counted as a write. Map entries may name a device that is gone, as in a real one.
#[derive(Debug)]
pub struct FakeKernel {
    underlay: Option<Underlay>,
    inner: Mutex<Inner>,
}

/// What of other people's networking decides on the ways to the peers.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The devices that are not weft's, by index.
    pub devices: BTreeMap<u32, Device>,
    /// Indexes of those that carry this node's InternalIPs.
    pub carriers: BTreeSet<u32>,
    /// What the kernel answers for the way to an address. To others the route leads by the first carrier.
    pub routes: BTreeMap<IpAddr, RouteAnswer>,
    /// Somebody wants packets encrypted.
    pub ipsec: bool,
}

#[derive(Debug)]
struct Inner {
    state: OverlayState,
    surroundings: Surroundings,
    /// What the last look found of sysctls and pins.
    seen: Option<OverlayState>,
    faults: Faults,
    calls: u64,
    failed: u64,
    random: u64,
    writes: Vec<Change>,
    leased_until: Option<Instant>,
}

/// The reason of every fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl FakeKernel {
    /// A kernel that holds `state`, on a node whose InternalIPs are on the device `underlay`.
    pub fn new(state: OverlayState, underlay: Underlay) -> Self {
        let Underlay { device: name, mtu } = underlay.clone();
        let device = Device { name, mtu, not_ethernet: None, ours: false };
        let surroundings = Surroundings {
            devices: [(UNDERLAY_INDEX, device)].into(),
            carriers: [UNDERLAY_INDEX].into(),
            routes: BTreeMap::new(),
            ipsec: false,
        };
        Self { underlay: Some(underlay), inner: Mutex::new(Inner::new(state, surroundings)) }
    }

    /// A kernel in which no device carries the InternalIPs.
    pub fn without_underlay(state: OverlayState) -> Self {
        let surroundings =
            Surroundings { devices: BTreeMap::new(), carriers: BTreeSet::new(), routes: BTreeMap::new(), ipsec: false };
        Self { underlay: None, inner: Mutex::new(Inner::new(state, surroundings)) }
    }

    /// Fails from now on as `faults` says.
    pub fn set_faults(&self, faults: Faults) {
        let mut inner = self.lock();
        inner.faults = faults;
        inner.calls = 0;
        if let Faults::Random { seed, .. } = faults {
            inner.random = seed;
        }
    }

    /// What it holds now.
    pub fn state(&self) -> OverlayState {
        self.lock().state.clone()
    }

    /// Changes what it holds, as somebody else on the node would. Not counted.
    pub fn edit(&self, edit: impl FnOnce(&mut OverlayState)) {
        edit(&mut self.lock().state);
    }

    /// Changes other people's devices and routes. The filters on a device go with it.
    pub fn surround(&self, edit: impl FnOnce(&mut Surroundings)) {
        let mut inner = self.lock();
        let Inner { surroundings, state, .. } = &mut *inner;
        edit(surroundings);
        state.underlay_filters.retain(|name, _| surroundings.has(name));
    }

    /// Every change so far that changed something, in order, those included whose answer was lost.
    pub fn writes(&self) -> Vec<Change> {
        self.lock().writes.clone()
    }

    /// Whether packets may leave past `weft0` now.
    pub fn is_leased(&self) -> bool {
        self.lock().leased_until.is_some_and(|until| Instant::now() < until)
    }

    /// How many calls failed by [`Faults`].
    pub fn failures(&self) -> u64 {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked while it edited has failed anyway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    async fn underlay(&self, addresses: &[IpAddr]) -> Result<Underlay, KernelError> {
        if self.lock().next_call_fails() {
            return Err(error("find the device of", format!("{addresses:?}"), "injected fault"));
        }
        self.underlay
            .clone()
            .ok_or_else(|| error("find the device of", format!("{addresses:?}"), "on no device of this node"))
    }

    async fn paths(&self, _: &[IpAddr], tunnels: &[Tunnel]) -> Result<Paths, KernelError> {
        let mut inner = self.lock();
        if inner.next_call_fails() {
            return Err(error("ask for", "the routes to other nodes".to_owned(), "injected fault"));
        }
        let Surroundings { devices, carriers, routes, ipsec } = &inner.surroundings;
        let by_carrier = || match carriers.first() {
            Some(device) => RouteAnswer::Route {
                hops: vec![Hop { device: *device, encapsulated: false }],
                mtu: None,
                differs_by_device: false,
            },
            None => RouteAnswer::None("Network is unreachable".to_owned()),
        };
        let answer = |tunnel: &Tunnel| routes.get(&tunnel.destination).cloned().unwrap_or_else(by_carrier);
        let answers = tunnels.iter().map(answer).collect();
        Ok(Paths { answers, carriers: carriers.clone(), devices: devices.clone(), ipsec: *ipsec })
    }

    async fn observe(&self, watched: &Watched<'_>) -> Result<OverlayState, KernelError> {
        let mut inner = self.lock();
        if inner.next_call_fails() {
            return Err(error("observe", "the kernel".to_owned(), "injected fault"));
        }
        let mut state = inner.state.clone();
        inner.seen = Some(state.clone());
        state.sysctls.retain(|path, _| watched.sysctls.contains(path));
        state.pods.keep(watched);
        Ok(state)
    }

    fn changed_silently(&self) -> bool {
        let inner = self.lock();
        inner.seen.as_ref().is_some_and(|seen| (&seen.sysctls, &seen.pins) != (&inner.state.sysctls, &inner.state.pins))
    }

    fn lease_fast_path(&self, span: Duration) -> Result<(), KernelError> {
        self.lock().leased_until = Some(Instant::now() + span);
        Ok(())
    }

    async fn apply(&self, change: &Change) -> Result<(), KernelError> {
        let mut inner = self.lock();
        let fails = inner.next_call_fails();
        if fails && inner.failed % 2 == 1 {
            return Err(error("apply", format!("{change:?}"), "injected fault, nothing was done"));
        }
        let before = inner.state.clone();
        if let Change::SetUnderlayFilter(device) = change
            && !inner.surroundings.has(device)
        {
            return Err(error("apply", format!("{change:?}"), "there is no such device"));
        }
        inner.state.step(change).map_err(|reason| error("apply", format!("{change:?}"), reason))?;
        if inner.state != before {
            inner.writes.push(change.clone());
            inner.know_own(change);
        }
        if fails {
            return Err(error("apply", format!("{change:?}"), "injected fault, it was done all the same"));
        }
        Ok(())
    }
}

impl Surroundings {
    fn has(&self, device: &str) -> bool {
        self.devices.values().any(|present| present.name == device)
    }
}

impl Inner {
    fn new(state: OverlayState, surroundings: Surroundings) -> Self {
        Self {
            state,
            surroundings,
            seen: None,
            faults: Faults::None,
            calls: 0,
            failed: 0,
            random: 0,
            writes: Vec::new(),
            leased_until: None,
        }
    }

    /// What we wrote ourselves is no news.
    fn know_own(&mut self, change: &Change) {
        let Some(seen) = &mut self.seen else { return };
        match change {
            Change::SetSysctl { path, value } => {
                seen.sysctls.insert(path.clone(), value.clone());
            }
            Change::SetPin(name) => {
                seen.pins.insert(name.clone(), Pin::InUse);
            }
            _ => {}
        }
    }

    fn next_call_fails(&mut self) -> bool {
        self.calls += 1;
        let fails = match self.faults {
            Faults::None => false,
            Faults::Every(nth) => self.calls.is_multiple_of(nth),
            Faults::Random { percent, .. } => {
                // An additive sequence through a mixing function (SplitMix64): good enough to spread faults, and the same every time.
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

/// One change on plain data, with the kernel's rules on what needs what.
trait Step {
    fn step(&mut self, change: &Change) -> Result<(), String>;
    fn remove_device(&mut self);
    fn remove_address(&mut self, address: IpAddr);
    fn need_device(&self) -> Result<(), String>;
}

impl Step for OverlayState {
    fn step(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::CreateDevice(device) => {
                if self.device.as_ref() != Some(device) {
                    self.remove_device();
                    self.device = Some(device.clone());
                }
            }
            Change::SetDevice(wanted) => {
                let device = self.device.as_mut().ok_or("weft0 does not exist")?;
                (device.mtu, device.mac, device.up) = (wanted.mtu, wanted.mac, wanted.up);
                if !wanted.up {
                    self.addresses.retain(IpAddr::is_ipv4);
                    self.routes.retain(|_, kind| !matches!(kind, RouteKind::Overlay { .. }));
                }
            }
            Change::AddAddress(address) => {
                self.need_device()?;
                self.addresses.insert(*address);
            }
            Change::RemoveAddress(address) => self.remove_address(*address),
            Change::SetSysctl { path, value } => {
                if path.split('/').any(|part| part == OVERLAY_DEVICE) {
                    self.need_device()?;
                }
                self.sysctls.insert(path.clone(), value.clone());
            }
            Change::SetConfig(pod_mtu) => {
                self.need_device()?;
                self.configured = Some(*pod_mtu);
            }
            Change::SetNode(pod_cidr, entry) => {
                self.nodes.insert(*pod_cidr, *entry);
            }
            Change::RemoveNode(pod_cidr) => {
                self.nodes.remove(pod_cidr);
            }
            Change::SetNodeAddress(address, entry) => {
                self.node_addresses.insert(*address, *entry);
            }
            Change::RemoveNodeAddress(address) => {
                self.node_addresses.remove(address);
            }
            Change::SetMasquerade(pod_cidrs) => self.masquerade = Some(pod_cidrs.clone()),
            Change::SetFilter(place, program) => {
                if place.device == OVERLAY_DEVICE {
                    self.need_device()?;
                } else if !self.pods.devices.contains_key(&place.device) {
                    return Err(format!("{} does not exist", place.device));
                }
                self.filters.insert(place.clone(), FilterProgram::Pinned(program.clone()));
            }
            Change::SetUnderlayFilter(device) => {
                let program = FilterProgram::Pinned(program::FROM_UNDERLAY.to_owned());
                self.underlay_filters.insert(device.clone(), program);
            }
            Change::RemoveUnderlayFilter(device) => {
                self.underlay_filters.remove(device);
            }
            Change::SetRoute(destination, kind) => {
                if let RouteKind::Overlay { preferred_source, .. } = kind {
                    if !self.device.as_ref().is_some_and(|device| device.up) {
                        return Err("weft0 does not exist or is down".to_owned());
                    }
                    if let Some(source) = preferred_source.filter(|source| !self.addresses.contains(source)) {
                        return Err(format!("the preferred source {source} is no address of weft0"));
                    }
                }
                self.routes.insert(*destination, kind.clone());
            }
            Change::RemoveRoute(destination) => {
                self.routes.remove(destination);
            }
            Change::SetPin(name) => {
                self.pins.insert(name.clone(), Pin::InUse);
            }
            Change::Pod(change) => self.pods.step(change)?,
        }
        Ok(())
    }

    fn remove_device(&mut self) {
        self.device = None;
        self.addresses.clear();
        self.routes.retain(|_, kind| !matches!(kind, RouteKind::Overlay { .. }));
        self.filters.retain(|place, _| place.device != OVERLAY_DEVICE);
        self.sysctls.retain(|path, _| !path.split('/').any(|part| part == OVERLAY_DEVICE));
        // CONFIG names a device index that is gone now.
        self.configured = None;
    }

    /// IPv4 routes go with the address that they prefer, and all of them with the device's last address. IPv6 ones stay and
    /// prefer none any more.
    fn remove_address(&mut self, address: IpAddr) {
        if !self.addresses.remove(&address) {
            return;
        }
        let is_last = !self.addresses.iter().any(IpAddr::is_ipv4);
        self.routes.retain(|destination, kind| match kind {
            RouteKind::Overlay { preferred_source, .. } if address.is_ipv4() => {
                *preferred_source != Some(address) && !(is_last && destination.is_ipv4())
            }
            RouteKind::Overlay { preferred_source, .. } => {
                *preferred_source = preferred_source.filter(|source| *source != address);
                true
            }
            _ => true,
        });
    }

    fn need_device(&self) -> Result<(), String> {
        if self.device.is_some() { Ok(()) } else { Err("weft0 does not exist".to_owned()) }
    }
}

/// The same for the host sides of pods.
trait PodStep {
    fn step(&mut self, change: &PodChange) -> Result<(), String>;
    fn need(&self, device: &str, index: u32, up: bool) -> Result<(), String>;
    fn keep(&mut self, watched: &Watched<'_>);
}

impl PodStep for PodState {
    fn step(&mut self, change: &PodChange) -> Result<(), String> {
        match change {
            PodChange::SetDevice(name, wanted) => {
                self.need(name, wanted.index, false)?;
                let before = self.devices.insert(name.clone(), wanted.clone());
                // A new MAC address makes the kernel forget all neighbours, the permanent ones too.
                if before.is_some_and(|before| before.mac != wanted.mac) {
                    self.neighbours.retain(|(device, _), _| device != name);
                }
            }
            PodChange::SetNeighbour { device, index, address, mac } => {
                self.need(device, *index, true)?;
                self.neighbours.insert((device.clone(), *address), *mac);
            }
            PodChange::SetRoute { address, device, index } => {
                self.need(device, *index, true)?;
                self.routes.insert(*address, PodRoute::Device(*index));
            }
            PodChange::SetEndpoint(address, endpoint) => {
                self.endpoints.insert(*address, *endpoint);
            }
            PodChange::RemoveEndpoint(address) => {
                self.endpoints.remove(address);
            }
        }
        Ok(())
    }

    fn need(&self, device: &str, index: u32, up: bool) -> Result<(), String> {
        match self.devices.get(device).filter(|present| present.index == index) {
            None => Err(format!("{device} with the index {index} does not exist")),
            Some(present) if up && !present.up => Err(format!("{device} is down")),
            Some(_) => Ok(()),
        }
    }

    /// What a look sees that knows of these interfaces.
    fn keep(&mut self, watched: &Watched<'_>) {
        self.devices.retain(|name, device| watched.pods.get(name).is_some_and(|pod| pod.index == device.index));
        let has = |device: &String, address: &IpAddr| {
            watched.pods.get(device).is_some_and(|pod| pod.addresses.contains(address))
        };
        let devices = &self.devices;
        self.neighbours.retain(|(device, address), _| devices.contains_key(device) && has(device, address));
        self.routes.retain(|address, _| devices.keys().any(|device| has(device, address)));
    }
}

fn error(operation: &'static str, object: String, reason: impl Into<String>) -> KernelError {
    KernelError { operation, object, source: Box::new(Refused(reason.into())) }
}
