//! What a pod sends to a Service is what it would have sent to the backend, and the backend's answer is one of the Service.

use std::net::IpAddr;

use weft_common::reason::Program;

use super::checksum::after_change;
use super::header::{self, Content, ETHERNET, Packet, bytes, number};
use super::header_chain::{self, Payload};
use super::{Expected, from_pod};
use crate::packets::case::Case;
use crate::packets::cluster::{self, SERVICE_PORT};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// An address and a port.
type End = (IpAddr, u16);

/// What becomes of a packet on a node with Services.
#[derive(Debug)]
pub enum Becomes {
    /// The same as without.
    Plain(Expected),
    /// Another packet, and what becomes of that.
    Translated(Translated),
    /// It is refused in words, or, where it may not be answered, dropped.
    Refused,
    /// It ends before what would have to be written, or says so: it is dropped, or goes on as anything but what it is. It may have begun a flow.
    TooShort(Option<Ends>),
    /// A fragment, which may wait or be dropped, and else becomes this; `None`: anything but what it is.
    Fragment(Option<Expected>),
}

/// A packet between a client and a backend.
#[derive(Debug)]
pub struct Translated {
    /// The packet.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub expected: Expected,
    /// Between whom.
    pub ends: Ends,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client.
    pub client: End,
    /// What it asked.
    pub service: End,
    /// Who answers.
    pub backend: End,
    /// The protocol.
    pub protocol: u8,
}

/// What becomes of the packet of a case.
pub fn expect(case: &Case) -> Becomes {
    let expected = super::expect(case);
    if matches!(expected, Expected::Drop(_)) {
        return Becomes::Plain(expected);
    }
    let Ok(Content::Ip(packet)) = header::read(&case.frame) else { return Becomes::Plain(expected) };
    let payload = header_chain::walk(&case.frame, &packet);
    let service = cluster::service(packet.destination).filter(|_| case.program == Program::FromPod);
    let is_fragment = !matches!(payload, Ok(Payload::Transport { in_fragments: false, .. }));
    let Some(service) = service.filter(|_| packet.hop_limit > 1) else {
        return if is_fragment { Becomes::Fragment(Some(expected)) } else { Becomes::Plain(expected) };
    };
    let frame = &case.frame;
    let Ok(Payload::Transport { protocol, at, in_fragments: false }) = payload else {
        return Becomes::Fragment(None);
    };
    if !matches!(protocol, TCP | UDP | SCTP) {
        return Becomes::Refused;
    }
    let (Some(from), Some(to)) = (number(frame, at), number(frame, at + 2)) else { return Becomes::TooShort(None) };
    if to != SERVICE_PORT || !begins(frame, protocol, at) {
        return Becomes::Refused;
    }
    let ends =
        Ends { client: (packet.source, from), service: (service.address, to), backend: service.backend, protocol };
    // The checksum of SCTP depends on how much there is.
    let is_whole = protocol != SCTP || at + 12 <= end(frame, &packet);
    let Some(frame) = rewritten(frame, Side::Destination, service.backend).filter(|_| is_whole) else {
        return Becomes::TooShort(Some(ends));
    };
    let expected = from_pod::expect(&Case { frame: frame.clone(), ..case.clone() }).unwrap_or_else(Expected::Drop);
    Becomes::Translated(Translated { frame, expected, ends })
}

/// Whether a packet begins a flow.
fn begins(frame: &[u8], protocol: u8, at: usize) -> bool {
    match protocol {
        // SYN, and neither ACK nor RST nor FIN.
        TCP => frame.get(at + 13).is_some_and(|flags| flags & 0b1_0111 == 0b0_0010),
        // INIT.
        SCTP => frame.get(at + 12) == Some(&1),
        _ => true,
    }
}

