//! Whether a packet fits into the tunnel.

use aya_ebpf::programs::sk_buff::SkBuff;

use crate::header_chain::Transport;
use crate::packet::{ETHERNET, IPV6, TCP, UDP};

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of the hop-by-hop header with the length of an IPv6 packet of more than 64 KiB (RFC 2675).
const JUMBO_HEADER: usize = 8;
/// The largest payload of an IPv6 packet without one.
const LARGEST_PAYLOAD: u32 = 0xffff;

/// Whether an IP packet, or each segment that the kernel makes of it later (GSO), has at most `mtu` bytes. Where only the kernel
/// can tell, it is said not to: the host's stack looks closer.
#[inline(always)]
pub(crate) fn fits(skb: &SkBuff, transport: Option<Transport>, mtu: u32) -> bool {
    // SAFETY: the kernel gives programs a valid context.
    let segment = unsafe { (*skb.skb).gso_size };
    let length = if segment == 0 {
        skb.len().wrapping_sub(ETHERNET as u32)
    } else {
        let Some(Transport { protocol, at, .. }) = transport else { return false };
        // The kernel gives large packets this header, and takes it away where it makes segments.
        let is_jumbo = at == ETHERNET + IPV6 + JUMBO_HEADER && skb.len() > LARGEST_PAYLOAD + (ETHERNET + IPV6) as u32;
        let lost = if is_jumbo { JUMBO_HEADER } else { 0 };
        let header = match protocol {
            // The data offset, in words, is the high half of its byte.
            TCP => match skb.load::<u8>(at + 12) {
                Ok(offset) => (offset >> 4) as usize * 4,
                Err(_) => return false,
            },
            UDP => UDP_HEADER,
            _ => return false,
        };
        (at - ETHERNET - lost + header) as u32 + segment
    };
    length <= mtu
}
