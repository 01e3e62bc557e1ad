//! The host sides of pod interfaces: what the plugin made there and somebody else may change.
//!
//! What is inside a pod's namespace belongs to the pod: CHECK of the plugin tells of it. The MTU stays what it is, because a
//! pod keeps the one that it began with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use weft_cni::mac_address::MacAddress;
use weft_common::entries::Endpoint;
use weft_common::layout::map;

use super::pod_devices::{PodDevices, RecordedInterface};
use crate::model::problem::Problem;

/// What the kernel holds of the pods of this node. The same type for what should be there and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodState {
    /// Host sides that exist under the recorded name and index, by name.
    pub devices: BTreeMap<String, PodDevice>,
    /// The permanent neighbours of recorded addresses on them, by device and address: the MAC address.
    pub neighbours: BTreeMap<(String, IpAddr), [u8; 6]>,
    /// The host's routes to recorded addresses, in the place that the plugin's route has.
    pub routes: BTreeMap<IpAddr, PodRoute>,
    /// Entries of the map ENDPOINTS.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Indexes of devices in weft's link group of which there is no record, because an ADD is making them or the record was
    /// lost: never a difference, and what the map says of them stays.
    pub unrecorded: BTreeSet<u32>,
}

/// The host side of a pod's interface, as far as it is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDevice {
    /// Its index.
    pub index: u32,
    /// Its MAC address: the pod sends everything to it.
    pub mac: [u8; 6],
    /// Whether it is in weft's link group: without that, DEL would not take it for weft's.
    pub in_group: bool,
    /// Administratively up.
    pub up: bool,
}

/// A route of the host to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodRoute {
    /// As the plugin makes it: directly over the device with this index.
    Device(u32),
    /// Any other. The text says what was seen.
    Other {
        /// What was seen, for logs.
        seen: String,
    },
}

/// One step from what is there to what should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// Set MAC address, group and state of a host side.
    SetDevice(String, PodDevice),
    /// Add or replace a permanent neighbour.
    SetNeighbour {
        /// The host side.
        device: String,
        /// Its index.
        index: u32,
        /// The pod's address.
        address: IpAddr,
        /// MAC address of the pod side.
        mac: [u8; 6],
    },
    /// Add or replace the route to a pod's address.
    SetRoute {
        /// The pod's address.
        address: IpAddr,
        /// The host side.
        device: String,
        /// Its index.
        index: u32,
    },
    /// Write an entry of the map ENDPOINTS. Only under the allocation lock.
    SetEndpoint(IpAddr, Endpoint),
    /// Delete an entry of the map ENDPOINTS. Only under the allocation lock.
    RemoveEndpoint(IpAddr),
}

/// What should be there. Only host sides that exist count, so `observed` is needed; and an entry of the map whose address is
/// allocated, or whose device nobody recorded, is left to ADD, DEL and reclaiming.
pub fn desired(pods: &PodDevices, observed: &PodState) -> PodState {
    let mut state = PodState { unrecorded: observed.unrecorded.clone(), ..PodState::default() };
    let recorded = |address| pods.interfaces.values().any(|interface| interface.addresses.contains(address));
    for (address, endpoint) in &observed.endpoints {
        let allocated = pods.allocated.as_ref().is_none_or(|allocated| allocated.contains(address));
        if allocated || observed.unrecorded.contains(&endpoint.ifindex) || recorded(address) {
            state.endpoints.insert(*address, *endpoint);
        }
    }
    for (device, interface) in &pods.interfaces {
        if observed.devices.contains_key(device) {
            add(&mut state, device, interface);
        }
    }
    state
}

/// A recorded host side that does not exist. Nobody can make it anew: the pod's side went with it.
pub fn lost(device: &str, interface: &RecordedInterface) -> Problem {
    Problem::new(
        format!("device {device}"),
        format!("it is gone, and with it the network of {}", interface.owner),
        "if the pod still runs, delete it: its owner makes a new one",
    )
}

fn add(state: &mut PodState, device: &str, interface: &RecordedInterface) {
    let RecordedInterface { index, host_mac, pod_mac, addresses, owner: _ } = interface;
    let present = PodDevice { index: *index, mac: *host_mac, in_group: true, up: true };
    state.devices.insert(device.to_owned(), present);
    for address in addresses {
        state.neighbours.insert((device.to_owned(), *address), *pod_mac);
        state.routes.insert(*address, PodRoute::Device(*index));
        state.endpoints.insert(*address, Endpoint { ifindex: *index, pod_mac: *pod_mac, host_mac: *host_mac });
    }
}

