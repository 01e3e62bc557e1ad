//! Outer packets that the fast path leaves to the kernel: what is in them arrives all the same, by the device.

use std::net::UdpSocket;

use crate::capture::{LIMIT, Tap};
use crate::datapath::mount_bpffs;
use crate::frames::{Content, ETHERNET, Frame, PORT, UDP};
use crate::node::{self, Node, Underlay, ifindex, node_mac, pod_addresses};
use crate::streams_traffic::ip_header;
use crate::ways_pair::{UNDERLAY_DEVICE, Way};

/// Bytes of the packet in its first fragment: whole units of eight, and less than the headers down to the inner frame's.
const FIRST: usize = 24;

/// An outer packet as nobody of ours sends it: one or more frames.
fn shapes(outer: &Frame) -> [(&'static str, Vec<Vec<u8>>); 4] {
    let whole = outer.bytes();
    let (first, second) = whole[ETHERNET + ip_header(outer.source)..].split_at(FIRST);
    let fragment = |data: &[u8], offset: usize, more: bool| {
        outer.clone().content(Content::Other(UDP, data.to_vec())).fragment((offset / 8) as u16, more).bytes()
    };
    let mut with_checksum = outer.clone();
    if let Content::Udp { with_checksum, .. } = &mut with_checksum.content {
        *with_checksum = true;
    }
    [
        ("fragments", vec![fragment(first, 0, true), fragment(second, FIRST, false)]),
        ("options", vec![outer.clone().options().bytes()]),
        ("a checksum", vec![with_checksum.bytes()]),
        ("padding", vec![[&whole[..], &[0; 6]].concat()]),
    ]
}

fn arrives_by_the_device(underlay: Underlay) {
    mount_bpffs();
    let [one, other_namespace] = node::underlay();
    let other = Tap::new(&other_namespace, ifindex(&other_namespace, UNDERLAY_DEVICE));
    let node = Node::new(one, 1, underlay, 1);
    node.take(Way::Past);
    let receiver = node.pods[0].namespace.enter(|| UdpSocket::bind(("::", PORT)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let received = |what: &str, text: &str, frames: Vec<Vec<u8>>| {
        let (before, mut buffer) = (node.overlay_packets()[0], [0; 64]);
        for frame in frames {
            other.send(&frame);
        }
        let length = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{what} over {underlay:?}: {error}"));
        assert_eq!(&buffer[..length], text.as_bytes(), "{what} over {underlay:?}");
        node.overlay_packets()[0] - before
    };
    let [from, to] = [2, 1].map(|number| underlay.node_address(number));
    for (source, destination) in pod_addresses(2, 7).into_iter().zip(pod_addresses(1, 0)) {
        let inner = Frame::udp(&source, &destination).text("as it was");
        let outer = Frame::vxlan(from, to, &inner.bytes()).macs(node_mac(2), node_mac(1));
        assert_eq!(received("as nodes send it", "as it was", vec![outer.bytes()]), 0, "over {underlay:?}");
        for (what, frames) in shapes(&outer) {
            assert_eq!(received(what, "as it was", frames), 1, "{what} over {underlay:?}");
        }
    }
}

#[test]
fn what_the_fast_path_leaves_to_the_kernel_arrives_by_the_device_over_ipv4() {
    arrives_by_the_device(Underlay::V4);
}

#[test]
fn what_the_fast_path_leaves_to_the_kernel_arrives_by_the_device_over_ipv6() {
    arrives_by_the_device(Underlay::V6);
}
