//! The pinned maps: one typed accessor each. Nobody else here knows their names.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::address::AddressBytes;
use weft_common::entries::{
    Config, Endpoint, LOCAL, MAX_ENDPOINTS, MAX_NODE_ADDRESSES, MAX_NODES, Node as NodeValue, NodeAddress,
};
use weft_common::reason::{COUNTERS, DropReason, Program, counter_index};

use crate::address::Address;

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static ENDPOINTS: HashMap<AddressBytes, Endpoint, { MAX_ENDPOINTS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static NODES: LpmTrie<AddressBytes, NodeValue, { MAX_NODES as usize }, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
static NODE_ADDRESSES: HashMap<AddressBytes, NodeAddress, { MAX_NODE_ADDRESSES as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static FAST_PATH_LEASE: Array<u64, 1> = Array::new();
#[btf_map]
static DROPS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();

/// A node, found by an InternalIP.
#[derive(Clone, Copy)]
pub(crate) struct AddressOwner {
    /// The address between that node and this one; the node's identity.
    pub(crate) tunnel: Address,
    /// It is the node that we run on.
    pub(crate) local: bool,
}

/// A node with the way to it.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    /// The address between that node and this one; the node's identity.
    pub(crate) tunnel: Address,
    /// Our own address between us.
    pub(crate) source: Address,
    /// It is the node that we run on.
    pub(crate) local: bool,
    /// The device by which packets leave past the VXLAN device; 0 where they must go by that.
    pub(crate) underlay_ifindex: u32,
}

/// The pod of this node that has an address.
#[inline(always)]
pub(crate) fn endpoint(address: &Address) -> Option<&'static Endpoint> {
    // SAFETY: the memory stays a map entry while a program runs. It may become another pod's entry meanwhile: then one packet
    // reaches a pod that does not have the address, and drops it.
    unsafe { ENDPOINTS.get(address.bytes()) }
}

/// Whether an address is of the pod behind the device of a packet.
#[inline(always)]
pub(crate) fn is_endpoint_of(skb: &SkBuff, address: &Address) -> bool {
    // SAFETY: the kernel gives programs a valid context.
    endpoint(address).is_some_and(|endpoint| endpoint.ifindex == unsafe { (*skb.skb).ifindex })
}

/// Whether an address is in a podCIDR of this node, or the node's own.
#[inline(always)]
pub(crate) fn is_of_this_node(address: &Address) -> bool {
    node_of_pod(address).is_some_and(|node| node.local) || is_own_internal_ip(address)
}

/// Whether an address is an InternalIP of this node.
#[inline(always)]
pub(crate) fn is_own_internal_ip(address: &Address) -> bool {
    node_of_address(address).is_some_and(|node| node.local)
}

/// The identity of the other node that an outer source belongs to.
#[inline(always)]
pub(crate) fn other_node(outer_source: &Address) -> Result<Address, DropReason> {
    match node_of_address(outer_source) {
        Some(node) if !node.local => Ok(node.tunnel),
        _ => Err(DropReason::OuterSourceUnknown),
    }
}

/// The node that owns the podCIDR of an address.
#[inline(always)]
pub(crate) fn node_of_pod(address: &Address) -> Option<Node> {
    let node = NODES.get(&Key::new(128, *address.bytes()))?;
    Some(Node {
        tunnel: Address::of_entry(&node.tunnel),
        source: Address::of_entry(&node.source),
        local: node.flags & LOCAL != 0,
        underlay_ifindex: node.underlay_ifindex,
    })
}

/// The node that has an InternalIP.
#[inline(always)]
pub(crate) fn node_of_address(address: &Address) -> Option<AddressOwner> {
    // SAFETY: as for endpoints: entries change while a packet is on its way, and it may be judged by the old or the new state.
    let node = unsafe { NODE_ADDRESSES.get(address.bytes()) }?;
    Some(AddressOwner { tunnel: Address::of_entry(&node.tunnel), local: node.flags & LOCAL != 0 })
}

/// What the agent tells of this node.
#[inline(always)]
pub(crate) fn config() -> Result<&'static Config, DropReason> {
    match CONFIG.get(0) {
        Some(config) if config.overlay_ifindex != 0 => Ok(config),
        _ => Err(DropReason::NotConfigured),
    }
}

/// Whether an agent follows the routes of the underlay, by which it chose the devices.
#[inline(always)]
pub(crate) fn fast_path_is_leased() -> bool {
    // SAFETY: a helper without arguments.
    FAST_PATH_LEASE.get(0).is_some_and(|until| unsafe { bpf_ktime_get_ns() } < *until)
}

/// Counts a dropped packet.
#[inline(always)]
pub(crate) fn count(program: Program, reason: DropReason) {
    if let Some(counter) = DROPS.get_ptr_mut(counter_index(program, reason)) {
        // SAFETY: the counter is this CPU's own, and a program is not interrupted by another one of the same hook.
        unsafe { *counter += 1 };
    }
}
