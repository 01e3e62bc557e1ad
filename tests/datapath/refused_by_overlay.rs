//! What the underlay's program leaves to the kernel comes out of the VXLAN device, and is judged there by the same rules: neither
//! outer options nor fragments are a way around a check.

use std::net::IpAddr;

use weft_common::layout::program;
use weft_common::reason::{DropReason, Program};

use crate::capture::Tap;
use crate::datapath::INNER_MACS;
use crate::frames::{Content, ETHERNET, Frame, UDP, VXLAN_HEADER};
use crate::node::{Underlay, node_mac};
use crate::wire::Bed;

/// A form of VXLAN that the kernel takes apart: its name, the program that refuses strangers, and the frames that it comes in.
type Form = (&'static str, Program, fn(&Frame) -> Vec<Vec<u8>>);

const FORMS: [Form; 5] = [
    ("outer options", Program::FromOverlay, |outer| vec![outer.clone().options().bytes()]),
    ("outer fragments", Program::FromOverlay, fragments),
    ("outer fragments with options", Program::FromOverlay, |outer| fragments(&outer.clone().options())),
    ("a UDP checksum", Program::FromUnderlay, |outer| vec![with_checksum(outer.clone()).bytes()]),
    ("padding", Program::FromUnderlay, |outer| vec![[outer.bytes(), vec![0; 6]].concat()]),
];

/// A packet in two fragments.
fn fragments(outer: &Frame) -> Vec<Vec<u8>> {
    // The content comes last.
    let plain = Frame { options: Vec::new(), extensions: Vec::new(), ..outer.clone() }.bytes();
    let udp = &plain[ETHERNET + if outer.source.is_ipv4() { 20 } else { 40 }..];
    let (first, rest) = udp.split_at(64);
    let part = |bytes: &[u8]| outer.clone().content(Content::Other(UDP, bytes.to_vec()));
    vec![part(first).fragment(0, true).bytes(), part(rest).fragment(8, false).bytes()]
}

fn with_checksum(mut frame: Frame) -> Frame {
    if let Content::Udp { with_checksum, .. } = &mut frame.content {
        *with_checksum = true;
    }
    frame
}

/// A packet in order, from a pod of node 2 to the first pod of node 1, for both inner families.
fn in_order() -> [Frame; 2] {
    [("10.244.2.17", "10.244.1.10"), ("fd00:10:244:2::17", "fd00:10:244:1::10")]
        .map(|(source, destination)| Frame::udp(source, destination).length(100).macs(INNER_MACS.0, INNER_MACS.1))
}

/// The packet in VXLAN to an address of node 1.
fn to_node(header: u64, source: IpAddr, destination: IpAddr, inner: &Frame) -> Frame {
    Frame::vxlan_with(header, source, destination, &inner.bytes()).macs(node_mac(2), node_mac(1))
}

/// Node 1 with the program at its underlay.
fn bed(underlay: Underlay) -> Bed {
    let bed = Bed::new(underlay);
    bed.node.attach("eth0", "ingress", program::FROM_UNDERLAY);
    bed
}

fn send(tap: &Tap, frames: &[Vec<u8>]) {
    frames.iter().for_each(|frame| tap.send(frame));
}

#[test]
fn what_the_kernel_takes_apart_is_delivered_where_it_is_in_order() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = bed(underlay);
        let [one, two] = [1, 2].map(|node| underlay.node_address(node));
        for (number, (form, _, frames)) in (1..).zip(FORMS) {
            for inner in in_order() {
                // Each packet is another one, so that it is that one which arrives.
                let inner = inner.port(number);
                let outer = Frame { identification: number, ..to_node(VXLAN_HEADER, two, one, &inner) };
                send(&bed.other, &frames(&outer));
                let expected = bed.at_pod(0, &inner);
                bed.pods[0].receive(&format!("{form} over {underlay:?}"), |frame| frame == expected);
            }
        }
    }
}

