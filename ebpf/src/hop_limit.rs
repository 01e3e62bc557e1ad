//! What every router does to a packet: one hop less.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::packet::{ETHERNET, Family, IPV4, Packet, reach};

/// Whether a router may send the packet on. Of one that it may not, the host's stack tells the sender.
#[inline(always)]
pub(crate) const fn permits_forwarding(packet: &Packet) -> bool {
    packet.hop_limit > 1
}

/// Takes one hop from a packet that has more than one.
#[inline(always)]
pub(crate) fn decrement(skb: &SkBuff, packet: &Packet) -> Result<(), DropReason> {
    let hop_limit = packet.hop_limit - 1;
    match packet.family {
        Family::V4 => {
            let header = reach(skb, ETHERNET + IPV4)?.wrapping_add(ETHERNET);
            // SAFETY: `reach` gave the whole header; the verifier checks it. What the two writes add to a checksum of the
            // packet cancels out, so the kernel's own (`skb->csum`) stays right.
            unsafe {
                *header.add(8) = hop_limit;
                let checksum = header.add(10).cast::<u16>();
                *checksum = one_less_in_high_byte(u16::from_be(*checksum)).to_be();
            }
            Ok(())
        }
        // IPv6 has no checksum of its own, so the kernel must correct `skb->csum`.
        Family::V6 => {
            skb.store(ETHERNET + 7, &hop_limit, u64::from(BPF_F_RECOMPUTE_CSUM)).map_err(|_| DropReason::HelperFailed)
        }
    }
}

/// The checksum (RFC 1624) of a header of which a word became smaller by 0x0100: TTL is the high byte of its word.
#[inline(always)]
const fn one_less_in_high_byte(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100;
    (sum + (sum >= 0xffff) as u32) as u16
}
