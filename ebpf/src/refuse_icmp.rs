//! "Port unreachable" in answer to a packet: ICMP (RFC 792, RFC 1812 4.3.2) and ICMPv6 (RFC 4443, 3.1).

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::header_chain::Transport;
use crate::icmp_error::{ICMP, ICMPV6};
use crate::packet::{ETHERNET, Family, Packet, length};
use crate::refuse::{cut, fold, ip_header, ipv4, ipv6, make_room, pseudo_header};

/// Where the kernel has a checksum of the whole packet, it must count new bytes.
const RECOMPUTE: u64 = BPF_F_RECOMPUTE_CSUM as u64;

/// Type and code of the messages.
const UNREACHABLE: u32 = 3 << 8 | 3;
const UNREACHABLE_V6: u32 = 1 << 8 | 4;
/// Bytes of their headers.
const HEADER: usize = 8;
/// The longest packets with such messages: what every host and every link takes.
const LONGEST: usize = 576;
const LONGEST_V6: usize = 1280;
/// Precedence of messages of network control.
const NETWORK_CONTROL: u8 = 6 << 5;
/// Bytes that are summed up at once.
const CHUNK: usize = 16;

/// Makes the packet the answer to itself. An error is never answered.
#[inline(always)]
pub(crate) fn become_unreachable(skb: &SkBuff, packet: &Packet, transport: Transport) -> Result<(), DropReason> {
    if is_error(skb, transport) {
        return Err(DropReason::ServiceRefused);
    }
    let ip = ip_header(packet.family);
    let (longest, protocol, message) = match packet.family {
        Family::V4 => (LONGEST, ICMP, UNREACHABLE),
        Family::V6 => (LONGEST_V6, ICMPV6, UNREACHABLE_V6),
    };
    let most = longest - ip - HEADER;
    let length = length(skb, packet)?;
    let quoted = if length > most { most } else { length };
    cut(skb, ETHERNET + quoted)?;
    let mut sum = u64::from((message << 16).to_be()) + sum(skb, quoted)?;
    if packet.family == Family::V6 {
        sum += pseudo_header(packet, protocol, HEADER + quoted);
    }
    make_room(skb, (ip + HEADER) as i32)?;
    let first = (message << 16).to_be() | u32::from(u16::from_be(!fold(sum))).to_be();
    let stored = match packet.family {
        Family::V4 => {
            let [a, b, c, d, e] = ipv4(packet, NETWORK_CONTROL, protocol, HEADER + quoted);
            skb.store(ETHERNET, &[a, b, c, d, e, first, 0], RECOMPUTE)
        }
        Family::V6 => {
            let [a, b, c, d, e, f, g, h, i, j] = ipv6(packet, protocol, HEADER + quoted);
            skb.store(ETHERNET, &[a, b, c, d, e, f, g, h, i, j, first, 0], RECOMPUTE)
        }
    };
    stored.map_err(|_| DropReason::HelperFailed)
}

/// Whether the packet is an error message itself (RFC 1122 3.2.2, RFC 4443 2.4), or cannot be told not to be.
#[inline(always)]
fn is_error(skb: &SkBuff, transport: Transport) -> bool {
    match transport.protocol {
        ICMP => !matches!(skb.load::<u8>(transport.at), Ok(0 | 8..=10 | 13..=18 | 40..)),
        // Redirects are no errors, and not answered either.
        ICMPV6 => !matches!(skb.load::<u8>(transport.at), Ok(128..=136 | 138..)),
        _ => false,
    }
}

/// The sum of the IP packet, which has this length.
#[inline(always)]
fn sum(skb: &SkBuff, length: usize) -> Result<u64, DropReason> {
    let mut sum = 0;
    let mut done = 0;
    for _ in 0..LONGEST_V6 / CHUNK {
        if done + CHUNK > length {
            break;
        }
        let words = skb.load::<[u32; CHUNK / 4]>(ETHERNET + done).map_err(|_| DropReason::Truncated)?;
        let [a, b, c, d] = words.map(u64::from);
        sum += a + b + c + d;
        done += CHUNK;
    }
    for place in 0..CHUNK - 1 {
        if done >= length {
            break;
        }
        let byte = skb.load::<u8>(ETHERNET + done).map_err(|_| DropReason::Truncated)?;
        let half = if place % 2 == 0 { [byte, 0] } else { [0, byte] };
        sum += u64::from(u16::from_ne_bytes(half));
        done += 1;
    }
    Ok(sum)
}