/// The changes from `observed` to `desired`: devices first, because what hangs on one that is down, or gets another MAC
/// address, is gone.
pub fn diff(desired: &PodState, observed: &PodState) -> Vec<PodChange> {
    let mut changes = Vec::new();
    let mut flushed = BTreeSet::new();
    for (name, device) in &desired.devices {
        let Some(seen) = observed.devices.get(name).filter(|seen| *seen != device) else { continue };
        changes.push(PodChange::SetDevice(name.clone(), device.clone()));
        if seen.mac != device.mac {
            flushed.insert(name);
        }
    }
    for ((device, address), mac) in &desired.neighbours {
        let there = observed.neighbours.get(&(device.clone(), *address)) == Some(mac) && !flushed.contains(device);
        if !there && let Some(index) = desired.devices.get(device).map(|device| device.index) {
            changes.push(PodChange::SetNeighbour { device: device.clone(), index, address: *address, mac: *mac });
        }
    }
    for (address, route) in
        desired.routes.iter().filter(|(address, route)| observed.routes.get(*address) != Some(*route))
    {
        let PodRoute::Device(index) = *route else { continue };
        if let Some((device, _)) = desired.devices.iter().find(|(_, device)| device.index == index) {
            changes.push(PodChange::SetRoute { address: *address, device: device.clone(), index });
        }
    }
    for (address, endpoint) in &desired.endpoints {
        if observed.endpoints.get(address) != Some(endpoint) {
            changes.push(PodChange::SetEndpoint(*address, *endpoint));
        }
    }
    let stale = observed.endpoints.keys().filter(|address| !desired.endpoints.contains_key(*address));
    changes.extend(stale.map(|address| PodChange::RemoveEndpoint(*address)));
    changes
}

impl PodChange {
    /// The kind, as a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SetDevice(..) => "set_pod_device",
            Self::SetNeighbour { .. } => "set_pod_neighbour",
            Self::SetRoute { .. } => "set_pod_route",
            Self::SetEndpoint(..) => "set_endpoint",
            Self::RemoveEndpoint(_) => "remove_endpoint",
        }
    }

    /// The object in the kernel.
    pub fn object(&self) -> String {
        match self {
            Self::SetDevice(device, _) => format!("device {device}"),
            Self::SetNeighbour { device, address, .. } => format!("neighbour {address} of {device}"),
            Self::SetRoute { address, .. } => format!("route {address}"),
            Self::SetEndpoint(address, _) | Self::RemoveEndpoint(address) => {
                format!("map {} entry {address}", map::ENDPOINTS)
            }
        }
    }

    /// The host side that it is about, with its index, where it is about one.
    pub fn device(&self) -> Option<(&str, u32)> {
        match self {
            Self::SetDevice(name, device) => Some((name, device.index)),
            Self::SetNeighbour { device, index, .. } | Self::SetRoute { device, index, .. } => Some((device, *index)),
            Self::SetEndpoint(..) | Self::RemoveEndpoint(_) => None,
        }
    }

    /// Whether it may be made, and decided on, only under the allocation lock.
    pub fn needs_lock(&self) -> bool {
        matches!(self, Self::SetEndpoint(..) | Self::RemoveEndpoint(_))
    }

    /// What was wrong with the object.
    pub fn damage(&self, observed: &PodState) -> String {
        match self {
            Self::SetDevice(name, wanted) => match observed.devices.get(name) {
                Some(seen) => device_damage(seen, wanted),
                None => "missing".to_owned(),
            },
            Self::SetNeighbour { device, address, mac, .. } => {
                match observed.neighbours.get(&(device.clone(), *address)) {
                    Some(seen) if seen != mac => format!("had the MAC address {}", MacAddress(*seen)),
                    _ => "missing".to_owned(),
                }
            }
            Self::SetRoute { address, .. } => match observed.routes.get(address) {
                Some(PodRoute::Other { seen }) => format!("was {seen}"),
                Some(PodRoute::Device(index)) => format!("was over the device with the index {index}"),
                None => "missing".to_owned(),
            },
            Self::SetEndpoint(address, _) => match observed.endpoints.get(address) {
                Some(seen) => format!("named the device with the index {}", seen.ifindex),
                None => "missing".to_owned(),
            },
            Self::RemoveEndpoint(_) => "no pod has that address".to_owned(),
        }
    }
}

fn device_damage(seen: &PodDevice, wanted: &PodDevice) -> String {
    let mut damage = Vec::new();
    if seen.up != wanted.up {
        damage.push("down".to_owned());
    }
    if seen.mac != wanted.mac {
        damage.push(format!("had the MAC address {}", MacAddress(seen.mac)));
    }
    if seen.in_group != wanted.in_group {
        damage.push("not in weft's link group".to_owned());
    }
    damage.join(", ")
}

impl fmt::Display for PodChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if matches!(self, Self::RemoveEndpoint(_)) { "remove" } else { "set" };
        write!(f, "{verb} {}", self.object())?;
        match self {
            Self::SetNeighbour { mac, .. } => write!(f, " to {}", MacAddress(*mac)),
            Self::SetRoute { device, .. } => write!(f, " to dev {device}"),
            Self::SetEndpoint(_, endpoint) => write!(f, " to the device with the index {}", endpoint.ifindex),
            Self::SetDevice(..) | Self::RemoveEndpoint(_) => Ok(()),
        }
    }
}