#[test]
fn what_the_kernel_takes_apart_is_refused_for_the_same_reasons() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = bed(underlay);
        let [one, two] = [1, 2].map(|node| underlay.node_address(node));
        let mut identification = 0;
        for inner in in_order() {
            let of_family = |[v4, v6]: [&str; 2]| if inner.source.is_ipv4() { v4 } else { v6 }.parse().unwrap();
            let from = |addresses| Frame { source: of_family(addresses), ..inner.clone() };
            let to = |addresses| Frame { destination: of_family(addresses), ..inner.clone() };
            let mismatch = DropReason::InnerSourceMismatch;
            for (what, outer, reason) in [
                (
                    "a stranger",
                    to_node(VXLAN_HEADER, underlay.node_address(9), one, &inner),
                    DropReason::OuterSourceUnknown,
                ),
                (
                    "to an address of the node that is no InternalIP",
                    to_node(VXLAN_HEADER, two, underlay.other_address(1), &inner),
                    DropReason::OuterDestinationUnknown,
                ),
                ("VNI 2", to_node(VXLAN_HEADER + 0x100, two, one, &inner), DropReason::WrongVni),
                (
                    "from a pod of this node",
                    to_node(VXLAN_HEADER, two, one, &from(["10.244.1.11", "fd00:10:244:1::11"])),
                    mismatch,
                ),
                ("from this node", to_node(VXLAN_HEADER, two, one, &from(["192.0.2.1", "2001:db8::1"])), mismatch),
                ("from loopback", to_node(VXLAN_HEADER, two, one, &from(["127.0.0.1", "::1"])), mismatch),
                ("from the world", to_node(VXLAN_HEADER, two, one, &from(["198.51.100.7", "2001:db8:f::7"])), mismatch),
                (
                    "to a group",
                    to_node(VXLAN_HEADER, two, one, &to(["224.0.0.251", "ff02::1"])),
                    DropReason::NotForThisNode,
                ),
            ] {
                for (form, strangers, frames) in FORMS {
                    let program =
                        if reason == DropReason::OuterSourceUnknown { strangers } else { Program::FromOverlay };
                    identification += 1;
                    let frames = frames(&Frame { identification, ..outer.clone() });
                    let what = format!("{what}, {form} over {underlay:?}");
                    bed.is_dropped(&what, program, reason, || send(&bed.other, &frames));
                }
            }
        }
    }
}

#[test]
fn vxlan_to_an_address_of_the_node_that_is_no_internal_ip_is_refused() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = bed(underlay);
        for inner in in_order() {
            let outer = to_node(VXLAN_HEADER, underlay.node_address(2), underlay.other_address(1), &inner);
            let what = format!("{} over {underlay:?}", inner.source);
            bed.is_dropped(&what, Program::FromOverlay, DropReason::OuterDestinationUnknown, || {
                bed.other.send(&outer.bytes());
            });
        }
    }
}

#[test]
fn vxlan_that_came_through_the_tunnel_is_refused() {
    // The gateway is an address of the VXLAN device, so its port is there too, and pods of other nodes reach it by the tunnel.
    for underlay in [Underlay::V4, Underlay::V6] {
        let bed = bed(underlay);
        let [one, two] = [1, 2].map(|node| underlay.node_address(node));
        for inner in in_order() {
            for (pod, node, gateway) in
                [("10.244.2.17", "192.0.2.2", "10.244.1.1"), ("fd00:10:244:2::17", "2001:db8::2", "fd00:10:244:1::1")]
            {
                let gateway = gateway.parse().unwrap();
                for (from, reason) in
                    [(pod, DropReason::OuterSourceUnknown), (node, DropReason::OuterDestinationUnknown)]
                {
                    let nested = Frame::vxlan(from.parse().unwrap(), gateway, &inner.bytes());
                    let outer = to_node(VXLAN_HEADER, two, one, &nested.macs(INNER_MACS.0, INNER_MACS.1));
                    let what = format!("{} in VXLAN of {from} over {underlay:?}", inner.source);
                    bed.is_dropped(&what, Program::FromOverlay, reason, || bed.other.send(&outer.bytes()));
                }
            }
        }
    }
}
