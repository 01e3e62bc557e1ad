//! Ethernet and IP headers, and what is changed in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_common::reason::DropReason;

use super::checksum;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(super) const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const IPV6: usize = 40;
/// Congestion experienced: both bits of the mark (RFC 3168).
pub(super) const CONGESTION: u8 = 3;

const ICMPV6: u8 = 58;

/// What a frame carries.
#[derive(Debug)]
pub(super) enum Content {
    /// Address resolution.
    Arp,
    /// An IP packet.
    Ip(Packet),
}

/// An IP header, right behind an Ethernet header.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hop_limit: u8,
    /// IPv4 protocol or IPv6 next header.
    pub(super) protocol: u8,
    /// The mark of congestion.
    pub(super) mark: u8,
    /// Bytes of the header, with options of IPv4 and without extension headers of IPv6.
    pub(super) length: usize,
}

impl Packet {
    pub(super) const fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }
}

/// Bytes of a frame from an offset on; `None` where it is shorter.
pub(super) fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

/// A number of two bytes.
pub(super) fn number(frame: &[u8], at: usize) -> Option<u16> {
    bytes(frame, at).map(u16::from_be_bytes)
}

/// Reads the headers of a frame.
pub(super) fn read(frame: &[u8]) -> Result<Content, DropReason> {
    match bytes(frame, 12).ok_or(DropReason::Truncated)? {
        [0x08, 0x06] => Ok(Content::Arp),
        [0x08, 0x00] => read_v4(frame).map(Content::Ip),
        [0x86, 0xdd] => read_v6(frame).map(Content::Ip),
        _ => Err(DropReason::NotIp),
    }
}

fn read_v4(frame: &[u8]) -> Result<Packet, DropReason> {
    let header: [u8; IPV4] = bytes(frame, ETHERNET).ok_or(DropReason::Truncated)?;
    let [version, words] = [header[0] / 16, header[0] % 16];
    if version != 4 || words < 5 {
        return Err(DropReason::NotIp);
    }
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into();
    Ok(Packet {
        source: address(12),
        destination: address(16),
        hop_limit: header[8],
        protocol: header[9],
        mark: header[1] & CONGESTION,
        length: usize::from(words) * 4,
    })
}

fn read_v6(frame: &[u8]) -> Result<Packet, DropReason> {
    let header: [u8; IPV6] = bytes(frame, ETHERNET).ok_or(DropReason::Truncated)?;
    let address = |at: usize| bytes(&header, at).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_octets);
    let [source, destination] = [address(8), address(24)];
    // An IPv4 address in an IPv6 header is nobody's (RFC 4291, 2.5.5.2, has it for programs only).
    if header[0] / 16 != 6 || [source, destination].iter().any(|address| address.to_ipv4_mapped().is_some()) {
        return Err(DropReason::NotIp);
    }
    Ok(Packet {
        source: source.into(),
        destination: destination.into(),
        hop_limit: header[7],
        protocol: header[6],
        mark: (header[1] / 16) & CONGESTION,
        length: IPV6,
    })
}

/// Whether this is one of the messages by which a link keeps itself in order, from an address that has a meaning on the link only.
pub(super) fn is_link_message(frame: &[u8], packet: &Packet) -> bool {
    let IpAddr::V6(source) = packet.source else { return false };
    if !source.is_unicast_link_local() && !source.is_unspecified() {
        return false;
    }
    let payload = frame.get(ETHERNET + IPV6..).unwrap_or_default();
    let message = match (packet.protocol, payload) {
        (ICMPV6, [message, ..]) => *message,
        // A hop-by-hop header of eight bytes: listener reports have one.
        (0, [ICMPV6, 0, _, _, _, _, _, _, message, ..]) => *message,
        _ => return false,
    };
    // Listener query, report and done; the five of RFC 4861; the listener report of RFC 3810.
    [130, 131, 132, 133, 134, 135, 136, 137, 143].contains(&message)
}

/// Writes TTL or hop limit.
pub(super) fn set_hop_limit(frame: &mut [u8], packet: &Packet, hop_limit: u8) {
    let at = ETHERNET + if packet.is_v4() { 8 } else { 7 };
    change(frame, packet, at, hop_limit);
}

/// Marks a packet with congestion.
pub(super) fn set_congestion(frame: &mut [u8], packet: &Packet) {
    let marked = frame[ETHERNET + 1] | if packet.is_v4() { CONGESTION } else { CONGESTION << 4 };
    change(frame, packet, ETHERNET + 1, marked);
}

/// Writes a byte of the IP header, and the checksum that goes with it.
fn change(frame: &mut [u8], packet: &Packet, at: usize, byte: u8) {
    if !packet.is_v4() {
        frame[at] = byte;
        return;
    }
    let word = at - at % 2;
    let read = |frame: &[u8], at| number(frame, at).unwrap_or_default();
    let header = ETHERNET..ETHERNET + packet.length;
    let was_right = frame.get(header.clone()).is_some_and(checksum::is_right);
    let before = read(frame, word);
    frame[at] = byte;
    let checksum = checksum::after_change(read(frame, ETHERNET + 10), before, read(frame, word));
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    // Counted whole, as the receiver will do it.
    assert!(!was_right || checksum::is_right(&frame[header]), "the oracle's own checksum is wrong: {frame:02x?}");
}
