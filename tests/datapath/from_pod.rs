//! What a pod sends.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome, into_the_overlay, to_other_pod};
use crate::frames::{self, ETHERNET, Frame, LISTENER_REPORT};

const PROGRAM: Program = Program::FromPod;

/// The same packet of both families, from this pod to an address with this end.
pub(crate) fn from_this_pod(node: u8, end: &str) -> [Frame; 2] {
    [
        Frame::udp("10.244.1.10", &format!("10.244.{node}.{end}")),
        Frame::udp("fd00:10:244:1::10", &format!("fd00:10:244:{node}::{end}")),
    ]
}

#[test]
fn packets_for_pods_of_this_node_go_to_them_with_one_hop_less() {
    let mut cases: Vec<Case> = Vec::new();
    for frame in from_this_pod(1, "11") {
        for hop_limit in [2, 3, 64, 128, 255] {
            let frame = frame.clone().hop_limit(hop_limit);
            cases.push(("plain", frame.bytes(), to_other_pod(&frame)));
        }
        let frame = frame.options();
        cases.push(("with an IP option", frame.bytes(), to_other_pod(&frame)));
    }
    Datapath::load().check(PROGRAM, cases);
}

/// An IPv4 packet with many identifications: so many that its checksum has every value near the ends of the field, where a hop less
/// or a mark carries over, and some others.
pub(crate) fn with_many_checksums(frame: &Frame) -> Vec<Frame> {
    let frames = (0..=u16::MAX).map(|identification| Frame { identification, ..frame.clone() });
    let is_of_interest = |frame: &Frame| {
        let bytes = frame.bytes();
        let checksum = u16::from_be_bytes([bytes[ETHERNET + 10], bytes[ETHERNET + 11]]);
        matches!(checksum, 0..=15 | 0xfef0..=0xff0f | 0xfff0..) || frame.identification.is_multiple_of(509)
    };
    frames.filter(is_of_interest).collect()
}

