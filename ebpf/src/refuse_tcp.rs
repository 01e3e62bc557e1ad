//! A TCP reset in answer to a segment (RFC 9293, 3.5.2 and 3.10.7.1).

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::header_chain::Transport;
use crate::packet::{ETHERNET, Family, Packet, TCP, length};
use crate::refuse::{cut, fold, ip_header, ipv4, ipv6, make_room, pseudo_header};

/// Bytes of a TCP header without options, and the place of its checksum.
const HEADER: usize = 20;
const CHECKSUM: usize = 16;

/// Flags, in the half word of the data offset.
const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;
const ACK: u32 = 16;

/// Makes the packet the answer to itself. A reset is never answered.
#[inline(always)]
pub(crate) fn become_reset(skb: &SkBuff, packet: &Packet, transport: Transport) -> Result<(), DropReason> {
    let at = transport.at;
    let [ports, sequence, acknowledged, offset] =
        skb.load::<[u32; 4]>(at).map_err(|_| DropReason::Truncated)?.map(u32::from_be);
    let flags = offset >> 16;
    // The end of the first of several fragments is not the end of the segment.
    if flags & RST != 0 || transport.is_fragment {
        return Err(DropReason::ServiceRefused);
    }
    let header = (offset >> 28) as usize * 4;
    let data = length(skb, packet)?.wrapping_sub(at - ETHERNET + header) as u32;
    if header < HEADER || data > u32::from(u16::MAX) * 16 {
        return Err(DropReason::Truncated);
    }
    let (sequence, acknowledged, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        let length = data + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        (0, sequence.wrapping_add(length), RST | ACK)
    };
    let mut tcp = [
        ports.rotate_left(16).to_be(),
        sequence.to_be(),
        acknowledged.to_be(),
        ((HEADER as u32 / 4) << 28 | flags << 16).to_be(),
        0,
    ];
    let content = fold(tcp.iter().map(|word| u64::from(*word)).sum());
    let pseudo = fold(pseudo_header(packet, TCP, HEADER));
    tcp[4] = (u32::from(u16::from_be(!fold(u64::from(pseudo) + u64::from(content)))) << 16).to_be();

    let ip = ip_header(packet.family);
    cut(skb, at + HEADER)?;
    if at > ETHERNET + ip {
        make_room(skb, -((at - ETHERNET - ip) as i32))?;
    }
    let [a, b, c, d, e] = tcp;
    match packet.family {
        Family::V4 => {
            let [f, g, h, i, j] = ipv4(packet, 0, TCP, HEADER);
            store(skb, &[f, g, h, i, j, a, b, c, d, e])?;
        }
        Family::V6 => {
            let [f, g, h, i, j, k, l, m, n, o] = ipv6(packet, TCP, HEADER);
            store(skb, &[f, g, h, i, j, k, l, m, n, o, a, b, c, d, e])?;
        }
    }
    // Where a device completes the checksum, the sum of the pseudo header must stand in its place. The helper knows: it changes that, by what
    // the checksum differs from it, only where no device does.
    let place = ETHERNET + ip + CHECKSUM;
    skb.store(place, &pseudo, 0).map_err(|_| DropReason::HelperFailed)?;
    let difference = u64::from(pseudo) * 2 + u64::from(content);
    skb.l4_csum_replace(place, 0, difference, 0).map_err(|_| DropReason::HelperFailed)
}

#[inline(always)]
fn store<const WORDS: usize>(skb: &SkBuff, words: &[u32; WORDS]) -> Result<(), DropReason> {
    // Where the kernel has a checksum of the whole packet, it must count the new bytes.
    skb.store(ETHERNET, words, u64::from(BPF_F_RECOMPUTE_CSUM)).map_err(|_| DropReason::HelperFailed)
}