/// Which end of a packet is another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// A packet with another address and port; `None` where a checksum is missing that must be written.
fn rewritten(frame: &[u8], side: Side, (address, port): End) -> Option<Vec<u8>> {
    let Ok(Content::Ip(packet)) = header::read(frame) else { return None };
    let Ok(Payload::Transport { protocol, at, .. }) = header_chain::walk(frame, &packet) else { return None };
    let old_port = number(frame, at + port_at(side))?;
    let place = address_at(&packet, side);
    let new_address = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut new = frame.to_vec();
    new[place..place + new_address.len()].copy_from_slice(&new_address);
    new[at + port_at(side)..at + port_at(side) + 2].copy_from_slice(&port.to_be_bytes());
    let addresses = place..place + new_address.len();
    let ports = at + port_at(side)..at + port_at(side) + 2;
    let change = |checksum: u16, range: std::ops::Range<usize>| {
        range.step_by(2).fold(checksum, |checksum, at| match (number(frame, at), number(&new, at)) {
            (Some(before), Some(after)) => after_change(checksum, before, after),
            _ => checksum,
        })
    };
    let header = packet.is_v4().then(|| change(number(frame, ETHERNET + 10).unwrap_or_default(), addresses.clone()));
    let transport = match protocol {
        UDP => Some((at + 6, number(frame, at + 6)?)).filter(|(_, checksum)| *checksum != 0),
        TCP => Some((at + 16, number(frame, at + 16)?)),
        _ => None,
    };
    let transport = transport.map(|(place, checksum)| {
        let checksum = change(change(checksum, addresses), ports);
        // Of UDP zero says that there is none (RFC 768).
        (place, if protocol == UDP && checksum == 0 { u16::MAX } else { checksum })
    });
    if let Some(checksum) = header {
        new[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    }
    if let Some((place, checksum)) = transport {
        new[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    if protocol == SCTP && old_port != port {
        let checksum = u32::from_le_bytes(bytes(frame, at + 8)?);
        if checksum != 0 {
            let end = end(frame, &packet);
            let checksum = checksum ^ crc_of_difference(frame, &new, at, end);
            new[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    Some(new)
}

/// Where the IP packet ends: as it says itself, or where the frame does. What says nothing, or more than there is, is all of the frame.
fn end(frame: &[u8], packet: &Packet) -> usize {
    let (at, before) = if packet.is_v4() { (ETHERNET + 2, 0) } else { (ETHERNET + 4, header::IPV6) };
    let said = number(frame, at).filter(|said| *said != 0).map(|said| ETHERNET + before + usize::from(said));
    said.filter(|end| *end <= frame.len()).unwrap_or(frame.len())
}

/// By how much the CRC32c of two SCTP packets differs that differ in their ports: byte by byte over all of their length, be it there or not.
fn crc_of_difference(before: &[u8], after: &[u8], at: usize, end: usize) -> u32 {
    let mut crc = 0;
    for place in at..end {
        let byte = |frame: &[u8]| if place < at + 4 { frame.get(place).copied().unwrap_or_default() } else { 0 };
        crc ^= u32::from(byte(before) ^ byte(after));
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    crc
}

const fn port_at(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Destination => 2,
    }
}

const fn address_at(packet: &Packet, side: Side) -> usize {
    ETHERNET
        + match (packet.is_v4(), side) {
            (true, Side::Source) => 12,
            (true, Side::Destination) => 16,
            (false, Side::Source) => 8,
            (false, Side::Destination) => 24,
        }
}

/// Whether a frame has the destination of another, which has no outer header.
pub fn has_destination_of(frame: &[u8], other: &[u8]) -> bool {
    match (header::read(frame), header::read(other)) {
        (Ok(Content::Ip(packet)), Ok(Content::Ip(other))) => packet.destination == other.destination,
        _ => false,
    }
}

/// A frame as its pod gets it.
pub fn delivered(frame: &[u8]) -> Option<Vec<u8>> {
    let Ok(Content::Ip(packet)) = header::read(frame) else { return None };
    Some(super::delivered(frame, &packet, cluster::pod(packet.destination)?))
}

impl Translated {
    /// What the backend answers: the same packet, the other way.
    pub fn answer(&self) -> Vec<u8> {
        let mut answer = self.frame.clone();
        if let Ok(Content::Ip(packet)) = header::read(&self.frame) {
            let length = if packet.is_v4() { 4 } else { 16 };
            let [source, destination] = [Side::Source, Side::Destination].map(|side| address_at(&packet, side));
            answer[source..source + length].copy_from_slice(&self.frame[destination..destination + length]);
            answer[destination..destination + length].copy_from_slice(&self.frame[source..source + length]);
            if let Ok(Payload::Transport { at, .. }) = header_chain::walk(&self.frame, &packet) {
                answer[at..at + 2].copy_from_slice(&self.frame[at + 2..at + 4]);
                answer[at + 2..at + 4].copy_from_slice(&self.frame[at..at + 2]);
            }
        }
        answer
    }

    /// The answer as the client hears it.
    pub fn heard(&self, answer: &[u8]) -> Option<Vec<u8>> {
        rewritten(answer, Side::Source, self.ends.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet that is right before and after: by counting all of it.
    #[test]
    fn a_packet_with_right_checksums_has_right_ones_at_the_backend() {
        use etherparse::{SlicedPacket, TransportSlice};
        for service in &cluster::SERVICES {
            let from = cluster::PODS[0].addresses[usize::from(service.address.is_ipv6())];
            let builder = match (from, service.address) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.octets(), to.octets(), 64)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.octets(), to.octets(), 64)
                }
                mixed => panic!("{mixed:?}"),
            };
            let mut frame = Vec::new();
            builder.udp(4000, SERVICE_PORT).write(&mut frame, b"weft?").unwrap();
            let new = rewritten(&frame, Side::Destination, service.backend).unwrap();
            let sliced = SlicedPacket::from_ethernet(&new).unwrap();
            let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("{sliced:?}") };
            let right = match (from, service.backend.0) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    udp.to_header().calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    udp.to_header().calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload())
                }
                mixed => panic!("{mixed:?}"),
            };
            assert_eq!(udp.checksum(), right.unwrap());
            assert_eq!(udp.destination_port(), service.backend.1);
        }
    }
}
