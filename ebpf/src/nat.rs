//! Writing other addresses and ports into a packet, with every checksum that counts them.
//!
//! The kernel may have a checksum of the whole packet (`CHECKSUM_COMPLETE`), or only the beginning of the transport's, which a device
//! completes later (`CHECKSUM_PARTIAL`). The helpers know which, programs do not.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::bpf_csum_diff;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;
use weft_common::services::{Flow, PortBytes};

use crate::address::Address;
use crate::flow::Key;
use crate::packet::{ETHERNET, Family, Packet, SCTP, UDP};
use crate::sctp;

/// Bytes of both addresses in an entry of the table of flows, and of both ports, which follow them.
const ADDRESSES: usize = 32;
const PORTS: usize = 4;
/// The checksum and the source address in an IPv4 header; the source address in an IPv6 header. The destination follows.
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;

const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;
const PSEUDO_HEADER: u64 = BPF_F_PSEUDO_HDR as u64;
const ZERO_MEANS_NONE: u64 = BPF_F_MARK_MANGLED_0 as u64;

const _: () = assert!(core::mem::offset_of!(Flow, source) == 0 && core::mem::offset_of!(Flow, destination) == 16);
const _: () = assert!(core::mem::offset_of!(Flow, source_port) == ADDRESSES);
const _: () = assert!(core::mem::offset_of!(Flow, destination_port) == ADDRESSES + 2);
const _: () = assert!(core::mem::offset_of!(weft_common::services::FlowKey, destination_port) == ADDRESSES + 2);

/// Translates a packet with this key, whose transport header begins at `at`.
#[inline(always)]
pub(crate) fn write(skb: &SkBuff, packet: &Packet, at: usize, key: &Key, becomes: &Flow) -> Result<(), DropReason> {
    let addresses = difference(key, becomes, 0, ADDRESSES);
    write_addresses(skb, packet.family, addresses, addresses_of(becomes))?;
    let old_ports = ports([key.0.source_port, key.0.destination_port]);
    let new_ports = ports([becomes.source_port, becomes.destination_port]);
    let (checksum, flags) = match key.0.protocol {
        UDP => (at + 6, ZERO_MEANS_NONE),
        // Its checksum counts no addresses.
        SCTP if old_ports == new_ports => return Ok(()),
        SCTP => return sctp::set_ports(skb, packet, at, old_ports, new_ports),
        _ => (at + 16, 0),
    };
    let is_there = match key.0.protocol {
        UDP => skb.load::<u16>(checksum).map_err(truncated)? != 0,
        _ => true,
    };
    if !is_there {
        return skb.store(at, &new_ports, RECOMPUTE).map_err(failed);
    }
    // The pseudo header counts the addresses.
    skb.l4_csum_replace(checksum, 0, addresses, flags | PSEUDO_HEADER).map_err(failed)?;
    if old_ports != new_ports {
        // These two cancel out.
        let ports = difference(key, becomes, ADDRESSES, PORTS);
        skb.l4_csum_replace(checksum, 0, ports, flags).map_err(failed)?;
        skb.store(at, &new_ports, 0).map_err(failed)?;
    }
    Ok(())
}

/// Writes source and destination into the IP header. `difference` is what a checksum gains by them.
#[inline(always)]
pub(crate) fn write_addresses(
    skb: &SkBuff,
    family: Family,
    difference: u64,
    addresses: &[Address; 2],
) -> Result<(), DropReason> {
    match family {
        Family::V4 => {
            // What these writes add to a checksum of the packet cancels out, so the kernel's own stays right.
            skb.l3_csum_replace(ETHERNET + IPV4_CHECKSUM, 0, difference, 0).map_err(failed)?;
            skb.store(ETHERNET + IPV4_SOURCE, &[addresses[0].0[3], addresses[1].0[3]], 0).map_err(failed)
        }
        Family::V6 => {
            // IPv6 has no checksum of its own, so the kernel must correct its sum.
            skb.store(ETHERNET + IPV6_SOURCE, addresses, RECOMPUTE).map_err(failed)
        }
    }
}

/// What a checksum gains by the addresses of a flow, and by its ports, in the place of those of its key.
#[inline(always)]
pub(crate) fn differences(key: &Key, becomes: &Flow) -> (u64, u64) {
    (difference(key, becomes, 0, ADDRESSES), difference(key, becomes, ADDRESSES, PORTS))
}

/// The addresses of a flow: source, destination.
#[inline(always)]
pub(crate) fn addresses_of(flow: &Flow) -> &[Address; 2] {
    // SAFETY: they are the beginning of the entry.
    unsafe { &*core::ptr::from_ref(flow).cast::<[Address; 2]>() }
}

/// What a checksum gains by two addresses in the place of others.
#[inline(always)]
pub(crate) fn address_difference(old: &[Address; 2], new: &[Address; 2]) -> u64 {
    // SAFETY: the helper reads both.
    let sum = unsafe {
        let old = old.as_ptr().cast_mut().cast::<u32>();
        let new = new.as_ptr().cast_mut().cast::<u32>();
        bpf_csum_diff(old, ADDRESSES as u32, new, ADDRESSES as u32, 0)
    };
    sum as u64 & 0xffff_ffff
}

/// What a checksum gains by the new bytes in the place of the old ones.
#[inline(always)]
fn difference(key: &Key, becomes: &Flow, from: usize, bytes: usize) -> u64 {
    // SAFETY: both structures begin with the addresses, then the ports; the helper reads them.
    let sum = unsafe {
        let old = core::ptr::from_ref(key).cast::<u8>().add(from).cast_mut().cast::<u32>();
        let new = core::ptr::from_ref(becomes).cast::<u8>().add(from).cast_mut().cast::<u32>();
        bpf_csum_diff(old, bytes as u32, new, bytes as u32, 0)
    };
    // It refuses only lengths that are no words.
    sum as u64 & 0xffff_ffff
}

/// Both ports as a word, as they lie in memory.
#[inline(always)]
pub(crate) const fn ports([[a, b], [c, d]]: [PortBytes; 2]) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}

/// The word of an IPv4 address in an entry, as it lies in memory.
#[inline(always)]
pub(crate) fn last_word(address: &[u8; 16]) -> u32 {
    let [.., a, b, c, d] = *address;
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn failed(_: i64) -> DropReason {
    DropReason::HelperFailed
}

#[inline(always)]
fn truncated(_: i64) -> DropReason {
    DropReason::Truncated
}
