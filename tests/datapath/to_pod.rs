//! What the host's stack sends to a pod.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome};
use crate::frames::{self, Frame, LISTENER_REPORT};

const PROGRAM: Program = Program::ToPod;

#[test]
fn packets_for_the_pod_pass_unchanged() {
    let mut cases: Vec<Case> = vec![("ARP", frames::arp(), Outcome::Passed)];
    for (what, frame) in [
        ("from the gateway", Frame::udp("10.244.1.1", "10.244.1.10")),
        ("from the gateway", Frame::udp("fd00:10:244:1::1", "fd00:10:244:1::10")),
        ("from the world", Frame::udp("198.51.100.7", "10.244.1.10").hop_limit(1)),
        ("from the world", Frame::udp("2001:db8:ffff::7", "fd00:10:244:1::10").options()),
        ("a neighbour solicitation for the pod", Frame::icmpv6("fe80::1", "fd00:10:244:1::10", 135)),
    ] {
        cases.push((what, frame.bytes(), Outcome::Passed));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn packets_for_somebody_else_are_dropped() {
    let mut cases: Vec<Case> = Vec::new();
    for (what, frame) in [
        ("another pod of this node", Frame::udp("10.244.1.1", "10.244.1.11")),
        ("another pod of this node", Frame::udp("fd00:10:244:1::1", "fd00:10:244:1::11")),
        ("a former pod", Frame::udp("10.244.1.1", "10.244.1.99")),
        ("the world", Frame::udp("10.244.1.1", "198.51.100.7")),
        ("multicast", Frame::udp("10.244.1.1", "224.0.0.251")),
        ("multicast", Frame::udp("fe80::1", "ff02::fb")),
        ("link-local", Frame::icmpv6("fe80::1", "fe80::5", 128)),
    ] {
        cases.push((what, frame.bytes(), Outcome::Dropped(DropReason::DestinationNotPod)));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn messages_of_the_link_are_ignored_quietly() {
    let mut cases: Vec<Case> = Vec::new();
    for (what, source, message_type) in [
        ("router solicitation", "fe80::1", 133),
        ("neighbour solicitation", "fe80::1", 135),
        ("duplicate address detection", "::", 135),
        ("listener report", "fe80::1", LISTENER_REPORT),
        ("listener report without an address", "::", LISTENER_REPORT),
    ] {
        let frame = Frame::icmpv6(source, "ff02::16", message_type);
        cases.push((what, frame.bytes(), Outcome::Dropped(DropReason::LinkLocalIgnored)));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_is_neither_arp_nor_ip_is_dropped() {
    let cases = vec![("another EtherType", frames::mpls(), Outcome::Dropped(DropReason::NotIp))];
    Datapath::load().check(PROGRAM, cases);
}
