//! What a pod may not send: with an address not its own, to a node's VXLAN port, to loopback addresses.

use weft_common::layout::VXLAN_PORT;
use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome, into_the_overlay, to_other_pod};
use crate::frames::{Content, Frame, TCP};

const PROGRAM: Program = Program::FromPod;
/// This pod.
pub(crate) const OWN: [&str; 2] = ["10.244.1.10", "fd00:10:244:1::10"];

/// Addresses where UDP to the VXLAN port would reach a node, by their name: of IPv4 and of IPv6.
pub(crate) const NODE_ADDRESSES: [(&str, [&str; 2]); 7] = [
    ("this node", ["192.0.2.1", "2001:db8::1"]),
    ("a node by the device", ["192.0.2.2", "2001:db8::3"]),
    ("a node past the device", ["192.0.2.4", "2001:db8::5"]),
    ("another InternalIP of a node", ["192.0.2.3", "2001:db8::2"]),
    ("the own gateway", ["10.244.1.1", "fd00:10:244:1::1"]),
    ("an address of the own podCIDR without a pod", ["10.244.1.99", "fd00:10:244:1::99"]),
    ("the first address of the own podCIDR", ["10.244.1.0", "fd00:10:244:1::"]),
];

/// A packet of this pod to an address of either family.
pub(crate) fn of_pod(destinations: [&str; 2]) -> [Frame; 2] {
    [Frame::udp(OWN[0], destinations[0]), Frame::udp(OWN[1], destinations[1])]
}

/// UDP of this pod to the VXLAN port of each of those addresses.
pub(crate) fn vxlan_of_pod() -> impl Iterator<Item = (&'static str, Frame)> {
    NODE_ADDRESSES.into_iter().flat_map(|(what, to)| of_pod(to).map(|frame| (what, frame.port(VXLAN_PORT))))
}

