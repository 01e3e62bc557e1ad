//! What arrives on the wire: crafted frames from pods, from the host's stack and from the other node.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use weft_common::layout::{POD_VNI, VXLAN_PORT};
use weft_common::reason::{DropReason, Program};
use weft_tests::netns::Namespace;
use weft_tests::wait;

use crate::capture::{LIMIT, Tap};
use crate::datapath::{counters, drops_since, mount_bpffs};
use crate::frames::{self, Frame, Mac};
use crate::node::{self, Node, Underlay, gateways, node_mac, overlay_mac, pod_addresses};

/// MAC addresses of frames in the tunnel.
pub(crate) const INNER_MACS: (Mac, Mac) = (*b"\x06weft\x01", *b"\x06weft\x02");
/// Bytes of an outer UDP header and a VXLAN header.
const UDP_VXLAN: usize = 16;

/// Node 1 with two pods, and what plays the rest of the world: its taps send crafted frames and see what comes.
pub(crate) struct Bed {
    pub(crate) node: Node,
    // The other end of the underlay: everything there is crafted.
    _other: Namespace,
    pub(crate) other: Tap,
    pub(crate) pods: Vec<Tap>,
    underlay: Underlay,
}

impl Bed {
    pub(crate) fn new(underlay: Underlay) -> Self {
        mount_bpffs();
        let [one, other_namespace] = node::underlay();
        let other = Tap::new(&other_namespace, node::ifindex(&other_namespace, "eth0"));
        let node = Node::new(one, 1, underlay, 2);
        let pods = node.pods.iter().map(|pod| Tap::new(&pod.namespace, pod.ifindex)).collect();
        Self { node, _other: other_namespace, other, pods, underlay }
    }

    /// What a pod sends towards its gateway.
    pub(crate) fn sent_by_pod(&self, index: usize, frame: Frame) -> Frame {
        let endpoint = self.node.pods[index].endpoint;
        frame.macs(endpoint.pod_mac, endpoint.host_mac)
    }

    /// What a pod receives of a packet that was sent on.
    pub(crate) fn at_pod(&self, index: usize, frame: &Frame) -> Vec<u8> {
        let endpoint = self.node.pods[index].endpoint;
        frame.clone().macs(endpoint.host_mac, endpoint.pod_mac).hop_limit(frame.hop_limit - 1).bytes()
    }

    /// A frame in VXLAN, from an address of the other node to this one.
    pub(crate) fn vxlan(&self, outer_source: IpAddr, vni: u32, inner: &[u8]) -> Vec<u8> {
        vxlan(outer_source, self.underlay.node_address(1), vni, inner)
    }

    /// Sends one frame, and waits until a drop is counted: for this reason, once, and nothing else.
    pub(crate) fn is_dropped(&self, what: &str, program: Program, reason: DropReason, send: impl FnOnce()) {
        let before = counters(&self.node.maps);
        // The devices have messages of their own.
        let counted = || {
            let mut drops = drops_since(&before, &self.node.maps);
            drops.retain(|&(_, reason, _)| reason != DropReason::LinkLocalIgnored);
            drops
        };
        send();
        let waited = wait::until_true(LIMIT, "a drop to be counted", || !counted().is_empty());
        waited.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(counted(), [(program, reason, 1)], "{what}");
    }
}

/// A frame in VXLAN, from node 2 to node 1.
pub(crate) fn vxlan(source: IpAddr, destination: IpAddr, vni: u32, inner: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(node_mac(2), node_mac(1));
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => builder.ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => builder.ipv6(source.octets(), destination.octets(), 64),
        mixed => panic!("a packet has one family: {mixed:?}"),
    };
    let mut payload = vec![0x08, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(inner);
    let mut frame = Vec::new();
    builder.udp(50_000, VXLAN_PORT).write_to_vec(&mut frame, &payload).unwrap();
    let checksum = 14 + if source.is_ipv4() { 20 } else { 40 } + 6;
    frame[checksum..checksum + 2].fill(0);
    frame
}

/// The same packet of both families, from an address of a podCIDR to another.
fn packets(source: (u8, usize), destination: (u8, usize)) -> [Frame; 2] {
    let (sources, destinations) = (pod_addresses(source.0, source.1), pod_addresses(destination.0, destination.1));
    [Frame::udp(&sources[0], &destinations[0]), Frame::udp(&sources[1], &destinations[1])]
}

