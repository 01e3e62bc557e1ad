//! Values of the pinned maps. Addresses are [`AddressBytes`]; device indexes are in the CPU's byte order, as helpers take them.

use crate::address::AddressBytes;

/// A pod's interface on this node, found by each of its addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the host side of the veth.
    pub ifindex: u32,
    /// MAC address of the pod side: the destination of frames to the pod.
    pub pod_mac: [u8; 6],
    /// MAC address of the host side: the source of frames to the pod.
    pub host_mac: [u8; 6],
}

/// The node that owns a podCIDR.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The address that the overlay uses between this node and that one. It is also the node's identity: see [`NodeAddress`].
    pub tunnel: AddressBytes,
    /// Our own address of the same family: the outer source. For the node that we run on, its `tunnel`.
    pub source: AddressBytes,
    /// [`LOCAL`] or 0.
    pub flags: u32,
    /// Index of the device by which packets leave for that node, past the VXLAN device; 0 where they must go by the latter.
    pub underlay_ifindex: u32,
}

/// A node's InternalIP: what may stand in an outer header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The `tunnel` of the [`Node`] with this address: equal if, and only if, both are the same node.
    pub tunnel: AddressBytes,
    /// [`LOCAL`] or 0.
    pub flags: u32,
}

/// Flag of [`Node`] and [`NodeAddress`]: it is the node that we run on.
pub const LOCAL: u32 = 1;

/// What programs need to know of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Index of the VXLAN device.
    pub overlay_ifindex: u32,
    /// Largest IP packet, in bytes, that fits into the tunnel: the MTU of the VXLAN device.
    pub pod_mtu: u32,
}

const _: () = assert!(size_of::<Endpoint>() == 16);
const _: () = assert!(size_of::<Node>() == 40);
const _: () = assert!(size_of::<NodeAddress>() == 20);
const _: () = assert!(size_of::<Config>() == 8);

/// Most pod addresses on a node (two families a pod).
pub const MAX_ENDPOINTS: u32 = 4096;
/// Most podCIDRs in the cluster (two families a node).
pub const MAX_NODES: u32 = 16_384;
/// Most InternalIPs in the cluster.
pub const MAX_NODE_ADDRESSES: u32 = 16_384;

#[cfg(feature = "user")]
mod user {
    use super::{Config, Endpoint, Node, NodeAddress};

    // SAFETY: `#[repr(C)]` structs of integers and byte arrays without padding (sizes asserted above).
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Node {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NodeAddress {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Config {}
}
