//! What is known of a packet's checksums when the underlay brings it: nothing, that they are to be computed yet, that a device
//! found the outermost right, or their sum. Whatever it is, a pod receives what is right, and nothing that is wrong.

use std::net::UdpSocket;

use etherparse::PacketBuilder;
use weft_common::layout::POD_VNI;
use weft_tests::netns::Namespace;
use weft_tests::wait;

use crate::capture::{LIMIT, Tap};
use crate::datapath::mount_bpffs;
use crate::node::{self, Node, Underlay, address_underlay, ifindex, pod_addresses, run};
use crate::streams_traffic::ip_header;
use crate::ways_pair::{Pair, UNDERLAY_DEVICE, Way, offloads};
use crate::wire::{INNER_MACS, vxlan};

/// An Ethernet header.
const ETHERNET: usize = 14;
/// Where the checksum is in a UDP header.
const CHECKSUM: usize = 6;
/// The same of TCP.
const TCP_CHECKSUM: usize = 16;
/// `struct virtio_net_hdr` that says nothing.
const NO_HEADER: [u8; 10] = [0; 10];
/// Its flag "the checksum is to be computed".
const NEEDS_CHECKSUM: u8 = 1;
/// Where the pod has a UDP socket. Nobody listens by TCP.
const PORT: u16 = 7000;

/// What the kernel knows of the checksums when the program sees a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing.
    None,
    /// The outermost is right (zero is), and the inner one where it is: what a device that looks at both says. Here the kernel
    /// itself says so, because it tries to join packets.
    Unnecessary,
    /// The sum of the whole packet: a tunnel below verified its own checksum, and knows it thereby.
    Complete,
}

/// Two namespaces whose `eth0` gives received packets this state.
fn underlay(state: State) -> [Namespace; 2] {
    if state != State::Complete {
        let namespaces = node::underlay();
        // veth tries to join packets only where the sender cuts them.
        let words = if state == State::Unnecessary { "gro on tso off" } else { "gro off" };
        namespaces.iter().for_each(|namespace| offloads(namespace, UNDERLAY_DEVICE, words));
        return namespaces;
    }
    let namespaces = [Namespace::new("node1").unwrap(), Namespace::new("node2").unwrap()];
    weft_tests::netns::veth((&namespaces[0], "wire"), (&namespaces[1], "wire")).unwrap();
    for (number, namespace) in (1..).zip(&namespaces) {
        run(namespace, "ip link set wire mtu 1600");
        offloads(namespace, "wire", "tx off");
        namespace.add_address("wire", &format!("198.51.100.{number}/24")).unwrap();
        let (local, remote) = (format!("198.51.100.{number}"), format!("198.51.100.{}", 3 - number));
        let device = format!(
            "ip link add {UNDERLAY_DEVICE} mtu 1500 type vxlan id 77 dstport 14789 local {local} remote {remote} udpcsum"
        );
        run(namespace, &device);
        offloads(namespace, UNDERLAY_DEVICE, "gro off");
        run(namespace, &format!("ip link set {UNDERLAY_DEVICE} up"));
    }
    address_underlay(&namespaces);
    namespaces
}

/// Node 1 with a pod, and somebody who sends it frames in the name of node 2.
struct Bed {
    node: Node,
    // The other end of the underlay.
    _other: Namespace,
    other: Tap,
    receiver: UdpSocket,
}

impl Bed {
    fn new(state: State, underlay_family: Underlay) -> Self {
        mount_bpffs();
        let [one, other_namespace] = underlay(state);
        let other = Tap::new(&other_namespace, ifindex(&other_namespace, UNDERLAY_DEVICE)).with_header();
        let node = Node::new(one, 1, underlay_family, 1);
        let receiver = node.pods[0].namespace.enter(|| UdpSocket::bind(("::", PORT)).unwrap()).unwrap();
        receiver.set_read_timeout(Some(LIMIT)).unwrap();
        Self { node, _other: other_namespace, other, receiver }
    }