#[test]
fn a_packet_between_pods_of_a_node_arrives_as_it_was_but_for_a_hop() {
    let bed = Bed::new(Underlay::V4);
    let forwarded = bed.node.forwarded();
    for frame in packets((1, 0), (1, 1)) {
        for frame in [frame.clone(), frame.clone().options(), frame.hop_limit(2)] {
            bed.pods[0].send(&bed.sent_by_pod(0, frame.clone()).bytes());
            let expected = bed.at_pod(1, &frame);
            bed.pods[1].receive("the packet", |frame| frame == expected);
        }
    }
    assert_eq!(bed.node.forwarded(), forwarded, "the stack had a part in it");
}

#[test]
fn a_packet_for_a_pod_is_for_it_whatever_mac_address_it_came_with() {
    let bed = Bed::new(Underlay::V4);
    let receiver = bed.node.pods[1].namespace.enter(|| std::net::UdpSocket::bind("[::]:7000").unwrap()).unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    for frame in packets((1, 0), (1, 1)) {
        for mac in [[0xff; 6], [2, 9, 9, 9, 9, 9]] {
            let frame = bed.sent_by_pod(0, frame.clone());
            bed.pods[0].send(&frame.clone().macs(frame.from, mac).bytes());
            assert_eq!(receiver.recv(&mut [0; 16]).unwrap(), 4);
        }
    }
}

#[test]
fn a_packet_for_a_pod_of_another_node_leaves_in_vxlan() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = Bed::new(underlay);
        for frame in packets((1, 0), (2, 7)) {
            bed.pods[0].send(&bed.sent_by_pod(0, frame.clone()).bytes());
            let inner = frame.clone().macs(INNER_MACS.0, INNER_MACS.1).hop_limit(63).bytes();
            let outer = bed.other.receive("the packet", |outer| outer.ends_with(&inner));
            let headers = &outer[..outer.len() - inner.len()];
            let expected = vxlan(underlay.node_address(1), underlay.node_address(2), POD_VNI, &inner);
            assert_eq!(headers.len(), if underlay == Underlay::V4 { 50 } else { 70 });
            let addresses = if underlay == Underlay::V4 { 26..34 } else { 22..54 };
            assert_eq!(headers[addresses.clone()], expected[addresses], "outer addresses");
            let udp = &headers[headers.len() - UDP_VXLAN..];
            assert_eq!(udp[2..4], VXLAN_PORT.to_be_bytes(), "outer destination port");
            assert_eq!(udp[6..8], [0, 0], "outer UDP checksum");
            assert_eq!(udp[8..], [0x08, 0, 0, 0, 0, 0, POD_VNI as u8, 0], "VXLAN header");
        }
    }
}

#[test]
fn a_packet_of_another_nodes_pod_arrives_as_it_was_but_for_a_hop() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = Bed::new(underlay);
        let forwarded = bed.node.forwarded();
        // Every InternalIP of the other node may stand outside: this one, of the same family as the tunnel.
        let outer = underlay.node_address(2);
        let mut frames: Vec<Frame> = packets((2, 7), (1, 0)).into();
        frames.extend([Frame::udp("10.244.2.1", "10.244.1.10"), Frame::udp("fd00:10:244:2::1", "fd00:10:244:1::10")]);
        for frame in frames {
            for frame in [frame.clone(), frame.clone().options(), frame.hop_limit(2)] {
                bed.other.send(&bed.vxlan(outer, POD_VNI, &frame.bytes()));
                let expected = bed.at_pod(0, &frame);
                bed.pods[0].receive("the packet", |frame| frame == expected);
            }
        }
        assert_eq!(bed.node.forwarded(), forwarded, "the stack had a part in it");
    }
}

#[test]
fn a_packet_of_a_node_itself_reaches_a_pod_by_the_stack() {
    let bed = Bed::new(Underlay::V4);
    // Somebody listens, so that the pod gives no answer, which would go by the stack too.
    let _listener = bed.node.pods[0].namespace.enter(|| std::net::UdpSocket::bind("[::]:7000").unwrap()).unwrap();
    for (source, destination) in [("192.0.2.2", "10.244.1.10"), ("2001:db8::2", "fd00:10:244:1::10")] {
        let frame = Frame::udp(source, destination);
        let forwarded = bed.node.forwarded();
        bed.other.send(&bed.vxlan(Underlay::V4.node_address(2), POD_VNI, &frame.bytes()));
        let expected = bed.at_pod(0, &frame);
        bed.pods[0].receive("the packet", |frame| frame == expected);
        assert_eq!(bed.node.forwarded(), forwarded + 1, "the packet of {source} went past the stack");
    }
}

