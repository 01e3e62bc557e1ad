//! Into the tunnel and out of it, past the VXLAN device, the host's IP layer and netfilter. The wire format is the device's, so that
//! either end may leave any packet to the device.

use aya_ebpf::bindings::{
    BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{bpf_csum_level, bpf_redirect_neigh};
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::maps::Node;
use crate::outer_header;
use crate::outer_packet::{Outer, overhead};
use crate::packet::{ETHERNET, Family, Packet, UDP, reach};
use crate::verdict::{Verdict, redirect};

/// The kernel builds no larger IP packet with a length in its header.
const LARGEST: u32 = 0xffff;

/// Sends the packet, whose hop limit is done, to another node. `None` where the VXLAN device must: the packet is as it was.
#[inline(always)]
pub(crate) fn send(skb: &SkBuff, packet: &Packet, to: &Node) -> Result<Option<Verdict>, DropReason> {
    let family = if to.tunnel.is_v4() { Family::V4 } else { Family::V6 };
    let inner_length = skb.len().wrapping_sub(ETHERNET as u32);
    let overhead = overhead(family) as u32;
    if inner_length > LARGEST - overhead {
        return Ok(None);
    }
    // Before the room is made: afterwards the flow would be that of a packet of zeros.
    let port = outer_header::source_port(skb);
    if skb.adjust_room(overhead as i32, BPF_ADJ_ROOM_MAC, encapsulation(family)).is_err() {
        return Ok(None);
    }
    outer_header::write(skb, packet, to, inner_length, port)?;
    // SAFETY: without parameters the helper reads nothing.
    redirect(unsafe { bpf_redirect_neigh(to.underlay_ifindex, core::ptr::null_mut(), 0, 0) }).map(Some)
}

/// The flags for making room: they tell the kernel how to cut large packets into segments later.
#[inline(always)]
pub(crate) const fn encapsulation(outer: Family) -> u64 {
    let ip = match outer {
        Family::V4 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        Family::V6 => BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
    };
    // The segments stay as large as the pod made them: its MTU leaves room for the headers.
    (ip | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_FIXED_GSO) as u64
        | (ETHERNET as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT
}

/// The flags for taking the outer headers off, where `inner` was in `outer`.
#[inline(always)]
pub(crate) const fn decapsulation(outer: Family, inner: Family) -> u64 {
    // Kernels before 6.3 do not know the flags of families, and do not need them where both are the same.
    let family = match (outer, inner) {
        (Family::V6, Family::V4) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        (Family::V4, Family::V6) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        (Family::V4, Family::V4) | (Family::V6, Family::V6) => 0,
    };
    (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | family) as u64
}

/// Whether the kernel's own decapsulation must do it: after ours the kernel would still take UDP that is to be segmented for a tunnel.
#[inline(always)]
pub(crate) fn is_for_the_kernel(skb: &SkBuff, inner: &Packet) -> bool {
    // SAFETY: the kernel gives programs a valid context.
    unsafe { (*skb.skb).gso_size != 0 && inner.next_header == UDP }
}

/// Takes the outer headers off, so that a frame with the inner packet is left. `false` where the kernel must: the packet is as it was.
#[inline(always)]
pub(crate) fn take_off(skb: &SkBuff, outer: &Outer) -> Result<bool, DropReason> {
    let flags = decapsulation(outer.family, outer.inner.family);
    if skb.adjust_room(-(overhead(outer.family) as i32), BPF_ADJ_ROOM_MAC, flags).is_err() {
        return Ok(false);
    }
    // What the device verified first was the outer checksum; where it verified no second one, the pod must do it. A refusal
    // says that the device verified nothing.
    // SAFETY: the kernel gives programs a valid context.
    let _ = unsafe { bpf_csum_level(skb.skb, u64::from(BPF_CSUM_LEVEL_DEC)) };
    if outer.family != outer.inner.family {
        let frame = reach(skb, ETHERNET)?;
        // SAFETY: `reach` gave the Ethernet header; the verifier checks it.
        unsafe { *frame.add(ETHERNET - 2).cast::<u16>() = outer.inner.family.ethertype() };
    }
    Ok(true)
}
