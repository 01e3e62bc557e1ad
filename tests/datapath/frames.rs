//! Ethernet frames, built field by field, so that a test says what comes out by changing what went in.

use std::net::IpAddr;

use weft_common::layout::{POD_VNI, VXLAN_PORT};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// The port that packets of tests go to.
pub(crate) const PORT: u16 = 7000;
/// MLDv2 report; it has a hop-by-hop header before it.
pub(crate) const LISTENER_REPORT: u8 = 143;
/// What stands between a UDP header and a frame in VXLAN: the flag that there is an identifier, and ours.
pub(crate) const VXLAN_HEADER: u64 = (0x0800_0000 << 32) | (POD_VNI as u64) << 8;

/// Numbers of protocols and of IPv6 extension headers (IANA).
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;

/// A frame with an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Source MAC address.
    pub(crate) from: Mac,
    /// Destination MAC address.
    pub(crate) to: Mac,
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// The byte of service or traffic class; its last two bits are those of congestion notification.
    pub(crate) service: u8,
    /// IPv4 identification.
    pub(crate) identification: u16,
    /// IPv4 half word of the fragment: flags, and the offset in units of eight bytes.
    pub(crate) fragment: u16,
    /// IPv4 options: whole words.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers.
    pub(crate) extensions: Vec<Extension>,
    /// What it carries.
    pub(crate) content: Content,
}

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    /// Its number.
    pub(crate) number: u8,
    /// All of it but the number of the next header, with which it begins.
    pub(crate) rest: Vec<u8>,
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// UDP.
    Udp { from: u16, to: u16, payload: Vec<u8>, with_checksum: bool },
    /// TCP to [`PORT`], or another one, with a header of so many bytes and as many bytes after it.
    Tcp { to: u16, header: usize, payload: usize },
    /// TCP of a connection: numbers, flags, and what it carries; the header has no options.
    Segment { from: u16, to: u16, sequence: u32, acknowledged: u32, flags: u8, payload: Vec<u8> },
    /// SCTP with a first chunk of this type, and its bytes.
    Sctp { from: u16, to: u16, chunk: u8, payload: Vec<u8> },
    /// An ICMPv6 message of this type.
    Icmpv6(u8),
    /// Anything: the number of its protocol, and its bytes.
    Other(u8, Vec<u8>),
}

impl Frame {
    /// A UDP packet between two addresses, given as text.
    pub(crate) fn udp(source: &str, destination: &str) -> Self {
        let [source, destination] = [source, destination].map(|text| text.parse().expect("tests write addresses"));
        Self {
            from: [2, 0, 0, 0, 0, 0x0a],
            to: [2, 0, 0, 0, 0, 0x0b],
            source,
            destination,
            hop_limit: 64,
            service: 0,
            identification: 0,
            fragment: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            content: Content::Udp { from: 4000, to: PORT, payload: b"weft".to_vec(), with_checksum: true },
        }
    }

    /// An ICMPv6 message.
    pub(crate) fn icmpv6(source: &str, destination: &str, message_type: u8) -> Self {
        let frame = Self::udp(source, destination).content(Content::Icmpv6(message_type)).hop_limit(255);
        if message_type == LISTENER_REPORT { frame.options() } else { frame }
    }

    /// A frame in a VXLAN packet between two nodes, with this VXLAN header.
    pub(crate) fn vxlan_with(header: u64, source: IpAddr, destination: IpAddr, inner: &[u8]) -> Self {
        let payload = [&header.to_be_bytes(), inner].concat();
        Self {
            source,
            destination,
            content: Content::Udp { from: 50_000, to: VXLAN_PORT, payload, with_checksum: false },
            ..Self::udp("0.0.0.0", "0.0.0.0")
        }
    }

    /// A frame in a VXLAN packet between two nodes.
    pub(crate) fn vxlan(source: IpAddr, destination: IpAddr, inner: &[u8]) -> Self {
        Self::vxlan_with(VXLAN_HEADER, source, destination, inner)
    }

    /// The same with another TTL or hop limit.
    pub(crate) fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// The same between other MAC addresses.
    pub(crate) fn macs(self, from: Mac, to: Mac) -> Self {
        Self { from, to, ..self }
    }

    /// The same with another byte of service or traffic class.
    pub(crate) fn service(self, service: u8) -> Self {
        Self { service, ..self }
    }

    /// The same with a harmless IPv4 option or IPv6 extension header: router alert (RFC 2113, RFC 2711).
    pub(crate) fn options(self) -> Self {
        if self.source.is_ipv4() {
            self.ipv4_options(&[148, 4, 0, 0])
        } else {
            self.extension(HOP_BY_HOP, &[0, 5, 2, 0, 0, 1, 0])
        }
    }

    /// The same with these IPv4 options, which are whole words.
    pub(crate) fn ipv4_options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// The same with one more IPv6 extension header: all of it but its first byte.
    pub(crate) fn extension(mut self, number: u8, rest: &[u8]) -> Self {
        self.extensions.push(Extension { number, rest: rest.to_vec() });
        self
    }

    /// The same as a fragment: its offset in units of eight bytes, and whether more follow.
    pub(crate) fn fragment(self, offset: u16, more: bool) -> Self {
        if self.source.is_ipv4() {
            Self { fragment: u16::from(more) << 13 | offset, ..self }
        } else {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            self.extension(FRAGMENT, &[0, high, low, 0, 0, 0, 9])
        }
    }

    /// The same to another port.
    pub(crate) fn port(mut self, port: u16) -> Self {
        match &mut self.content {
            Content::Udp { to, .. }
            | Content::Tcp { to, .. }
            | Content::Segment { to, .. }
            | Content::Sctp { to, .. } => *to = port,
            other => panic!("no port in {other:?}"),
        }
        self
    }

    /// The same from another port.
    pub(crate) fn source_port(mut self, port: u16) -> Self {
        match &mut self.content {
            Content::Udp { from, .. } | Content::Segment { from, .. } | Content::Sctp { from, .. } => *from = port,
            other => panic!("no source port in {other:?}"),
        }
        self
    }

    /// The same with something else in it.
    pub(crate) fn content(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// The same with this payload of UDP.
    pub(crate) fn payload(mut self, bytes: Vec<u8>) -> Self {
        match &mut self.content {
            Content::Udp { payload, .. } => *payload = bytes,
            other => panic!("no payload in {other:?}"),
        }
        self
    }

    /// The same with another text.
    pub(crate) fn text(self, text: &'static str) -> Self {
        self.payload(text.as_bytes().to_vec())
    }

    /// The same, its payload of UDP such that the IP packet has this length.
    pub(crate) fn length(self, length: usize) -> Self {
        let empty = self.clone().payload(Vec::new()).bytes().len() - ETHERNET;
        self.payload(vec![0x77; length - empty])
    }
}

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x0a, 0x08, 0x06]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    frame
}

/// A frame of an EtherType that nobody here speaks (MPLS).
pub(crate) fn mpls() -> Vec<u8> {
    let mut frame = Frame::udp("10.244.1.10", "10.244.1.11").bytes();
    frame[12..14].copy_from_slice(&[0x88, 0x47]);
    frame
}

/// A frame with a VLAN tag.
pub(crate) fn tagged(mut frame: Vec<u8>) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0x00, 0, 5]);
    frame
}
