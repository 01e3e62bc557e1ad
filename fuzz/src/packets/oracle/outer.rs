//! The packet around a packet: what another node must be able to read.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::{Ethernet2Header, IpEcn, IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
use weft_common::layout::VXLAN_PORT;

use super::header::{CONGESTION, number};

/// MAC addresses of frames in the tunnel.
pub(super) const INNER_SOURCE: [u8; 6] = *b"\x06weft\x01";
pub(super) const INNER_DESTINATION: [u8; 6] = *b"\x06weft\x02";
/// Source ports: the kernel's own range for tunnels.
const PORTS: Range<u16> = 32768..60999;
/// The flag that says that there is a network identifier, and identifier 1.
const VXLAN: [u8; 8] = [0x08, 0, 0, 0, 0, 0, 1, 0];
const HOPS: u8 = 64;
/// Capable of congestion marks, ECT(0).
const CAPABLE: u8 = 2;

/// A packet of ours with a frame in it.
#[derive(Debug)]
pub struct Encapsulated {
    /// The outer source.
    pub source: IpAddr,
    /// The outer destination.
    pub destination: IpAddr,
    /// The inner packet's mark of congestion.
    pub mark: u8,
    /// The frame.
    pub inner: Vec<u8>,
}

impl Encapsulated {
    /// Whether a frame is such a packet. Its Ethernet header is written when it leaves; identification and source port are free.
    pub fn is_carried_by(&self, frame: &[u8]) -> bool {
        let Some(source_port) = self.source_port(frame).filter(|port| PORTS.contains(port)) else { return false };
        let content = [&VXLAN[..], &self.inner].concat();
        let length = (UdpHeader::LEN + content.len()) as u16;
        let udp = UdpHeader { source_port, destination_port: VXLAN_PORT, length, checksum: 0 };
        let packet = frame.get(Ethernet2Header::LEN..).unwrap_or_default();
        let header = self.ip_header(length, number(packet, 4).unwrap_or_default());
        packet == [&header[..], &udp.to_bytes(), &content].concat()
    }

    /// The source port of such a packet.
    pub fn source_port(&self, frame: &[u8]) -> Option<u16> {
        number(frame, Ethernet2Header::LEN + if self.source.is_ipv4() { Ipv4Header::MIN_LEN } else { Ipv6Header::LEN })
    }

    fn ip_header(&self, length: u16, identification: u16) -> Vec<u8> {
        // Congestion that the packet met before is not told outside: the full-functionality option of RFC 3168, 9.1.1, as in the
        // kernel's tunnels.
        let mark = if self.mark == CONGESTION { CAPABLE } else { self.mark };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    ecn: IpEcn::try_new(mark).unwrap_or_default(),
                    total_len: Ipv4Header::MIN_LEN as u16 + length,
                    identification,
                    dont_fragment: false,
                    time_to_live: HOPS,
                    protocol: IpNumber::UDP,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: mark,
                    payload_length: length,
                    next_header: IpNumber::UDP,
                    hop_limit: HOPS,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                header.to_bytes().to_vec()
            }
            mixed => panic!("the underlay has one family for two nodes: {mixed:?}"),
        }
    }
}