#[test]
fn the_ipv4_header_checksum_is_right_whatever_it_was() {
    let frames = with_many_checksums(&Frame::udp("10.244.1.10", "10.244.1.11"));
    let cases = frames.into_iter().map(|frame| (frame.identification, frame.bytes(), to_other_pod(&frame)));
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn packets_for_pods_of_other_nodes_go_into_the_tunnel_with_one_hop_less() {
    let mut cases: Vec<Case> = Vec::new();
    for (underlay, node) in [("an IPv4 underlay", 2), ("an IPv6 underlay", 3)] {
        for frame in from_this_pod(node, "77") {
            cases.push((underlay, frame.bytes(), into_the_overlay(&frame)));
            let frame = frame.options();
            cases.push((underlay, frame.bytes(), into_the_overlay(&frame)));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn everything_else_of_the_pod_goes_up_the_stack_unchanged() {
    let mut cases: Vec<Case> = vec![("ARP", frames::arp(), Outcome::Passed)];
    let v4 = |to: &str| Frame::udp("10.244.1.10", to);
    let v6 = |to: &str| Frame::udp("fd00:10:244:1::10", to);
    for (what, frame) in [
        ("the world", v4("198.51.100.7")),
        ("the world", v6("2001:db8:ffff::7")),
        ("the gateway", v4("10.244.1.1")),
        ("the gateway", v6("fd00:10:244:1::1")),
        ("an address of the own podCIDR without a pod", v4("10.244.1.99")),
        ("an address of the own podCIDR without a pod", v6("fd00:10:244:1::99")),
        ("an own node address", v4("192.0.2.1")),
        ("another node's address", v4("192.0.2.2")),
        ("another node's address", v6("2001:db8::3")),
        ("multicast", v4("224.0.0.251")),
        ("multicast", v6("ff02::fb")),
        ("broadcast", v4("255.255.255.255")),
        ("link-local", v6("fe80::1")),
        ("a pod of this node, but no hop left", v4("10.244.1.11").hop_limit(1)),
        ("a pod of this node, but no hop left", v6("fd00:10:244:1::11").hop_limit(1)),
        ("a pod of this node, and less than no hop", v4("10.244.1.11").hop_limit(0)),
        ("a pod of this node, and less than no hop", v6("fd00:10:244:1::11").hop_limit(0)),
        ("a pod of another node, but no hop left", v4("10.244.2.77").hop_limit(1)),
        ("a pod of another node, but no hop left", v6("fd00:10:244:2::77").hop_limit(1)),
        ("a neighbour message from its own address", Frame::icmpv6("fd00:10:244:1::10", "ff02::1:ff00:1", 135)),
    ] {
        cases.push((what, frame.bytes(), Outcome::Passed));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_source_that_is_not_the_pods_own_is_dropped() {
    let mut cases: Vec<Case> = Vec::new();
    for (what, frame) in [
        ("another pod of this node", Frame::udp("10.244.1.11", "10.244.1.10")),
        ("another pod of this node", Frame::udp("fd00:10:244:1::11", "fd00:10:244:1::10")),
        ("another pod of this node, to the world", Frame::udp("10.244.1.11", "198.51.100.7")),
        ("a pod of another node", Frame::udp("10.244.2.77", "10.244.1.11")),
        ("the gateway", Frame::udp("10.244.1.1", "10.244.1.11")),
        ("a node", Frame::udp("192.0.2.1", "10.244.1.11")),
        ("unspecified", Frame::udp("0.0.0.0", "255.255.255.255")),
        ("unspecified", Frame::udp("::", "ff02::1:2")),
        ("link-local, but no message of the link", Frame::udp("fe80::5", "ff02::fb")),
        ("link-local, but an echo", Frame::icmpv6("fe80::5", "fe80::1", 128)),
        ("loopback", Frame::udp("127.0.0.1", "10.244.1.11")),
        ("loopback", Frame::udp("::1", "fd00:10:244:1::11")),
        ("multicast", Frame::udp("224.0.0.1", "10.244.1.11")),
        ("spoofed, with an option before the content", Frame::udp("10.244.1.11", "10.244.2.77").options()),
        ("spoofed, with no hop left", Frame::udp("10.244.1.11", "10.244.2.77").hop_limit(1)),
    ] {
        cases.push((what, frame.bytes(), Outcome::Dropped(DropReason::SourceNotPod)));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn messages_of_the_link_are_ignored_quietly() {
    let mut cases: Vec<Case> = Vec::new();
    for (what, source, message_type) in [
        ("neighbour solicitation", "fe80::5", 135),
        ("duplicate address detection", "::", 135),
        ("neighbour advertisement", "fe80::5", 136),
        ("router solicitation", "fe80::5", 133),
        ("router solicitation without an address", "::", 133),
        ("listener report", "fe80::5", LISTENER_REPORT),
        ("listener report without an address", "::", LISTENER_REPORT),
    ] {
        let frame = Frame::icmpv6(source, "ff02::2", message_type);
        cases.push((what, frame.bytes(), Outcome::Dropped(DropReason::LinkLocalIgnored)));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_is_neither_arp_nor_well_formed_ip_is_dropped() {
    let [v4, v6] = from_this_pod(1, "11");
    let mut cases: Vec<Case> = Vec::new();
    let dropped = || Outcome::Dropped(DropReason::NotIp);
    cases.push(("another EtherType", frames::mpls(), dropped()));
    for (what, frame, at, byte) in [
        ("IPv6 under the EtherType of IPv4", v4.bytes(), 14, 0x65),
        ("a header of four words", v4.bytes(), 14, 0x44),
        ("IPv4 under the EtherType of IPv6", v6.bytes(), 14, 0x45),
    ] {
        let mut frame = frame;
        frame[at] = byte;
        cases.push((what, frame, dropped()));
    }
    let mapped_source = Frame::udp("::ffff:10.244.1.10", "fd00:10:244:1::11");
    cases.push(("an IPv4-mapped source in IPv6", mapped_source.bytes(), dropped()));
    let mapped_destination = Frame::udp("fd00:10:244:1::10", "::ffff:10.244.1.11");
    cases.push(("an IPv4-mapped destination in IPv6", mapped_destination.bytes(), dropped()));
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn before_the_agent_configured_the_node_only_remote_pods_are_out_of_reach() {
    let mut cases: Vec<Case> = Vec::new();
    for frame in from_this_pod(2, "77") {
        cases.push(("a pod of another node", frame.bytes(), Outcome::Dropped(DropReason::NotConfigured)));
    }
    for frame in from_this_pod(1, "11") {
        cases.push(("a pod of this node", frame.bytes(), to_other_pod(&frame)));
    }
    Datapath::load_unconfigured().check(PROGRAM, cases);
}
