//! What the underlay brings: VXLAN packets for pods of this node, byte by byte, and all else, which goes on untouched.

use std::net::IpAddr;

use weft_common::layout::VXLAN_PORT;
use weft_common::reason::Program;

use crate::datapath::{Case, Datapath, INNER_MACS, Outcome, POD_MTU, to_other_pod};
use crate::datapath_run::Circumstances;
use crate::frames::{self, Content, ETHERNET, Frame, Mac, VXLAN_HEADER};
use crate::frames_bytes::set_header_checksum;

const PROGRAM: Program = Program::FromUnderlay;

/// A VXLAN packet of node 2 to this node.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// Which families it has.
    pub(crate) what: String,
    /// The address of the other node.
    pub(crate) source: IpAddr,
    /// The address of this node.
    pub(crate) destination: IpAddr,
    /// What is inside.
    pub(crate) inner: Frame,
}

impl Arrival {
    /// The packet.
    pub(crate) fn outer(&self) -> Frame {
        self.outer_with(VXLAN_HEADER)
    }

    /// The packet with another VXLAN header.
    pub(crate) fn outer_with(&self, header: u64) -> Frame {
        Frame::vxlan_with(header, self.source, self.destination, &self.inner.bytes())
    }

    /// The packet with other bytes inside.
    pub(crate) fn outer_of(&self, inner: &[u8]) -> Frame {
        Frame::vxlan(self.source, self.destination, inner)
    }

    /// The same with a change of what is inside.
    pub(crate) fn with(&self, change: impl FnOnce(Frame) -> Frame) -> Self {
        Self { inner: change(self.inner.clone()), ..self.clone() }
    }

    /// The same between other addresses inside, chosen by their family: IPv4, IPv6.
    pub(crate) fn between(&self, sources: [&str; 2], destinations: [&str; 2]) -> Self {
        let of_family = usize::from(self.inner.source.is_ipv6());
        let [source, destination] = [sources, destinations].map(|addresses| addresses[of_family].parse().unwrap());
        self.with(|frame| Frame { source, destination, ..frame })
    }
}

/// Addresses of a pod of node 2, and of the pod of this node that packets are for.
pub(crate) const POD_OF_NODE_2: [&str; 2] = ["10.244.2.77", "fd00:10:244:2::77"];
pub(crate) const POD: [&str; 2] = ["10.244.1.11", "fd00:10:244:1::11"];

/// A packet in order, for each inner family in each outer one.
pub(crate) fn arrivals() -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    for (outer, source, destination) in [("IPv4", "192.0.2.2", "192.0.2.1"), ("IPv6", "2001:db8::2", "2001:db8::1")] {
        for (inner, (source_pod, pod)) in ["IPv4", "IPv6"].into_iter().zip(POD_OF_NODE_2.into_iter().zip(POD)) {
            arrivals.push(Arrival {
                what: format!("{inner} in {outer}"),
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                inner: Frame::udp(source_pod, pod).macs(INNER_MACS.0, INNER_MACS.1),
            });
        }
    }
    arrivals
}