#[test]
fn whatever_a_pod_sends_from_an_address_not_its_own_is_refused() {
    const SOURCES: [[&str; 2]; 12] = [
        ["10.244.1.11", "fd00:10:244:1::11"],
        ["10.244.1.99", "fd00:10:244:1::99"],
        ["10.244.1.1", "fd00:10:244:1::1"],
        ["192.0.2.1", "2001:db8::1"],
        ["10.244.2.77", "fd00:10:244:2::77"],
        ["192.0.2.2", "2001:db8::3"],
        ["198.51.100.7", "2001:db8:ffff::7"],
        ["0.0.0.0", "::"],
        ["127.0.0.1", "::1"],
        ["224.0.0.1", "ff02::1"],
        ["255.255.255.255", "fe80::5"],
        // One bit beside its own.
        ["10.244.1.8", "fd00:10:244:1:8000::10"],
    ];
    const DESTINATIONS: [[&str; 2]; 9] = [
        ["10.244.1.11", "fd00:10:244:1::11"],
        ["10.244.2.77", "fd00:10:244:3::77"],
        ["10.244.4.77", "fd00:10:244:5::77"],
        ["10.244.1.1", "fd00:10:244:1::1"],
        ["192.0.2.1", "2001:db8::1"],
        ["192.0.2.4", "2001:db8::5"],
        ["198.51.100.7", "2001:db8:ffff::7"],
        ["224.0.0.251", "ff02::fb"],
        ["127.0.0.1", "::1"],
    ];
    let mut cases: Vec<Case<String>> = Vec::new();
    for (source, destination) in SOURCES.into_iter().flat_map(|from| DESTINATIONS.map(|to| (from, to))) {
        for family in 0..2 {
            let frame = Frame::udp(source[family], destination[family]);
            let tcp = frame.clone().content(Content::Tcp { to: 80, header: 20, payload: 9 });
            let raw = frame.clone().content(Content::Other(253, vec![1; 9]));
            for frame in [frame.clone(), frame.clone().options(), frame.clone().fragment(9, true), tcp, raw] {
                let what = format!("{} to {}", source[family], destination[family]);
                cases.push((what, frame.bytes(), Outcome::Dropped(DropReason::SourceNotPod)));
            }
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn udp_to_the_vxlan_port_of_a_node_is_refused() {
    let mut cases: Vec<Case> = Vec::new();
    for (what, frame) in vxlan_of_pod() {
        let mut without_checksum = frame.clone();
        if let Content::Udp { with_checksum, .. } = &mut without_checksum.content {
            *with_checksum = false;
        }
        for frame in [
            frame.clone(),
            without_checksum,
            frame.clone().text(""),
            frame.clone().length(3000),
            frame.clone().hop_limit(1),
            frame.clone().hop_limit(0),
            frame.clone().options(),
            frame.clone().source_port(VXLAN_PORT),
            // Without its beginning, the rest of a packet is nothing.
            frame.clone().fragment(0, true),
            frame.clone().options().fragment(0, true),
        ] {
            cases.push((what, frame.bytes(), Outcome::Dropped(DropReason::VxlanFromPod)));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_is_no_vxlan_to_a_node_passes() {
    let mut cases: Vec<Case> = Vec::new();
    let mut passes = |what, frame: &Frame| cases.push((what, frame.bytes(), Outcome::Passed));
    for (_, frame) in vxlan_of_pod() {
        passes("the port before", &frame.clone().port(VXLAN_PORT - 1));
        passes("the port after", &frame.clone().port(VXLAN_PORT + 1));
        passes("the port with its bytes turned round", &frame.clone().port(VXLAN_PORT.swap_bytes()));
        passes("VXLAN as the source port", &frame.clone().source_port(VXLAN_PORT).port(53));
        passes("a later fragment", &frame.clone().fragment(1, true));
        passes("the last fragment", &frame.clone().fragment(185, false));
        passes("a later fragment with options", &frame.clone().options().fragment(1, true));
        passes("TCP", &frame.clone().content(Content::Tcp { to: VXLAN_PORT, header: 20, payload: 9 }));
        let udp = [0x0f, 0xa0, 0x12, 0xb5, 0, 8, 0, 0].to_vec();
        passes("UDP-Lite", &frame.clone().content(Content::Other(136, udp.clone())));
        passes("SCTP", &frame.clone().content(Content::Other(132, udp)));
        passes(
            "TCP of which only the ports are there",
            &frame.content(Content::Other(TCP, vec![0x12, 0xb5, 0x12, 0xb5])),
        );
    }
    for frame in of_pod(["198.51.100.7", "2001:db8:ffff::7"]) {
        passes("VXLAN to the world", &frame.port(VXLAN_PORT));
    }
    for frame in of_pod(["224.0.0.251", "ff02::fb"]) {
        passes("VXLAN to a group", &frame.port(VXLAN_PORT));
    }
    for frame in of_pod(["10.244.1.11", "fd00:10:244:1::11"]) {
        let frame = frame.port(VXLAN_PORT);
        cases.push(("VXLAN to a pod of this node", frame.bytes(), to_other_pod(&frame)));
    }
    for frame in of_pod(["10.244.2.77", "fd00:10:244:3::77"]) {
        let frame = frame.port(VXLAN_PORT);
        cases.push(("VXLAN to a pod of another node", frame.bytes(), into_the_overlay(&frame)));
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn udp_to_a_node_without_its_ports_is_refused() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for (what, frame) in vxlan_of_pod() {
        let bytes = frame.bytes();
        let ports = bytes.len() - 8 - b"weft".len();
        for length in ports..bytes.len() {
            let reason = if length < ports + 4 { DropReason::Truncated } else { DropReason::VxlanFromPod };
            cases.push((format!("{what}, {length} bytes"), bytes[..length].to_vec(), Outcome::Dropped(reason)));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn loopback_addresses_are_nobody_elses_business() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for (own, destination, refused) in [
        (OWN[0], "127.0.0.1", true),
        (OWN[0], "127.0.0.0", true),
        (OWN[0], "127.255.255.255", true),
        (OWN[0], "126.255.255.255", false),
        (OWN[0], "128.0.0.1", false),
        (OWN[0], "1.0.0.127", false),
        (OWN[1], "::1", true),
        (OWN[1], "::", false),
        (OWN[1], "::2", false),
        (OWN[1], "::7f00:1", false),
        (OWN[1], "1::1", false),
        (OWN[1], "::1:0:1", false),
    ] {
        let outcome = || if refused { Outcome::Dropped(DropReason::LoopbackDestination) } else { Outcome::Passed };
        let frame = Frame::udp(own, destination);
        let tcp = frame.clone().content(Content::Tcp { to: 10249, header: 20, payload: 0 });
        for frame in [frame.clone(), frame.clone().port(VXLAN_PORT), frame.clone().hop_limit(1), frame.options(), tcp] {
            cases.push((destination.to_string(), frame.bytes(), outcome()));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}
