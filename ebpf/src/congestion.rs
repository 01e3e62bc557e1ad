//! Marks of congestion on their way through a tunnel (RFC 6040).

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::packet::{ETHERNET, Family, IPV4, Packet, byte, reach};

/// The sender does not know congestion notification.
const NOT_CAPABLE: u8 = 0;
/// The sender knows it: ECT(0).
const CAPABLE: u8 = 2;
/// A router between met congestion.
const EXPERIENCED: u8 = 3;

/// The mark of an outer header. As in the kernel's tunnels, congestion inside is not told outside.
#[inline(always)]
pub(crate) const fn outer(inner: u8) -> u8 {
    if inner == EXPERIENCED { CAPABLE } else { inner }
}

/// Whether the underlay's mark must be carried over to the packet inside.
#[inline(always)]
pub(crate) fn must_mark(outer: u8, inner: &Packet) -> Result<bool, DropReason> {
    match (outer, inner.ecn) {
        (EXPERIENCED, NOT_CAPABLE) => Err(DropReason::CongestionUnheard),
        (EXPERIENCED, mark) => Ok(mark != EXPERIENCED),
        _ => Ok(false),
    }
}

/// Marks a packet, now the outermost, whose sender is capable.
#[inline(always)]
pub(crate) fn mark(skb: &SkBuff, packet: &Packet) -> Result<(), DropReason> {
    match packet.family {
        Family::V4 => {
            let header = reach(skb, ETHERNET + IPV4)?.wrapping_add(ETHERNET);
            let added = EXPERIENCED - packet.ecn;
            // SAFETY: `reach` gave the whole header; the verifier checks it. What the two writes add to a checksum of the
            // packet cancels out, so the kernel's own (`skb->csum`) stays right.
            unsafe {
                *header.add(1) |= EXPERIENCED;
                let checksum = header.add(10).cast::<u16>();
                *checksum = less(u16::from_be(*checksum), added).to_be();
            }
            Ok(())
        }
        Family::V6 => {
            let frame = reach(skb, ETHERNET + 2)?;
            let service = byte(frame, ETHERNET + 1) | EXPERIENCED << 4;
            let stored = skb.store(ETHERNET + 1, &service, u64::from(BPF_F_RECOMPUTE_CSUM));
            stored.map_err(|_| DropReason::HelperFailed)
        }
    }
}

/// The checksum (RFC 1624) of a header of which a word became larger.
#[inline(always)]
const fn less(checksum: u16, added: u8) -> u16 {
    let sum = checksum as u32 + (0xffff - added as u32);
    (sum + (sum >= 0xffff) as u32) as u16
}