#[test]
fn a_packet_for_the_node_goes_up_its_stack() {
    let bed = Bed::new(Underlay::V4);
    let receiver = bed.node.namespace.enter(|| std::net::UdpSocket::bind("[::]:7000").unwrap()).unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    for destination in gateways(1).iter().map(String::as_str).chain(["192.0.2.1", "2001:db8::1"]) {
        let source = if destination.contains(':') { "fd00:10:244:2::17" } else { "10.244.2.17" };
        let frame = Frame::udp(source, destination).text("to the node").bytes();
        bed.other.send(&bed.vxlan(Underlay::V4.node_address(2), POD_VNI, &frame));
        let mut buffer = [0; 32];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{destination}: {error}"));
        assert_eq!(&buffer[..length], b"to the node");
        assert_eq!(from.ip().to_canonical(), source.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn the_stack_answers_for_a_packet_that_may_go_no_further() {
    let bed = Bed::new(Underlay::V4);
    // Type and code at the start of the ICMP header, which follows an IP header without options.
    let is_icmp = |frame: &[u8], at: usize, v4: [u8; 2], v6: [u8; 2]| match frame[at - 2..at] {
        [0x08, 0x00] => frame[at + 9] == 1 && frame[at + 20..at + 22] == v4,
        [0x86, 0xdd] => frame[at + 6] == 58 && frame[at + 40..at + 42] == v6,
        _ => false,
    };
    let time_exceeded = |frame: &[u8], at| is_icmp(frame, at, [11, 0], [3, 0]);
    let unreachable = |frame: &[u8], at| is_icmp(frame, at, [3, 1], [1, 0]);
    for frame in packets((1, 0), (1, 1)).into_iter().chain(packets((1, 0), (2, 7))) {
        bed.pods[0].send(&bed.sent_by_pod(0, frame.hop_limit(1)).bytes());
        bed.pods[0].receive("time exceeded for a pod", |frame| time_exceeded(frame, 14));
    }
    for frame in packets((1, 0), (1, 99)) {
        bed.pods[0].send(&bed.sent_by_pod(0, frame).bytes());
        bed.pods[0].receive("unreachable for a pod", |frame| unreachable(frame, 14));
    }
    for (frame, what) in packets((2, 7), (1, 0)).into_iter().zip(["IPv4", "IPv6"]) {
        bed.other.send(&bed.vxlan(Underlay::V4.node_address(2), POD_VNI, &frame.hop_limit(1).bytes()));
        bed.other.receive(&format!("time exceeded for another node, {what}"), |frame| {
            frame.len() > 64 + 42 && time_exceeded(frame, 64)
        });
    }
    for (frame, what) in packets((2, 7), (1, 99)).into_iter().zip(["IPv4", "IPv6"]) {
        bed.other.send(&bed.vxlan(Underlay::V4.node_address(2), POD_VNI, &frame.bytes()));
        bed.other.receive(&format!("unreachable for another node, {what}"), |frame| {
            frame.len() > 64 + 42 && unreachable(frame, 64)
        });
    }
}

#[test]
fn the_overlay_drops_and_counts_what_is_not_in_order() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = Bed::new(underlay);
        let node = underlay.node_address(2);
        let stranger = underlay.node_address(9);
        let [v4, v6] = packets((2, 7), (1, 0));
        let mut cases: Vec<(&str, IpAddr, u32, Vec<u8>, DropReason)> = vec![
            ("ARP", node, POD_VNI, frames::arp(), DropReason::NotIp),
            ("MPLS", node, POD_VNI, frames::mpls(), DropReason::NotIp),
        ];
        for frame in [&v4, &v6] {
            cases.push(("a stranger", stranger, POD_VNI, frame.bytes(), DropReason::OuterSourceUnknown));
            cases.push(("VNI 2", node, 2, frame.bytes(), DropReason::WrongVni));
            cases.push(("VNI 0", node, 0, frame.bytes(), DropReason::WrongVni));
            if underlay == Underlay::V6 {
                // An IPv4 stack drops its own address as an outer source by itself.
                let own = underlay.node_address(1);
                cases.push(("our own address outside", own, POD_VNI, frame.bytes(), DropReason::OuterSourceUnknown));
            }
        }
        for (what, source, destination) in [
            ("a pod of this node", "10.244.1.11", "10.244.1.10"),
            ("a pod of this node", "fd00:10:244:1::11", "fd00:10:244:1::10"),
            ("this node", "192.0.2.1", "10.244.1.10"),
            ("this node", "2001:db8::1", "fd00:10:244:1::10"),
            ("the world", "198.51.100.7", "10.244.1.10"),
            ("the world", "2001:db8:ffff::7", "fd00:10:244:1::10"),
            ("loopback", "127.0.0.1", "10.244.1.10"),
            ("link-local", "fe80::5", "ff02::2"),
            ("unspecified", "0.0.0.0", "10.244.1.10"),
            ("unspecified", "::", "fd00:10:244:1::10"),
        ] {
            cases.push((what, node, POD_VNI, Frame::udp(source, destination).bytes(), DropReason::InnerSourceMismatch));
        }
        for (what, source, destination) in [
            ("a pod of the sender's node", "10.244.2.17", "10.244.2.18"),
            ("a pod of the sender's node", "fd00:10:244:2::17", "fd00:10:244:2::18"),
            ("the sender's node", "10.244.2.17", "192.0.2.2"),
            ("the world", "10.244.2.17", "198.51.100.7"),
            ("the world", "fd00:10:244:2::17", "2001:db8:ffff::7"),
            ("multicast", "10.244.2.17", "224.0.0.251"),
            ("multicast", "fd00:10:244:2::17", "ff02::1"),
            ("loopback", "10.244.2.17", "127.0.0.1"),
        ] {
            cases.push((what, node, POD_VNI, Frame::udp(source, destination).bytes(), DropReason::NotForThisNode));
        }
        for (what, outer_source, vni, inner, reason) in cases {
            let what = format!("{what} over {underlay:?}");
            bed.is_dropped(&what, Program::FromOverlay, reason, || {
                bed.other.send(&bed.vxlan(outer_source, vni, &inner));
            });
        }
    }
}

#[test]
fn headers_cut_short_are_dropped_at_every_length() {
    let bed = Bed::new(Underlay::V4);
    let host_side = Tap::new(&bed.node.namespace, bed.node.pods[0].endpoint.ifindex);
    let reason = DropReason::Truncated;
    for frame in packets((1, 0), (1, 1)) {
        for cut in bed.sent_by_pod(0, frame).cuts() {
            bed.is_dropped("from a pod", Program::FromPod, reason, || bed.pods[0].send(&cut));
        }
    }
    for frame in packets((2, 7), (1, 0)) {
        for cut in frame.cuts() {
            bed.is_dropped("to a pod", Program::ToPod, reason, || host_side.send(&cut));
        }
    }
}

#[test]
fn headers_cut_short_do_not_come_out_of_the_overlay() {
    let bed = Bed::new(Underlay::V4);
    let before = counters(&bed.node.maps);
    let outer = |inner: &[u8]| bed.vxlan(Underlay::V4.node_address(2), POD_VNI, inner);
    for frame in packets((2, 7), (1, 0)) {
        frame.cuts().for_each(|cut| bed.other.send(&outer(&cut)));
        bed.other.send(&outer(&frame.bytes()));
        let expected = bed.at_pod(0, &frame);
        let arrived = bed.pods[0].receive("the whole packet", |frame| frame[12..14] == expected[12..14]);
        assert_eq!(arrived, expected);
    }
    // Newer kernels drop them before the program does.
    let mut drops = drops_since(&before, &bed.node.maps);
    drops.retain(|&(_, reason, _)| ![DropReason::Truncated, DropReason::LinkLocalIgnored].contains(&reason));
    assert_eq!(drops, []);
}

#[test]
fn a_pods_frame_in_a_vlan_is_dropped() {
    let bed = Bed::new(Underlay::V4);
    let mut frame = bed.sent_by_pod(0, packets((1, 0), (1, 1))[0].clone()).bytes();
    frame.splice(12..12, [0x81, 0x00, 0, 5]);
    bed.is_dropped("a tagged frame", Program::FromPod, DropReason::NotIp, || bed.pods[0].send(&frame));
}

#[test]
fn a_frame_whose_source_is_the_receiving_device_never_reaches_the_program() {
    // Why `encapsulate` writes a source of its own: this is what the kernel does otherwise.
    let bed = Bed::new(Underlay::V4);
    let [frame, _] = packets((2, 7), (1, 0));
    let outer = |frame: &Frame| bed.vxlan(Underlay::V4.node_address(2), POD_VNI, &frame.bytes());
    bed.other.send(&outer(&frame.clone().macs(overlay_mac(1), INNER_MACS.1).text("lost")));
    bed.other.send(&outer(&frame.clone().text("kept")));
    bed.pods[0].receive("the second packet", |bytes| bytes.ends_with(b"kept"));
    assert!(!bed.pods[0].has(|bytes| bytes.ends_with(b"lost")));
}