/// The table with one line for each change of each packet in order.
pub(crate) fn table<const N: usize>(
    changes: impl Fn(&Arrival) -> [(&'static str, Vec<u8>, Outcome); N],
) -> Vec<Case<String>> {
    let lines = arrivals().into_iter().flat_map(|arrival| changes(&arrival).map(|line| (arrival.what.clone(), line)));
    lines.map(|(families, (what, frame, outcome))| (format!("{what}, {families}"), frame, outcome)).collect()
}

#[test]
fn packets_for_pods_of_this_node_are_delivered_as_they_were_but_for_a_hop() {
    const OTHER_MACS: (Mac, Mac) = ([0x22; 6], [0x44; 6]);
    let cases = table(|arrival| {
        let delivered = |what, change: &dyn Fn(Frame) -> Frame| {
            let arrival = arrival.with(change);
            (what, arrival.outer().bytes(), to_other_pod(&arrival.inner))
        };
        [
            delivered("as it is", &|frame| frame),
            delivered("nothing in it", &|frame| frame.text("")),
            delivered("an odd length", &|frame| frame.text("odd")),
            delivered("the largest", &|frame| frame.length(POD_MTU)),
            delivered("larger than ours", &|frame| frame.length(3000)),
            delivered("the last hop but one", &|frame| frame.hop_limit(2)),
            delivered("many hops", &|frame| frame.hop_limit(255)),
            delivered("an option", &Frame::options),
            delivered("the first fragment", &|frame| frame.fragment(0, true)),
            delivered("a later fragment", &|frame| frame.fragment(100, true)),
            delivered("TCP", &|frame| frame.content(Content::Tcp { to: 80, header: 32, payload: 99 })),
            delivered("SCTP", &|frame| frame.content(Content::Other(132, vec![5; 30]))),
            delivered("nothing after the header", &|frame| frame.content(Content::Other(59, vec![]))),
            delivered("UDP to the VXLAN port", &|frame| frame.port(VXLAN_PORT)),
            delivered("other MAC addresses", &|frame| frame.macs(OTHER_MACS.0, OTHER_MACS.1)),
            delivered("from the gateway of the sender's node", &|frame| {
                let source = if frame.source.is_ipv4() { "10.244.2.1" } else { "fd00:10:244:2::1" };
                Frame { source: source.parse().unwrap(), ..frame }
            }),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn the_outer_headers_may_be_any_legal_ones() {
    let cases = table(|arrival| {
        let delivered = |what, outer: Frame| (what, outer.bytes(), to_other_pod(&arrival.inner));
        let outer = arrival.outer();
        let other_address = |[v4, v6]: [&str; 2]| if outer.source.is_ipv4() { v4 } else { v6 }.parse().unwrap();
        let node_3 = arrival.between(["10.244.3.77", "fd00:10:244:3::77"], POD);
        let from_node_3 = Frame { source: other_address(["192.0.2.3", "2001:db8::3"]), ..node_3.outer() };
        [
            delivered("not to be fragmented", Frame { fragment: 0x4000, ..outer.clone() }),
            delivered("an identification", Frame { identification: 0xabcd, ..outer.clone() }),
            delivered("the last hop", outer.clone().hop_limit(1)),
            delivered("a service", outer.clone().service(0b1011_1000)),
            delivered("any source port", outer.clone().source_port(1)),
            delivered("the VXLAN port as source port", outer.clone().source_port(VXLAN_PORT)),
            ("another node, by any of its addresses", from_node_3.bytes(), to_other_pod(&node_3.inner)),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn the_kernel_takes_apart_what_is_not_plain_vxlan() {
    let cases = table(|arrival| {
        let outer = arrival.outer();
        let passes = |what, frame: Frame| (what, frame.bytes(), Outcome::Passed);
        let padded = |bytes: usize| [outer.bytes(), vec![0; bytes]].concat();
        let with_checksum = |mut frame: Frame| {
            if let Content::Udp { with_checksum, .. } = &mut frame.content {
                *with_checksum = true;
            }
            frame
        };
        // UDP that counts less than the packet has.
        let mut short_datagram = [&outer.bytes()[..], &[0; 4]].concat();
        let at = if arrival.source.is_ipv4() { ETHERNET + 2 } else { ETHERNET + 4 };
        let length = u16::from_be_bytes([short_datagram[at], short_datagram[at + 1]]) + 4;
        short_datagram[at..at + 2].copy_from_slice(&length.to_be_bytes());
        set_header_checksum(&mut short_datagram);
        [
            passes("outer options", outer.clone().options()),
            passes("the first outer fragment", outer.clone().fragment(0, true)),
            passes("an outer fragment in the middle", outer.clone().fragment(185, true)),
            passes("the last outer fragment", outer.clone().fragment(185, false)),
            passes("a UDP checksum", with_checksum(outer.clone())),
            ("a byte of padding", padded(1), Outcome::Passed),
            ("much padding", padded(300), Outcome::Passed),
            ("a datagram that is shorter than its packet", short_datagram, Outcome::Passed),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn an_outer_ipv4_header_with_a_broken_bit_is_left_to_the_kernel_which_drops_it() {
    let datapath = Datapath::load();
    for arrival in arrivals().into_iter().filter(|arrival| arrival.source.is_ipv4()) {
        let frame = arrival.outer().bytes();
        for bit in 0..20 * 8 {
            let mut broken = frame.clone();
            broken[ETHERNET + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(datapath.run(PROGRAM, &broken), Outcome::Passed, "bit {bit}, {}", arrival.what);
        }
        // The sum and its carries take all values.
        for identification in (0..=u16::MAX).step_by(97) {
            let mut other = frame.clone();
            other[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&identification.to_be_bytes());
            set_header_checksum(&mut other);
            let outcome = datapath.run(PROGRAM, &other);
            assert!(matches!(outcome, Outcome::Redirected(_)), "identification {identification}: {outcome:?}");
        }
    }
}

#[test]
fn what_is_no_vxlan_for_this_node_goes_on_untouched() {
    let cases = table(|arrival| {
        let outer = arrival.outer();
        let of_family = |[v4, v6]: [&str; 2]| if outer.source.is_ipv4() { v4 } else { v6 }.parse().unwrap();
        let passes = |what, frame: Frame| (what, frame.bytes(), Outcome::Passed);
        let to = |what, addresses| passes(what, Frame { destination: of_family(addresses), ..outer.clone() });
        let tcp = Content::Tcp { to: VXLAN_PORT, header: 20, payload: 99 };
        let Content::Udp { payload, .. } = &outer.content else { panic!("VXLAN is UDP") };
        let udp = [&[0xc3, 0x50, 0x12, 0xb5, 0, 0, 0, 0][..], payload].concat();
        let mapped_source = if outer.source.is_ipv4() {
            ("the next port but one", outer.clone().port(VXLAN_PORT + 2).bytes(), Outcome::Passed)
        } else {
            let source = "::ffff:192.0.2.2".parse().unwrap();
            passes("an IPv4-mapped source in IPv6", Frame { source, ..outer.clone() })
        };
        [
            ("a VLAN tag", frames::tagged(outer.bytes()), Outcome::Passed),
            passes("the next port", outer.clone().port(VXLAN_PORT + 1)),
            passes("the port with its bytes turned round", outer.clone().port(VXLAN_PORT.swap_bytes())),
            passes("VXLAN as the source port only", outer.clone().source_port(VXLAN_PORT).port(53)),
            passes("TCP", outer.clone().content(tcp)),
            passes("UDP-Lite", outer.clone().content(Content::Other(136, udp.clone()))),
            passes("SCTP", outer.clone().content(Content::Other(132, udp))),
            to("another node's address", ["192.0.2.3", "2001:db8::3"]),
            to("the sender's own address", ["192.0.2.2", "2001:db8::2"]),
            to("an address of the node that is no InternalIP", ["192.0.2.101", "2001:db8::101"]),
            to("the gateway of our pods", ["10.244.1.1", "fd00:10:244:1::1"]),
            to("a pod", POD),
            to("multicast", ["224.0.0.1", "ff02::1"]),
            to("broadcast", ["255.255.255.255", "ff02::2"]),
            to("loopback", ["127.0.0.1", "::1"]),
            // In the maps nodes' IPv4 addresses look like these. In an IPv6 header they are nobody's, and the kernel drops it.
            to("an IPv4-mapped destination in IPv6", ["192.0.2.255", "::ffff:192.0.2.1"]),
            mapped_source,
            ("ARP", frames::arp(), Outcome::Passed),
            ("MPLS", frames::mpls(), Outcome::Passed),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_is_for_the_stack_comes_up_by_the_device() {
    let cases = table(|arrival| {
        let passes = |what, arrival: Arrival| (what, arrival.outer().bytes(), Outcome::Passed);
        let to = |what, addresses| passes(what, arrival.between(POD_OF_NODE_2, addresses));
        let from_node = |what, addresses| passes(what, arrival.between(addresses, POD));
        [
            to("the gateway", ["10.244.1.1", "fd00:10:244:1::1"]),
            to("this node", ["192.0.2.1", "2001:db8::1"]),
            to("no pod of ours, of which the stack tells the sender", ["10.244.1.99", "fd00:10:244:1::99"]),
            from_node("from the sender's node", ["192.0.2.2", "2001:db8::2"]),
            passes("the last hop", arrival.with(|frame| frame.hop_limit(1))),
            passes("beyond the last hop", arrival.with(|frame| frame.hop_limit(0))),
        ]
    });
    Datapath::load().check(PROGRAM, cases);
}

#[test]
fn what_the_kernel_does_not_let_the_program_take_apart_comes_up_by_the_device() {
    // Packets to be cut into segments of a protocol that it does not know: see `datapath_run`.
    let datapath = Datapath::load();
    let circumstances = Circumstances { segment: 500, checksum: false };
    for arrival in arrivals() {
        let tcp = Content::Tcp { to: 80, header: 20, payload: 2000 };
        for inner in [arrival.inner.clone().length(2000), arrival.inner.clone().content(tcp)] {
            let frame = arrival.outer_of(&inner.bytes()).bytes();
            assert_eq!(datapath.run_in(PROGRAM, &frame, circumstances), Outcome::Passed, "{}", arrival.what);
        }
    }
}
