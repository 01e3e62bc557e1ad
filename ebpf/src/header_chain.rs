//! IPv4 options and IPv6 extension headers: legal, but never a way around a check. The few packets that have them are walked
//! through; all others pay one comparison.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::sk_buff::SkBuff;
use weft_common::reason::DropReason;

use crate::packet::{ETHERNET, Family, IPV4, IPV6, Packet};
use crate::step::{self, Step};

/// Numbers of IPv6 extension headers (IANA, "IPv6 Extension Header Types").
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
/// Extension headers of one packet. RFC 8200 recommends an order in which there are at most seven.
pub(crate) const MOST_EXTENSIONS: usize = 8;
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
                step::outcome(weft_check_options(skb.skb, at as u32))?;
            }
            let transport = Transport { protocol: packet.next_header, at, is_fragment: packet.more_fragments };
            Ok((!packet.later_fragment).then_some(transport))
        }
        Family::V6 if is_extension(packet.next_header) => read(weft_walk(skb.skb, packet.next_header.into())),
        Family::V6 => Ok(Some(Transport { protocol: packet.next_header, at, is_fragment: false })),
    }
}

/// What [`weft_walk`] gives where it found a transport header: this, its number, where it begins, and whether it is in a fragment.
const FOUND: i32 = 1 << 30;
const FRAGMENTED: i32 = 1 << 29;
/// Bits of the number, and of the place: that of the last of so many extension headers as large as can be.
const PROTOCOL_BITS: u32 = 8;
const PLACE_BITS: u32 = 15;
const _: () = assert!(
    ETHERNET + IPV6 + MOST_EXTENSIONS * 256 * 8 < 1 << PLACE_BITS && 1 << (PROTOCOL_BITS + PLACE_BITS) < FRAGMENTED
);

#[inline(always)]
fn read(walked: i32) -> Result<Option<Transport>, DropReason> {
    if walked & FOUND == 0 {
        return step::outcome(walked).map(|_| None);
    }
    Ok(Some(Transport {
        protocol: walked as u8,
        at: (walked >> PROTOCOL_BITS) as usize & ((1 << PLACE_BITS) - 1),
        is_fragment: walked & FRAGMENTED != 0,
    }))
}

/// Checks IPv4 options, which end where the transport header begins.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_check_options(skb: *mut __sk_buff, end: u32) -> i32 {
    step::result(check_options(&SkBuff::new(skb), end as usize).map(|()| Step::Done))
}

#[inline(always)]
fn check_options(skb: &SkBuff, end: usize) -> Result<(), DropReason> {
    byte(skb, end.wrapping_sub(1))?;
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

/// Whether a number is that of an extension header.
#[inline(always)]
pub(crate) const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6
    )
}

/// Bytes of the extension header with a number, whose second byte is this.
#[inline(always)]
pub(crate) const fn extension_bytes(number: u8, length: u8) -> usize {
    match number {
        FRAGMENT => 8,
        AUTHENTICATION => (length as usize + 2) * 4,
        _ => (length as usize + 1) * 8,
    }
}

/// Walks the extension headers of an IPv6 packet, of which the first has this number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weft_walk(skb: *mut __sk_buff, first: u32) -> i32 {
    match walk(&SkBuff::new(skb), first as u8) {
        Ok(Some(Transport { protocol, at, is_fragment })) => {
            let fragmented = if is_fragment { FRAGMENTED } else { 0 };
            FOUND | fragmented | (at as i32) << PROTOCOL_BITS | i32::from(protocol)
        }
        Ok(None) => step::result(Ok(Step::Nothing)),
        Err(reason) => step::result(Err(reason)),
    }
}

#[inline(always)]
fn walk(skb: &SkBuff, first: u8) -> Result<Option<Transport>, DropReason> {
    let (mut protocol, mut at, mut is_fragment) = (first, ETHERNET + IPV6, false);
    for _ in 0..MOST_EXTENSIONS {
        let [next, length] = [byte(skb, at)?, byte(skb, at + 1)?];
        match protocol {
            ROUTING if byte(skb, at + 3)? != 0 => return Err(DropReason::SourceRouted),
            FRAGMENT => {
                let offset = u16::from_be_bytes([byte(skb, at + 2)?, byte(skb, at + 3)?]);
                if offset & FRAGMENT_OFFSET != 0 {
                    return Ok(None);
                }
                is_fragment |= offset & MORE_FRAGMENTS != 0;
            }
            _ => (),
        }
        at += extension_bytes(protocol, length);
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
