//! The way from an IP header to the transport header.

use weft_common::reason::DropReason;

use super::header::{ETHERNET, IPV4, Packet, bytes, number};

/// Most extension headers that anybody sends.
const MOST: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// IPv4 options.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// What the length of an extension header counts.
enum Unit {
    /// Eight bytes, without the first eight (RFC 8200).
    Eight,
    /// Four bytes, without the first eight (RFC 4302).
    Four,
    /// There is none: the header has eight bytes.
    None,
}

/// What comes after all headers of IP.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// A transport header, or what there is of it.
    Transport {
        /// Its protocol.
        protocol: u8,
        /// Where it begins in the frame.
        at: usize,
        /// A fragment header came before it, or more fragments come.
        in_fragments: bool,
    },
    /// A fragment that is not the first: its transport header came before.
    LaterFragment,
}

/// Walks from the IP header to the transport header.
pub(super) fn walk(frame: &[u8], packet: &Packet) -> Result<Payload, DropReason> {
    if packet.is_v4() { walk_v4(frame, packet) } else { walk_v6(frame, packet) }
}

fn walk_v4(frame: &[u8], packet: &Packet) -> Result<Payload, DropReason> {
    let at = ETHERNET + packet.length;
    let options = frame.get(ETHERNET + IPV4..at).ok_or(DropReason::BadHeaderChain)?;
    check_options(options)?;
    let fragment = number(frame, ETHERNET + 6).ok_or(DropReason::Truncated)?;
    // Three flags, then the offset.
    Ok(if fragment % 0x2000 == 0 {
        Payload::Transport { protocol: packet.protocol, at, in_fragments: fragment & 0x2000 != 0 }
    } else {
        Payload::LaterFragment
    })
}

fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    loop {
        options = match options {
            [] | [END_OF_OPTIONS, ..] => return Ok(()),
            [NO_OPERATION, rest @ ..] => rest,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::SourceRouted),
            [_, length, ..] if *length >= 2 => options.get(usize::from(*length)..).ok_or(DropReason::BadHeaderChain)?,
            _ => return Err(DropReason::BadHeaderChain),
        };
    }
}

fn walk_v6(frame: &[u8], packet: &Packet) -> Result<Payload, DropReason> {
    let mut at = ETHERNET + packet.length;
    let mut protocol = packet.protocol;
    let mut headers = 0;
    let mut in_fragments = false;
    loop {
        let unit = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => Unit::Eight,
            AUTHENTICATION => Unit::Four,
            FRAGMENT => Unit::None,
            // After extension headers there must be something, unless the last one says that there is nothing.
            _ if headers > 0 && protocol != NO_NEXT_HEADER && at >= frame.len() => {
                return Err(DropReason::BadHeaderChain);
            }
            _ => return Ok(Payload::Transport { protocol, at, in_fragments }),
        };
        headers += 1;
        let [next, length, _, segments_left] = bytes(frame, at).ok_or(DropReason::BadHeaderChain)?;
        if headers > MOST {
            return Err(DropReason::BadHeaderChain);
        }
        if protocol == ROUTING && segments_left != 0 {
            return Err(DropReason::SourceRouted);
        }
        if protocol == FRAGMENT && number(frame, at + 2).is_some_and(|offset_and_flags| offset_and_flags / 8 != 0) {
            return Ok(Payload::LaterFragment);
        }
        in_fragments |= protocol == FRAGMENT;
        at += match unit {
            Unit::Eight => (usize::from(length) + 1) * 8,
            Unit::Four => (usize::from(length) + 2) * 4,
            Unit::None => 8,
        };
        if at > frame.len() {
            return Err(DropReason::BadHeaderChain);
        }
        protocol = next;
    }
}
