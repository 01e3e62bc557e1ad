//! What the agent runs once, on a packet of its own, to learn whether this kernel has what the fast path needs. Never attached.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::fast_path::{decapsulation, encapsulation};
use crate::outer_packet::overhead;
use crate::packet::Family;

/// On an IPv4 packet: 0, or the error number of the first step that the kernel refuses.
#[classifier]
pub(crate) fn fast_path_probe(context: TcContext) -> i32 {
    let room = overhead(Family::V6) as i32;
    let grown = context.skb.adjust_room(room, BPF_ADJ_ROOM_MAC, encapsulation(Family::V6));
    let shrunk =
        grown.and_then(|()| context.skb.adjust_room(-room, BPF_ADJ_ROOM_MAC, decapsulation(Family::V6, Family::V4)));
    match shrunk {
        Ok(()) => 0,
        Err(error) => -error as i32,
    }
}
