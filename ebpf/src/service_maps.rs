//! The pinned maps of Services: one typed accessor each. Nobody else here knows their names.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::macros::btf_map;
use weft_common::address::AddressBytes;
use weft_common::reason::{DropReason, REASONS_MAX};
use weft_common::services::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, FrontendKey, MAX_AFFINITY, MAX_BACKENDS, MAX_FLOWS,
    MAX_FRONTENDS, MAX_KEPT_FLOWS, MAX_NEW_FLOWS, MAX_POD_NAMESPACES, MAX_SERVICE_CIDRS, MAX_SERVICES, MAX_SERVING,
    MAX_SOCKET_FLOWS, MAX_SOURCE_RANGES, PodAddresses, Service, ServicesConfig, Serving, ServingKey, SlotKey,
    SocketFlow, SocketFlowKey, SocketPeer, SourceRangeKey, Tracked,
};

use crate::address::Address;

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SERVICES: HashMap<u64, Service, { MAX_SERVICES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static BACKENDS: HashMap<SlotKey, Backend, { MAX_BACKENDS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SERVING: HashMap<ServingKey, Serving, { MAX_SERVING as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32, { MAX_SOURCE_RANGES as usize }, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
static SERVICE_CIDRS: LpmTrie<AddressBytes, u32, { MAX_SERVICE_CIDRS as usize }, NO_PREALLOC> = LpmTrie::new();
#[btf_map]
static SERVICES_CONFIG: Array<ServicesConfig, 1> = Array::new();
#[btf_map]
static POD_NAMESPACES: LruHashMap<u64, PodAddresses, { MAX_POD_NAMESPACES as usize }> = LruHashMap::new();
#[btf_map]
static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITY as usize }> = LruHashMap::new();
#[btf_map]
static FLOWS: LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> = LruHashMap::new();
#[btf_map]
static NEW_FLOWS: LruHashMap<FlowKey, Flow, { MAX_NEW_FLOWS as usize }> = LruHashMap::new();
#[btf_map]
static FLOW_SLOTS: Array<FlowKey, { MAX_KEPT_FLOWS as usize }> = Array::new();
#[btf_map]
static TRACKED: Array<Tracked, 1> = Array::new();
#[btf_map]
static SOCKET_FLOWS: LruHashMap<SocketFlowKey, SocketFlow, { MAX_SOCKET_FLOWS as usize }> = LruHashMap::new();
#[btf_map]
static SOCKET_PEERS: SkStorage<SocketPeer> = SkStorage::new();
#[btf_map]
static SOCKET_DROPS: PerCpuArray<u64, { REASONS_MAX as usize }> = PerCpuArray::new();

/// Bits of the service before the client's address in a key of SOURCE_RANGES.
const SERVICE_BITS: u32 = 64;

/// What serves an address and a port.
#[inline(always)]
pub(crate) fn frontend(key: &FrontendKey) -> Option<&'static Frontend> {
    // SAFETY: an entry of this map is never written in place, and stays in memory while a program runs.
    unsafe { FRONTENDS.get(key) }
}

/// A port of a Service.
#[inline(always)]
pub(crate) fn service(id: u64) -> Option<&'static Service> {
    // SAFETY: as above.
    unsafe { SERVICES.get(&id) }
}

/// A backend of a set.
#[inline(always)]
pub(crate) fn backend(key: &SlotKey) -> Option<&'static Backend> {
    // SAFETY: as above.
    unsafe { BACKENDS.get(key) }
}

/// The sets of a service that have a backend now; 0: it is gone.
#[inline(always)]
pub(crate) fn sets_with(key: &ServingKey) -> u32 {
    // SAFETY: as above.
    unsafe { SERVING.get(key) }.map_or(0, |serving| serving.sets)
}

/// Whether a client is in one of the source ranges of a service.
#[inline(always)]
pub(crate) fn is_in_source_ranges(service: u64, client: &Address) -> bool {
    let key = SourceRangeKey { service: service.to_ne_bytes(), client: *client.bytes() };
    SOURCE_RANGES.get(&Key::new(SERVICE_BITS + 128, key)).is_some()
}

/// Whether an address is in a ServiceCIDR.
#[inline(always)]
pub(crate) fn is_in_service_cidr(address: &Address) -> bool {
    SERVICE_CIDRS.get(&Key::new(128, *address.bytes())).is_some()
}

/// What the agent tells of this node; all zeros before it did.
#[inline(always)]
pub(crate) fn config() -> Option<&'static ServicesConfig> {
    SERVICES_CONFIG.get(0)
}

/// The addresses of the pod with a network namespace.
#[inline(always)]
pub(crate) fn pod_addresses(namespace: u64) -> Option<&'static PodAddresses> {
    // SAFETY: as above; the plugin writes each entry once.
    unsafe { POD_NAMESPACES.get(&namespace) }
}

/// Where the last new connection of a client went.
#[inline(always)]
pub(crate) fn affinity(key: &AffinityKey) -> Option<Affinity> {
    // SAFETY: programs replace entries whole; an LRU map may give the memory to another key meanwhile, which shows in nothing but a
    // backend that the service does not have: callers check that.
    unsafe { AFFINITY.get(key) }.copied()
}

/// Remembers where a new connection of a client goes.
#[inline(always)]
pub(crate) fn set_affinity(key: &AffinityKey, value: &Affinity) {
    // Without memory the next connection goes anywhere.
    let _ = AFFINITY.insert(key, value, 0);
}

/// Flows that are kept.
#[inline(always)]
pub(crate) const fn flows() -> &'static LruHashMap<FlowKey, Flow, { MAX_FLOWS as usize }> {
    &FLOWS
}

/// Flows that have not proved yet that they go on.
#[inline(always)]
pub(crate) const fn new_flows() -> &'static LruHashMap<FlowKey, Flow, { MAX_NEW_FLOWS as usize }> {
    &NEW_FLOWS
}

/// The key of a flow that is kept, or was; zeros where there never was one.
#[inline(always)]
pub(crate) fn flow_slot(number: u32) -> Option<*mut FlowKey> {
    FLOW_SLOTS.get_ptr_mut(number)
}

/// The protocols of which flows were ever translated. Programs set its bytes, each once.
#[inline(always)]
pub(crate) fn tracked() -> Option<*mut Tracked> {
    TRACKED.get_ptr_mut(0)
}

/// Peers of UDP sockets of the host.
#[inline(always)]
pub(crate) const fn socket_flows() -> &'static LruHashMap<SocketFlowKey, SocketFlow, { MAX_SOCKET_FLOWS as usize }> {
    &SOCKET_FLOWS
}

/// What connected sockets dialled.
#[inline(always)]
pub(crate) const fn socket_peers() -> &'static SkStorage<SocketPeer> {
    &SOCKET_PEERS
}

/// Counts a connection or message that was refused or dropped at its socket.
#[inline(always)]
pub(crate) fn count_at_socket(reason: DropReason) {
    if let Some(counter) = SOCKET_DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the counter is this CPU's own; a program of a socket may be interrupted by another one only between reading and
        // writing, which costs a count.
        unsafe { *counter += 1 };
    }
}
