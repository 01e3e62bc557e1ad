//! Ethernet frames, built field by field, so that a test says what comes out by changing what went in.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// The port that UDP packets of tests go to.
pub(crate) const PORT: u16 = 7000;

/// MLDv2 report; it has a hop-by-hop header before it.
pub(crate) const LISTENER_REPORT: u8 = 143;

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
    /// With an IPv4 option or an IPv6 extension header.
    pub(crate) with_options: bool,
    /// What it carries.
    pub(crate) content: Content,
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// UDP with this text, to [`PORT`].
    Udp(&'static str),
    /// An ICMPv6 message of this type.
    Icmpv6(u8),
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
            with_options: false,
            content: Content::Udp("weft"),
        }
    }

    /// An ICMPv6 message.
    pub(crate) fn icmpv6(source: &str, destination: &str, message_type: u8) -> Self {
        Self { content: Content::Icmpv6(message_type), hop_limit: 255, ..Self::udp(source, destination) }
    }

    /// The same with another TTL or hop limit.
    pub(crate) fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// The same between other MAC addresses.
    pub(crate) fn macs(self, from: Mac, to: Mac) -> Self {
        Self { from, to, ..self }
    }

    /// The same with an IPv4 option or an IPv6 extension header.
    pub(crate) fn options(self) -> Self {
        Self { with_options: true, ..self }
    }

    /// The same with another text.
    pub(crate) fn text(self, text: &'static str) -> Self {
        Self { content: Content::Udp(text), ..self }
    }

    /// What goes over the wire, with right checksums.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let step = PacketBuilder::ethernet2(self.from, self.to).ip(self.ip_headers());
        let mut bytes = Vec::new();
        match self.content {
            Content::Udp(text) => step.udp(4000, PORT).write_to_vec(&mut bytes, text.as_bytes()),
            Content::Icmpv6(message_type) => {
                step.icmpv6_raw(message_type, 0, [0; 4]).write_to_vec(&mut bytes, &[0; 16])
            }
        }
        .expect("a packet of this size can be built");
        bytes
    }

    /// The frame cut short at every length, from one byte after the Ethernet header to one byte before the end of the IP header.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = Vec<u8>> + use<> {
        let header = if self.source.is_ipv4() { 20 } else { 40 };
        let bytes = self.bytes();
        (15..14 + header).map(move |length| bytes[..length].to_vec())
    }

    fn ip_headers(&self) -> IpHeaders {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    time_to_live: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                if self.with_options {
                    // Router alert, RFC 2113.
                    header.options = [148, 4, 0, 0].into();
                }
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                let hop_by_hop = self.with_options || matches!(self.content, Content::Icmpv6(LISTENER_REPORT));
                // Router alert, RFC 2711, and two bytes of padding.
                let options = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[5, 2, 0, 0, 1, 0]).expect("a legal length");
                let hop_by_hop_options = hop_by_hop.then_some(options);
                IpHeaders::Ipv6(header, Ipv6Extensions { hop_by_hop_options, ..Ipv6Extensions::default() })
            }
            mixed => panic!("a packet has one family: {mixed:?}"),
        }
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
