//! What the kernel of a node holds for the overlay, as plain data. `desired` computes it, `datapath` observes it, `diff` compares both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_common::entries;

use super::pods::{PodChange, PodState};

/// Everything that weft owns in the kernel of one node. The same type for what should be there and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayState {
    /// The VXLAN device `weft0`, or `None` where there is none.
    pub device: Option<OverlayDevice>,
    /// Addresses of `weft0`, each with a host prefix (/32, /128). Link-local addresses do not count.
    pub addresses: BTreeSet<IpAddr>,
    /// Routes of our routing protocol, by destination.
    pub routes: BTreeMap<IpNetwork, RouteKind>,
    /// Entries of the map NODES, by podCIDR.
    pub nodes: BTreeMap<IpNetwork, NodeEntry>,
    /// Entries of the map NODE_ADDRESSES, by address.
    pub node_addresses: BTreeMap<IpAddr, NodeAddressEntry>,
    /// The MTU of pods in the map CONFIG; `None` where the map does not name the present `weft0`. Its index is known only after it
    /// exists, so `datapath` fills it in.
    pub configured: Option<u32>,
    /// podCIDRs that the nftables table `weft` masquerades; `None` where the table is absent or not as we write it.
    pub masquerade: Option<BTreeSet<IpNetwork>>,
    /// Sysctls below `/proc/sys/`, by path with slashes ("net/ipv4/conf/all/forwarding"), without white space at the end.
    pub sysctls: BTreeMap<String, String>,
    /// Our filters, by device and hook, and the program in them. Desired: `weft0` and the host side of every recorded pod interface.
    pub filters: BTreeMap<FilterPlace, FilterProgram>,
    /// Our filters on devices below the overlay, by the device's name: `from_underlay` at their ingress.
    pub underlay_filters: BTreeMap<String, FilterProgram>,
    /// What is pinned under the names of our maps and programs.
    pub pins: BTreeMap<String, Pin>,
    /// The host sides of pod interfaces.
    pub pods: PodState,
}

/// What is pinned under a name of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The map or program that is in use.
    InUse,
    /// Something else. The text says what was seen.
    Other {
        /// What was seen, for logs.
        seen: String,
    },
}

/// The VXLAN device, as far as we set it. It is always external (collect metadata) on `VXLAN_PORT`; one that is not is observed
/// with `shape_is_ours == false` and made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayDevice {
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address: differs per node, or the kernel takes received frames for its own.
    pub mac: [u8; 6],
    /// External mode, our port, no learning, no ARP, zero UDP checksums accepted over IPv6.
    pub shape_is_ours: bool,
    /// Administratively up.
    pub up: bool,
}

/// What stands behind a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum RouteKind {
    /// The own podCIDR: an address without a pod is answered, and never leaves by the default route.
    Unreachable,
    /// A remote podCIDR: `encap ip id POD_VNI src tunnel_source dst tunnel_destination dev weft0 src preferred_source`.
    #[serde(rename_all = "camelCase")]
    Overlay {
        /// Our InternalIP, of the family of the underlay.
        tunnel_source: IpAddr,
        /// The remote node's InternalIP, of the same family.
        tunnel_destination: IpAddr,
        /// Our gateway of the destination's family; `None` where this node has no podCIDR of it.
        preferred_source: Option<IpAddr>,
    },
    /// A route of our protocol that we never write: it is removed. The text says what was seen.
    Foreign {
        /// What was seen, for logs and tables.
        seen: String,
    },
}

/// A node in the map NODES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// The address that the overlay uses between us and that node; its identity.
    pub tunnel: IpAddr,
    /// Our own address of the same family: the outer source. Of this node, its `tunnel`.
    pub source: IpAddr,
    /// It is this node.
    pub local: bool,
    /// Index of the device by which packets of pods leave for that node, past `weft0`; `None` where they go by `weft0`.
    pub underlay: Option<u32>,
}

impl NodeEntry {
    /// The same node in the map NODE_ADDRESSES.
    pub const fn of_address(self) -> NodeAddressEntry {
        NodeAddressEntry { tunnel: self.tunnel, local: self.local }
    }
}

/// A node in the map NODE_ADDRESSES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddressEntry {
    /// The `tunnel` of the [`NodeEntry`].
    pub tunnel: IpAddr,
    /// It is this node.
    pub local: bool,
}

/// The flags of both map entries.
pub const fn flags(local: bool) -> u32 {
    if local { entries::LOCAL } else { 0 }
}

/// A hook of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterPlace {
    /// The device's name.
    pub device: String,
    /// Which side of its clsact.
    pub hook: Hook,
}

/// The two sides of clsact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// What the device receives.
    Ingress,
    /// What the device sends.
    Egress,
}

/// What our filter at a hook runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterProgram {
    /// The pinned program of this name (`weft_common::layout::program`), the very one that is pinned now.
    Pinned(String),
    /// Something else under our priority and handle, such as the program of an earlier agent.
    Other,
}

/// The device that carries this node's InternalIPs, as far as the overlay depends on it: that of the first, where they are on
/// several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Its name.
    pub device: String,
    /// The smallest MTU of all of them, in bytes.
    pub mtu: u32,
}

/// One step from what is there to what should be there. `diff` gives them in the order in which they must be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make `weft0`, or make it anew where its shape is not ours.
    CreateDevice(OverlayDevice),
    /// Set MTU, MAC address and state of `weft0`.
    SetDevice(OverlayDevice),
    /// Pin the map or program that is in use under its name again.
    SetPin(String),
    /// Add an address to `weft0`.
    AddAddress(IpAddr),
    /// Take an address from `weft0`.
    RemoveAddress(IpAddr),
    /// Write a sysctl.
    SetSysctl {
        /// Path below `/proc/sys/`.
        path: String,
        /// What to write.
        value: String,
    },
    /// Write the map CONFIG for the present `weft0`, with this MTU of pods.
    SetConfig(u32),
    /// Write an entry of the map NODES.
    SetNode(IpNetwork, NodeEntry),
    /// Delete an entry of the map NODES.
    RemoveNode(IpNetwork),
    /// Write an entry of the map NODE_ADDRESSES.
    SetNodeAddress(IpAddr, NodeAddressEntry),
    /// Delete an entry of the map NODE_ADDRESSES.
    RemoveNodeAddress(IpAddr),
    /// Write the table `weft`, whole and atomically.
    SetMasquerade(BTreeSet<IpNetwork>),
    /// Attach the pinned program, or replace what our filter at that place runs.
    SetFilter(FilterPlace, String),
    /// Attach `from_underlay` to a device below the overlay, or replace what our filter there runs.
    SetUnderlayFilter(String),
    /// Take our filter from a device that is not below the overlay any more.
    RemoveUnderlayFilter(String),
    /// Add or replace a route.
    SetRoute(IpNetwork, RouteKind),
    /// Delete a route.
    RemoveRoute(IpNetwork),
    /// Put the host side of a pod's interface right.
    Pod(PodChange),
}
