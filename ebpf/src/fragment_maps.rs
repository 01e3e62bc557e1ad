//! The pinned maps for fragments: one typed accessor each. Nobody else here knows their names.

use aya_ebpf::btf_maps::{Array, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use weft_common::fragments::{Datagram, DatagramKey, FRAGMENT_PAIRS as PAIRS, Held, HeldKey, MAX_DATAGRAMS, MAX_HELD};

#[btf_map]
static DATAGRAMS: LruHashMap<DatagramKey, Datagram, { MAX_DATAGRAMS as usize }> = LruHashMap::new();
#[btf_map]
static HELD_FRAGMENTS: LruHashMap<HeldKey, Held, { MAX_HELD as usize }> = LruHashMap::new();
#[btf_map]
static FRAGMENT_BUFFER: PerCpuArray<Held, 1> = PerCpuArray::new();
#[btf_map]
static FRAGMENT_PAIRS: Array<u64, { PAIRS as usize }> = Array::new();

/// What the first fragments of packets became.
#[inline(always)]
pub(crate) const fn datagrams() -> &'static LruHashMap<DatagramKey, Datagram, { MAX_DATAGRAMS as usize }> {
    &DATAGRAMS
}

/// Fragments that wait for their first one.
#[inline(always)]
pub(crate) const fn held_fragments() -> &'static LruHashMap<HeldKey, Held, { MAX_HELD as usize }> {
    &HELD_FRAGMENTS
}

/// Memory of this CPU, for an entry of the map above.
#[inline(always)]
pub(crate) fn buffer() -> Option<*mut Held> {
    FRAGMENT_BUFFER.get_ptr_mut(0)
}

/// When a translated flow last had packets between two addresses with a hash.
#[inline(always)]
pub(crate) fn pair(hash: u32) -> Option<*mut u64> {
    FRAGMENT_PAIRS.get_ptr_mut(hash % PAIRS)
}
