//! IPv4 options and IPv6 extension headers: legal, but never a way around a check. The few packets that have them are walked
//! through; all others pay one comparison.

use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::packet::{ETHERNET, Family, IPV4, Packet};

/// Numbers of IPv6 extension headers (IANA, "IPv6 Extension Header Types").
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
/// Extension headers of one packet. RFC 8200 recommends an order in which there are at most seven.
const MOST_EXTENSIONS: usize = 8;
/// Fragment offset in the half word of a fragment header.
const FRAGMENT_OFFSET: u16 = 0xfff8;
/// The flag there that more fragments follow.
const MORE_FRAGMENTS: u16 = 1;

/// IPv4 options (RFC 791): end of list, no operation, loose and strict source route.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
/// Most bytes of options.
const MOST_OPTIONS: usize = 40;

/// What an IP packet carries.
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    /// Its number.
    pub(crate) protocol: u8,
    /// Where its header begins, in bytes from the start of the frame.
    pub(crate) at: usize,
    /// The packet is the first fragment of several: only a part of the content follows.
    pub(crate) is_fragment: bool,
}

/// The transport header; `None` in a fragment that has not its beginning.
#[inline(always)]
pub(crate) fn transport(skb: &SkBuff, packet: &Packet) -> Result<Option<Transport>, DropReason> {
    let at = ETHERNET + packet.header_length;
    match packet.family {
        Family::V4 => {
            if packet.header_length > IPV4 {
                byte(skb, at - 1)?;
                check_options(skb, at)?;
            }
            let transport = Transport { protocol: packet.next_header, at, is_fragment: packet.more_fragments };
            Ok((!packet.later_fragment).then_some(transport))
        }
        Family::V6 if is_extension(packet.next_header) => walk(skb, packet.next_header, at),
        Family::V6 => Ok(Some(Transport { protocol: packet.next_header, at, is_fragment: false })),
    }
}

#[inline(always)]
fn check_options(skb: &SkBuff, end: usize) -> Result<(), DropReason> {
    let mut at = ETHERNET + IPV4;
    for _ in 0..MOST_OPTIONS {
        if at >= end {
            return Ok(());
        }
        match byte(skb, at)? {
            END => return Ok(()),
            NO_OPERATION => at += 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRouted),
            _ => {
                let length = byte(skb, at + 1)? as usize;
                if length < 2 || at + length > end {
                    return Err(DropReason::BadHeaderChain);
                }
                at += length;
            }
        }
    }
    Ok(())
}

/// Whether other headers may come between the IP header and the transport's.
#[inline(always)]
pub(crate) fn comes_later(packet: &Packet) -> bool {
    packet.family == Family::V6 && is_extension(packet.next_header)
}

#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6
    )
}

#[inline(always)]
fn walk(skb: &SkBuff, first: u8, start: usize) -> Result<Option<Transport>, DropReason> {
    let (mut protocol, mut at, mut is_fragment) = (first, start, false);
    for _ in 0..MOST_EXTENSIONS {
        let [next, length] = [byte(skb, at)?, byte(skb, at + 1)?];
        let bytes = match protocol {
            ROUTING if byte(skb, at + 3)? != 0 => return Err(DropReason::SourceRouted),
            FRAGMENT => {
                let offset = u16::from_be_bytes([byte(skb, at + 2)?, byte(skb, at + 3)?]);
                if offset & FRAGMENT_OFFSET != 0 {
                    return Ok(None);
                }
                is_fragment |= offset & MORE_FRAGMENTS != 0;
                8
            }
            AUTHENTICATION => (length as usize + 2) * 4,
            _ => (length as usize + 1) * 8,
        };
        at += bytes;
        protocol = next;
        if !is_extension(protocol) {
            // Where nothing comes next, the last header must be whole.
            byte(skb, if protocol == NO_NEXT { at - 1 } else { at })?;
            return Ok(Some(Transport { protocol, at, is_fragment }));
        }
    }
    Err(DropReason::BadHeaderChain)
}

/// A byte of the chain. It is rare enough for a call each.
#[inline(always)]
fn byte(skb: &SkBuff, at: usize) -> Result<u8, DropReason> {
    skb.load(at).map_err(|_| DropReason::BadHeaderChain)
}
