//! What the underlay brings and nobody gets: VXLAN of strangers, and what is not in order inside.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Case, Datapath, Outcome};
use crate::frames::{self, ETHERNET, Frame, VXLAN_HEADER};
use crate::from_underlay::{Arrival, POD, POD_OF_NODE_2, arrivals, table};

const PROGRAM: Program = Program::FromUnderlay;

/// A line of a table.
fn refused(what: &'static str, frame: &Frame, reason: DropReason) -> Case {
    (what, frame.bytes(), Outcome::Dropped(reason))
}

#[test]
fn vxlan_of_strangers_is_refused() {
    let cases = table(|arrival| {
        let from = |what, [v4, v6]: [&str; 2]| {
            let source = if arrival.source.is_ipv4() { v4 } else { v6 }.parse().unwrap();
            refused(what, &Frame { source, ..arrival.outer() }, DropReason::OuterSourceUnknown)
        };
        [
            from("a stranger in the network of the nodes", ["192.0.2.99", "2001:db8::99"]),
            from("a stranger", ["198.51.100.7", "2001:db8:ffff::7"]),
            from("an address of a node that is no InternalIP", ["192.0.2.102", "2001:db8::102"]),
            from("this node itself", ["192.0.2.1", "2001:db8::1"]),
            from("a pod of the sender's node", POD_OF_NODE_2),
            from("the gateway of the sender's node", ["10.244.2.1", "fd00:10:244:2::1"]),
            from("a pod of this node", POD),
            from("nobody", ["0.0.0.0", "::"]),
            from("loopback", ["127.0.0.1", "::1"]),
            from("multicast", ["224.0.0.1", "ff02::1"]),
            from("broadcast", ["255.255.255.255", "fe80::2"]),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_source_inside_that_is_not_the_senders_is_refused() {
    let cases = table(|arrival| {
        let from =
            |what, sources| refused(what, &arrival.between(sources, POD).outer(), DropReason::InnerSourceMismatch);
        let and_to = |what, sources, destinations| {
            refused(what, &arrival.between(sources, destinations).outer(), DropReason::InnerSourceMismatch)
        };
        [
            from("a pod of a third node", ["10.244.3.77", "fd00:10:244:3::77"]),
            from("the gateway of a third node", ["10.244.3.1", "fd00:10:244:3::1"]),
            from("a third node", ["192.0.2.3", "2001:db8::3"]),
            from("another pod of this node", ["10.244.1.10", "fd00:10:244:1::10"]),
            from("the receiving pod", POD),
            from("our gateway", ["10.244.1.1", "fd00:10:244:1::1"]),
            from("this node", ["192.0.2.1", "2001:db8::1"]),
            from("the world", ["198.51.100.7", "2001:db8:ffff::7"]),
            from("an address of the sender's node that is no InternalIP", ["192.0.2.102", "2001:db8::102"]),
            from("next to the sender's podCIDR", ["10.244.0.255", "fd00:10:244:20::1"]),
            from("loopback", ["127.0.0.1", "::1"]),
            from("unspecified", ["0.0.0.0", "::"]),
            from("multicast", ["224.0.0.251", "ff02::fb"]),
            from("broadcast", ["255.255.255.255", "ff0e::1"]),
            from("link-local", ["169.254.0.5", "fe80::5"]),
            and_to("this node, to itself", ["192.0.2.1", "2001:db8::1"], ["192.0.2.1", "2001:db8::1"]),
            and_to("a third node, to the stack", ["192.0.2.3", "2001:db8::3"], ["10.244.1.1", "fd00:10:244:1::1"]),
            and_to("the world, to nobody", ["198.51.100.7", "2001:db8:ffff::7"], ["10.244.9.9", "fd00:10:244:9::9"]),
            and_to("link-local, to all nodes", ["169.254.0.5", "fe80::5"], ["224.0.0.1", "ff02::1"]),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn a_destination_inside_that_is_not_ours_is_refused() {
    let cases = table(|arrival| {
        let to = |what, destinations| {
            let arrival = arrival.between(POD_OF_NODE_2, destinations);
            refused(what, &arrival.outer(), DropReason::NotForThisNode)
        };
        [
            to("multicast of the link", ["224.0.0.251", "ff02::1"]),
            to("multicast of the world", ["239.1.2.3", "ff0e::1"]),
            to("broadcast", ["255.255.255.255", "ff02::2"]),
            to("another pod of the sender's node", ["10.244.2.78", "fd00:10:244:2::78"]),
            to("a pod of a third node", ["10.244.3.78", "fd00:10:244:3::78"]),
            to("the sender's node", ["192.0.2.2", "2001:db8::2"]),
            to("a third node", ["192.0.2.3", "2001:db8::3"]),
            to("an address of this node that is no InternalIP", ["192.0.2.101", "2001:db8::101"]),
            to("a podCIDR of nobody", ["10.244.9.9", "fd00:10:244:9::9"]),
            to("the world", ["198.51.100.7", "2001:db8:ffff::7"]),
            to("loopback", ["127.0.0.1", "::1"]),
            to("unspecified", ["0.0.0.0", "::"]),
            to("link-local", ["169.254.0.1", "fe80::1"]),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn every_bit_of_the_vxlan_header_counts() {
    let mut cases: Vec<Case<String>> = Vec::new();
    for arrival in arrivals() {
        for bit in 0..u64::BITS {
            let frame = arrival.outer_with(VXLAN_HEADER ^ 1 << bit);
            // Flags, 24 reserved bits, the identifier, 8 reserved bits.
            let reason = if (8..32).contains(&bit) { DropReason::WrongVni } else { DropReason::BadVxlanHeader };
            cases.push((format!("bit {bit}, {}", arrival.what), frame.bytes(), Outcome::Dropped(reason)));
        }
        for (vni, reason) in [
            (0, DropReason::WrongVni),
            (2, DropReason::WrongVni),
            (0x01_0000, DropReason::WrongVni),
            (0xff_ffff, DropReason::WrongVni),
        ] {
            let frame = arrival.outer_with(0x0800_0000 << 32 | vni << 8);
            cases.push((format!("VNI {vni:#x}, {}", arrival.what), frame.bytes(), Outcome::Dropped(reason)));
        }
        for header in [0, u64::MAX] {
            let frame = arrival.outer_with(header).bytes();
            let outcome = Outcome::Dropped(DropReason::BadVxlanHeader);
            cases.push((format!("header {header:#x}, {}", arrival.what), frame, outcome));
        }
    }
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn inside_is_a_well_formed_ip_packet_or_nothing() {
    let cases = table(|arrival| {
        let inner = arrival.inner.bytes();
        let outer_of = |what, inner: &[u8]| refused(what, &arrival.outer_of(inner), DropReason::NotIp);
        let with = |what, at: usize, byte: u8| {
            let mut inner = inner.clone();
            inner[at] = byte;
            outer_of(what, &inner)
        };
        let other_family = if arrival.inner.source.is_ipv4() { "fd00:10:244:2::77" } else { "10.244.2.77" };
        let mut under_the_wrong_type = Frame::udp(other_family, other_family).length(100).bytes();
        under_the_wrong_type[12..14].copy_from_slice(&inner[12..14]);
        let mapped = |arrival: &Arrival, source: &str, destination: &str| {
            let [source, destination] = [source, destination].map(|address| address.parse().unwrap());
            arrival.outer_of(&arrival.with(|frame| Frame { source, destination, ..frame }).inner.bytes())
        };
        [
            outer_of("ARP", &frames::arp()),
            outer_of("MPLS", &frames::mpls()),
            outer_of("a VLAN tag", &frames::tagged(inner.clone())),
            outer_of("two VLAN tags", &frames::tagged(frames::tagged(inner.clone()))),
            // IEEE 802.3: there is a length in the place of the type.
            with("an Ethernet header without a type", 12, 0),
            outer_of("the other family under this type", &under_the_wrong_type),
            with("version 0", ETHERNET, 0x05),
            with("version 5", ETHERNET, 0x55),
            with("version 15", ETHERNET, 0xf5),
            // In IPv6 this is IPv4's version.
            with("a header of four words", ETHERNET, 0x44),
            with("a header of no words", ETHERNET, 0x40),
            refused(
                "an IPv4-mapped source in IPv6",
                &mapped(arrival, "::ffff:10.244.2.77", "fd00:10:244:1::11"),
                DropReason::NotIp,
            ),
            refused(
                "an IPv4-mapped destination in IPv6",
                &mapped(arrival, "fd00:10:244:2::77", "::ffff:10.244.1.11"),
                DropReason::NotIp,
            ),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}
