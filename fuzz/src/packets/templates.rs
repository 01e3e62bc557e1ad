//! Frames to begin with: what pods and nodes really send. Inputs name one and change it.

use std::net::IpAddr;
use std::sync::OnceLock;

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
use weft_common::layout::VXLAN_PORT;

use super::cluster::{NODES, OWN_NODE, PODS, SERVICES};

/// What begins at an offset of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// An IPv4 header.
    Ipv4,
    /// An IPv6 header.
    Ipv6,
    /// A UDP header.
    Udp,
    /// A VXLAN header.
    Vxlan,
    /// Whatever comes after all headers.
    Payload,
}

/// A frame, and where its headers begin.
#[derive(Clone, Debug)]
pub struct Template {
    /// The bytes.
    pub frame: Vec<u8>,
    /// The headers, from the outermost on.
    pub layers: Vec<(Layer, usize)>,
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const SCTP: u8 = 132;
/// Where IP headers have the number of what they carry.
const IPV4_PROTOCOL: usize = 9;
const IPV6_NEXT_HEADER: usize = 6;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
/// Bytes of a VXLAN header: the flag for a network identifier, identifier 1.
const VXLAN: [u8; 8] = [0x08, 0, 0, 0, 0, 0, 1, 0];
/// The world.
const WORLD: [&str; 2] = ["198.51.100.7", "2001:db8:ffff::7"];

/// The template with a number.
pub fn get(number: u8) -> Template {
    static ALL: OnceLock<Vec<Template>> = OnceLock::new();
    let all = ALL.get_or_init(all);
    all[usize::from(number) % all.len()].clone()
}

/// All of them. Seeds name them by number: new ones go to the end.
fn all() -> Vec<Template> {
    let mut all = Vec::new();
    for family in [0, 1] {
        let [own, other] = [0, 1].map(|pod: usize| PODS[pod].addresses[family]);
        let world = address(WORLD[family]);
        for (to, protocol) in [(other, UDP), (world, UDP), (OWN_NODE.addresses[family], UDP), (world, TCP)] {
            all.push(plain(own, to, protocol));
        }
        for node in &NODES {
            all.push(plain(own, in_pod_cidr(node.number, family), UDP));
        }
        all.push(plain(world, own, UDP));
    }
    // What the kernel says on a link by itself: a neighbour solicitation, and a listener report with its hop-by-hop header.
    all.push(link_message(ICMPV6, &[135, 0]));
    all.push(link_message(HOP_BY_HOP, &[ICMPV6, 0, 5, 2, 0, 0, 1, 0, 143, 0]));
    // In the tunnel: each family in each, from a pod of another node to a pod of this one, and to the node.
    for (outer, node) in [(0, &NODES[1]), (1, &NODES[2])] {
        let source = *node.addresses.iter().find(|address| address.is_ipv4() == (outer == 0)).unwrap_or(&node.source);
        for inner in [0, 1] {
            let from = in_pod_cidr(node.number, inner);
            for (to, protocol) in [(PODS[0].addresses[inner], UDP), (PODS[1].addresses[inner], TCP)] {
                all.push(in_tunnel(source, OWN_NODE.addresses[outer], &plain(from, to, protocol)));
            }
            let to_node = plain(from, OWN_NODE.addresses[inner], UDP);
            all.push(in_tunnel(source, OWN_NODE.addresses[outer], &to_node));
            // The same without the outer header, for what comes after the kernel took it off.
            all.push(plain(from, PODS[0].addresses[inner], UDP));
            all.push(to_node);
        }
    }
    all.push(address_resolution());
    // VXLAN of a pod, which may reach no node.
    for family in [0, 1] {
        for node in &NODES[..2] {
            let to =
                node.addresses.into_iter().find(|address| address.is_ipv4() == (family == 0)).unwrap_or(node.source);
            let inner = plain(in_pod_cidr(1, family), in_pod_cidr(2, family), UDP);
            all.push(in_tunnel(PODS[0].addresses[family], to, &inner));
        }
    }
    // What begins a flow with a Service.
    for service in &SERVICES {
        let own = PODS[0].addresses[usize::from(service.address.is_ipv6())];
        for protocol in [UDP, TCP, SCTP] {
            all.push(beginning(own, service.address, protocol));
        }
    }
    all
}

fn in_pod_cidr(node: u8, family: usize) -> IpAddr {
    address(&[format!("10.244.{node}.77"), format!("fd00:10:244:{node}::77")][family])
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A packet with four bytes of payload.
fn plain(from: IpAddr, to: IpAddr, protocol: u8) -> Template {
    let payload = *b"weft";
    let transport = match protocol {
        UDP => [udp(4000, 7000, payload.len()), payload.to_vec()].concat(),
        _ => [&[0x0f, 0xa0, 0x1b, 0x58, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0], &payload[..]].concat(),
    };
    let mut template = ip(from, to, protocol, &transport);
    let at = template.frame.len() - transport.len();
    template.layers.push((if protocol == UDP { Layer::Udp } else { Layer::Payload }, at));
    template.layers.push((Layer::Payload, at + transport.len() - payload.len()));
    template
}

/// The first packet of a connection: SYN or INIT.
fn beginning(from: IpAddr, to: IpAddr, protocol: u8) -> Template {
    let mut template = plain(from, to, if protocol == SCTP { TCP } else { protocol });
    let at = template.layers[2].1;
    match protocol {
        TCP => template.frame[at + 13] = 2,
        SCTP => {
            // A checksum that is not right, but is one; then the chunk.
            template.frame[at + 8..at + 12].copy_from_slice(&[1, 2, 3, 4]);
            template.frame[at + 12] = 1;
            let protocol = if to.is_ipv4() { IPV4_PROTOCOL } else { IPV6_NEXT_HEADER };
            template.frame[Ethernet2Header::LEN + protocol] = SCTP;
            if let (IpAddr::V4(_), Ok((header, _))) =
                (to, Ipv4Header::from_slice(&template.frame[Ethernet2Header::LEN..]))
            {
                let checksum = header.calc_header_checksum().to_be_bytes();
                template.frame[Ethernet2Header::LEN + 10..][..2].copy_from_slice(&checksum);
            }
        }
        _ => (),
    }
    template
}

/// A packet of a link-local address to the link: what follows the IPv6 header, and zeros.
fn link_message(protocol: u8, beginning: &[u8]) -> Template {
    let mut content = beginning.to_vec();
    content.resize(24, 0);
    let mut template = ip(address("fe80::1"), address("ff02::16"), protocol, &content);
    template.layers.push((Layer::Payload, template.frame.len() - content.len()));
    template
}

fn address_resolution() -> Template {
    let mut frame = ethernet(EtherType::ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    Template { frame, layers: vec![(Layer::Ethernet, 0), (Layer::Payload, 14)] }
}

fn in_tunnel(from: IpAddr, to: IpAddr, inner: &Template) -> Template {
    let content = [&VXLAN[..], &inner.frame].concat();
    let segment = [udp(40_000, VXLAN_PORT, content.len()), content].concat();
    let mut template = ip(from, to, UDP, &segment);
    let at = template.frame.len() - segment.len();
    template.layers.extend([(Layer::Udp, at), (Layer::Vxlan, at + UdpHeader::LEN)]);
    let inner_at = at + UdpHeader::LEN + VXLAN.len();
    template.layers.extend(inner.layers.iter().map(|(layer, at)| (*layer, inner_at + at)));
    template
}

fn ip(from: IpAddr, to: IpAddr, protocol: u8, content: &[u8]) -> Template {
    let (kind, layer, header) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header {
                total_len: (Ipv4Header::MIN_LEN + content.len()) as u16,
                time_to_live: 64,
                protocol: IpNumber(protocol),
                source: from.octets(),
                destination: to.octets(),
                ..Ipv4Header::default()
            };
            header.header_checksum = header.calc_header_checksum();
            (EtherType::IPV4, Layer::Ipv4, header.to_bytes().to_vec())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                payload_length: content.len() as u16,
                next_header: IpNumber(protocol),
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            (EtherType::IPV6, Layer::Ipv6, header.to_bytes().to_vec())
        }
        mixed => panic!("a packet has one family: {mixed:?}"),
    };
    let frame = [ethernet(kind), header, content.to_vec()].concat();
    Template { frame, layers: vec![(Layer::Ethernet, 0), (layer, Ethernet2Header::LEN)] }
}

fn ethernet(ether_type: EtherType) -> Vec<u8> {
    let [source, destination] = [[2, 0, 0, 0, 0, 0x0a], [2, 0, 0, 0, 0, 0x0b]];
    Ethernet2Header { source, destination, ether_type }.to_bytes().to_vec()
}

/// A UDP header with a checksum of zero, which means that there is none.
fn udp(source_port: u16, destination_port: u16, payload: usize) -> Vec<u8> {
    let length = (UdpHeader::LEN + payload) as u16;
    UdpHeader { source_port, destination_port, length, checksum: 0 }.to_bytes().to_vec()
}