    /// A frame from a pod of node 2 in VXLAN, and where its inner transport header begins.
    fn frame(&self, family: usize, tcp: bool, data: &[u8]) -> (Vec<u8>, usize) {
        let [source, destination] = [(2, 7), (1, 0)].map(|(node, pod)| pod_addresses(node, pod)[family].clone());
        let builder = PacketBuilder::ethernet2(INNER_MACS.0, INNER_MACS.1);
        let builder = if family == 0 {
            builder.ipv4(octets(&source), octets(&destination), 64)
        } else {
            builder.ipv6(octets(&source), octets(&destination), 64)
        };
        let mut inner = Vec::new();
        if tcp {
            builder.tcp(5000, PORT, 1, 1000).syn().write(&mut inner, data).unwrap();
        } else {
            builder.udp(5000, PORT).write(&mut inner, data).unwrap();
        }
        let [from, to] = [2, 1].map(|number| self.node.underlay.node_address(number));
        let outer = vxlan(from, to, POD_VNI, &inner);
        let at = outer.len() - inner.len() + ETHERNET + ip_header(destination.parse().unwrap());
        (outer, at)
    }

    fn send(&self, header: [u8; 10], frame: &[u8]) {
        self.other.send(&[&header[..], frame].concat());
    }

    /// Waits until the pod's kernel has refused so many packets for their checksums.
    fn refused(&self, what: &str, expected: u64) {
        let errors = || self.node.pods[0].checksum_errors();
        let waited = wait::until_true(LIMIT, "a wrong checksum to be counted", || errors() >= expected);
        waited.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(errors(), expected, "{what}");
    }
}

fn octets<const N: usize>(address: &str) -> [u8; N] {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.octets()[..].try_into().unwrap(),
        std::net::IpAddr::V6(v6) => v6.octets()[..].try_into().unwrap(),
    }
}

fn pods_receive_what_is_right_and_nothing_else(state: State, underlay_family: Underlay) {
    let bed = Bed::new(state, underlay_family);
    let (mut refused, mut buffer) = (0, [0; 64]);
    for way in [Way::Past, Way::Device] {
        bed.node.take(way);
        for family in [0, 1] {
            let what = format!("{state:?}, {way:?} over {underlay_family:?}, family {family} of pods");
            let before = bed.node.overlay_packets()[0];
            for tcp in [false, true] {
                let (mut frame, at) = bed.frame(family, tcp, b"wrong");
                frame[at + if tcp { TCP_CHECKSUM } else { CHECKSUM }] ^= 0x55;
                bed.send(NO_HEADER, &frame);
                refused += 1;
                bed.refused(&what, refused);
            }
            let (frame, at) = bed.frame(family, false, b"right");
            bed.send(NO_HEADER, &frame);
            let mut sent = vec![&b"right"[..]];
            if state != State::Complete {
                // The device below would compute it.
                let (mut frame, _) = bed.frame(family, false, b"partial");
                frame[at + CHECKSUM] ^= 0x55;
                let start = (at as u16).to_ne_bytes();
                let offset = (CHECKSUM as u16).to_ne_bytes();
                bed.send([NEEDS_CHECKSUM, 0, 0, 0, 0, 0, start[0], start[1], offset[0], offset[1]], &frame);
                sent.push(b"partial");
            }
            for expected in sent {
                let length = bed.receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(&buffer[..length], expected, "{what}");
            }
            bed.refused(&what, refused);
            let by_device = bed.node.overlay_packets()[0] - before;
            assert_eq!(by_device > 0, way == Way::Device, "{what}: {by_device} packets came by the device");
        }
    }
}

#[test]
fn pods_receive_what_is_right_when_nothing_is_known() {
    for underlay_family in [Underlay::V4, Underlay::V6] {
        pods_receive_what_is_right_and_nothing_else(State::None, underlay_family);
    }
}

#[test]
fn pods_receive_what_is_right_when_only_the_outermost_was_found_right() {
    for underlay_family in [Underlay::V4, Underlay::V6] {
        pods_receive_what_is_right_and_nothing_else(State::Unnecessary, underlay_family);
    }
}

#[test]
fn pods_receive_what_is_right_when_the_sum_of_the_packet_is_known() {
    for underlay_family in [Underlay::V4, Underlay::V6] {
        pods_receive_what_is_right_and_nothing_else(State::Complete, underlay_family);
    }
}

#[test]
fn streams_cross_an_underlay_that_knows_the_sum_of_each_packet() {
    for underlay_family in [Underlay::V4, Underlay::V6] {
        mount_bpffs();
        let pair = Pair::between(underlay(State::Complete), underlay_family, [1, 1]);
        for ways in Way::PAIRS {
            pair.take(ways);
            for flow in pair.flows() {
                pair.crosses(&format!("a stream to {}", flow.address), ways, || flow.stream(256 << 10));
                pair.crosses(&format!("datagrams to {}", flow.address), ways, || flow.datagrams(&[10, 1000, 4000]));
            }
        }
    }
}
