//! What leaves past the VXLAN device for the pods of other nodes: the wire format, byte by byte.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use weft_common::layout::{POD_VNI, VXLAN_PORT};
use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, INNER_MACS, Outcome, POD_MTU, into_the_overlay};
use crate::datapath_run::Circumstances;
use crate::frames::{Content, ETHERNET, FRAGMENT, Frame, UDP};
use crate::frames_bytes::checksum;
use crate::from_pod::from_this_pod;

const PROGRAM: Program = Program::FromPod;
/// An underlay: its name, a node beyond it, our address and that node's.
pub(crate) type Underlay = (&'static str, u8, &'static str, &'static str);
/// Those to which packets leave past the device.
pub(crate) const UNDERLAYS: [Underlay; 2] =
    [("IPv4", 4, "192.0.2.1", "192.0.2.4"), ("IPv6", 5, "2001:db8::1", "2001:db8::5")];
/// Source ports of the kernel's tunnels.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Bytes of the outer headers before UDP.
const fn before_udp(outer_source: IpAddr) -> usize {
    ETHERNET + if outer_source.is_ipv4() { 20 } else { 40 }
}

/// Sends a frame of the pod past the device, and checks every byte of the outer packet, whose byte of service is to be this. What
/// nobody can foretell is taken from the packet. Gives the source port.
///
/// The Ethernet header is not looked at: the kernel writes it when it knows the neighbour.
pub(crate) fn check_leaving(datapath: &Datapath, underlay: Underlay, frame: &Frame, service: u8) -> u16 {
    let (name, _, source, destination) = underlay;
    let [source, destination]: [IpAddr; 2] = [source, destination].map(|address| address.parse().unwrap());
    let mut ports = [false, true].map(|checksum| {
        let circumstances = Circumstances { checksum, segment: 0 };
        let outcome = datapath.run_in(PROGRAM, &frame.bytes(), circumstances);
        let Outcome::Redirected(out) = outcome else { panic!("{frame:?} over {name}: {outcome:?}") };
        let number = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
        let port = number(before_udp(source));
        let inner = frame.clone().macs(INNER_MACS.0, INNER_MACS.1).hop_limit(frame.hop_limit - 1);
        let identification = if source.is_ipv4() { number(ETHERNET + 4) } else { 0 };
        let expected = Frame { identification, ..Frame::vxlan(source, destination, &inner.bytes()) };
        let expected = expected.service(service).source_port(port).bytes();
        assert_eq!(out[ETHERNET..], expected[ETHERNET..], "{frame:?} over {name}");
        assert!(SOURCE_PORTS.contains(&port), "source port {port}");
        port
    });
    ports.sort_unstable();
    assert_eq!(ports[0], ports[1], "two packets of a flow left by two ports");
    ports[0]
}

#[test]
fn the_builder_of_these_tests_builds_the_wire_format() {
    // Everything else here compares with it. RFC 7348, section 5, by hand.
    let [node, other] = ["192.0.2.1", "192.0.2.4"].map(|address| address.parse().unwrap());
    let frame = Frame::vxlan(node, other, b"inner").source_port(40_000);
    let bytes = frame.bytes();
    let header = [0x45, 0, 0, 41, 0, 0, 0, 0, 64, UDP, 0xf6, 0xbe, 192, 0, 2, 1, 192, 0, 2, 4];
    assert_eq!(bytes[ETHERNET..ETHERNET + 20], header);
    let [port_high, port_low] = VXLAN_PORT.to_be_bytes();
    let rest = [0x9c, 0x40, port_high, port_low, 0, 21, 0, 0, 0x08, 0, 0, 0, 0, 0, POD_VNI as u8, 0];
    assert_eq!(bytes[ETHERNET + 20..ETHERNET + 36], rest);
    assert_eq!(&bytes[ETHERNET + 36..], b"inner");
    let [node, other] = ["2001:db8::1", "2001:db8::5"].map(|address| address.parse().unwrap());
    let bytes = Frame::vxlan(node, other, b"inner").source_port(40_000).bytes();
    assert_eq!(bytes[ETHERNET..ETHERNET + 8], [0x60, 0, 0, 0, 0, 21, UDP, 64]);
    assert_eq!(bytes[ETHERNET + 40..ETHERNET + 56], rest);
}

#[test]
fn past_the_device_packets_leave_in_the_wire_format_with_one_hop_less() {
    let datapath = Datapath::load();
    for underlay in UNDERLAYS {
        for frame in from_this_pod(underlay.1, "77") {
            let tcp = |header| Content::Tcp { to: 80, header, payload: 99 };
            for frame in [
                frame.clone(),
                frame.clone().text(""),
                frame.clone().text("an odd length"),
                frame.clone().length(POD_MTU),
                frame.clone().hop_limit(2),
                frame.clone().hop_limit(255),
                frame.clone().options(),
                frame.clone().fragment(0, true),
                frame.clone().fragment(185, false),
                frame.clone().port(VXLAN_PORT),
                frame.clone().content(tcp(20)),
                frame.clone().content(tcp(60)),
                // SCTP, ESP, and what has no number yet.
                frame.clone().content(Content::Other(132, vec![9; 28])),
                frame.clone().content(Content::Other(50, vec![9; 36])),
                frame.clone().content(Content::Other(253, vec![])),
                Frame { identification: 0xffff, fragment: 0x4000, ..frame.clone() },
                // A differentiated service is the pod's own business.
                frame.clone().service(0b1011_1000),
                frame.clone().macs([0x22; 6], [0x44; 6]),
            ] {
                check_leaving(&datapath, underlay, &frame, 0);
            }
        }
        let [_, frame] = from_this_pod(underlay.1, "77");
        let frame = Frame { content: Content::Icmpv6(128), ..frame };
        check_leaving(&datapath, underlay, &frame, 0);
        check_leaving(&datapath, underlay, &frame.extension(FRAGMENT, &[0, 0, 0, 0, 0, 0, 1]), 0);
    }
}

#[test]
fn the_outer_ipv4_checksum_is_right_whatever_is_in_the_header() {
    let datapath = Datapath::load();
    // The identification is random, so each run has another one.
    for tunnel in ["0.0.0.1", "255.255.255.254", "192.0.2.4", "128.0.255.255", "10.255.0.255", "1.0.0.0"] {
        let tunnel: Ipv4Addr = tunnel.parse().unwrap();
        datapath.set_node(6, IpAddr::V4(tunnel), Some(5));
        let destination = tunnel.to_string();
        let mut identifications = BTreeSet::new();
        for length in (100..=1430).step_by(7) {
            for frame in from_this_pod(6, "77") {
                let outcome = datapath.run(PROGRAM, &frame.length(length).bytes());
                let Outcome::Redirected(out) = outcome else { panic!("{destination}: {outcome:?}") };
                let header = &out[ETHERNET..ETHERNET + 20];
                assert_eq!(checksum(header), 0, "{header:02x?}");
                identifications.insert([header[4], header[5]]);
            }
        }
        assert!(identifications.len() > 300, "{} identifications in 382 packets", identifications.len());
    }
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_have_many() {
    let datapath = Datapath::load();
    for underlay in UNDERLAYS {
        for frame in from_this_pod(underlay.1, "77") {
            let port = |frame: &Frame| check_leaving(&datapath, underlay, frame, 0);
            let mut ports = BTreeSet::new();
            for flow in 1..=200 {
                let frame = frame.clone().port(flow);
                let first = port(&frame);
                assert_eq!(port(&frame.clone().text("another packet").hop_limit(7)), first, "port of a flow");
                ports.insert(first);
            }
            // With 28,231 ports, two hundred flows meet once or twice.
            assert!(ports.len() > 180, "200 flows left by {} ports", ports.len());
        }
    }
}

#[test]
fn past_the_device_too_the_stack_answers_for_a_packet_that_may_go_no_further() {
    let frames =
        UNDERLAYS.into_iter().flat_map(|(name, node, ..)| from_this_pod(node, "77").map(|frame| (name, frame)));
    let cases = frames.flat_map(|(name, frame)| {
        [0, 1].map(|hop_limit| (name, frame.clone().hop_limit(hop_limit).bytes(), Outcome::Passed))
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn when_no_agent_follows_the_routes_any_longer_packets_leave_by_the_device() {
    let datapath = Datapath::load();
    let frames =
        UNDERLAYS.into_iter().flat_map(|(name, node, ..)| from_this_pod(node, "77").map(|frame| (name, frame)));
    let cases: Vec<Case> = frames.map(|(name, frame)| (name, frame.bytes(), into_the_overlay(&frame))).collect();
    datapath.maps.lease_fast_path(Duration::ZERO).unwrap();
    datapath.check(PROGRAM, cases);
    datapath.maps.lease_fast_path(Duration::MAX).unwrap();
    for underlay in UNDERLAYS {
        check_leaving(&datapath, underlay, &from_this_pod(underlay.1, "77")[0], 0);
    }
}

#[test]
fn before_the_agent_configured_the_node_nothing_leaves_past_the_device() {
    let mut cases: Vec<Case> = Vec::new();
    for (name, node, ..) in UNDERLAYS {
        for frame in from_this_pod(node, "77") {
            cases.push((name, frame.bytes(), Outcome::Dropped(DropReason::NotConfigured)));
        }
    }
    Datapath::load_unconfigured().check(PROGRAM, cases);
}
