//! Two nodes whose pods talk, and which way their packets take at each end: past the VXLAN device or by it.

use std::net::IpAddr;

use weft_agent::overlay::state::NodeEntry;
use weft_common::layout::{OVERLAY_DEVICE, program};
use weft_common::reason::DropReason;
use weft_tests::netns::{Namespace, View};

use crate::datapath::mount_bpffs;
use crate::node::{self, Node, Underlay, ifindex, pod_addresses, pod_cidrs, run};
use crate::streams_traffic::Flow;

/// The device of a node that leads to the other.
pub(crate) const UNDERLAY_DEVICE: &str = "eth0";
/// The MTU of pods.
pub(crate) const POD_MTU: usize = 1430;

/// How an end of the tunnel handles VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Programs write and take off the outer headers.
    Past,
    /// The kernel's VXLAN device does.
    Device,
}

impl Way {
    /// What the first and the second node may do.
    pub(crate) const PAIRS: [[Self; 2]; 4] = [
        [Self::Past, Self::Past],
        [Self::Past, Self::Device],
        [Self::Device, Self::Past],
        [Self::Device, Self::Device],
    ];
}

impl Node {
    /// Lets packets between the pods of both nodes take this way at this end, from now on.
    pub(crate) fn take(&self, way: Way) {
        match way {
            Way::Past => {
                self.attach(UNDERLAY_DEVICE, "ingress", program::FROM_UNDERLAY);
                self.set_way(Some(ifindex(&self.namespace, UNDERLAY_DEVICE)));
            }
            Way::Device => {
                self.set_way(None);
                // The qdisc stays: while one comes or goes the kernel drops what the device sends.
                run(&self.namespace, &format!("tc qdisc replace dev {UNDERLAY_DEVICE} clsact"));
                run(&self.namespace, &format!("tc filter delete dev {UNDERLAY_DEVICE} ingress"));
            }
        }
    }

    /// Says by which device packets for the other node leave past the VXLAN device, if they do.
    pub(crate) fn set_way(&self, underlay: Option<u32>) {
        let other = 3 - self.number;
        let [tunnel, source] = [other, self.number].map(|number| self.underlay.node_address(number));
        for pod_cidr in pod_cidrs(other) {
            self.maps.set_node(pod_cidr, NodeEntry { tunnel, source, local: false, underlay }).unwrap();
        }
    }

    /// Packets that the VXLAN device received and sent.
    pub(crate) fn overlay_packets(&self) -> [u64; 2] {
        packets(&self.namespace, OVERLAY_DEVICE)
    }
}

/// Packets that a device received and sent.
pub(crate) fn packets(namespace: &View, device: &str) -> [u64; 2] {
    let [_, received, _, sent] = traffic(namespace, device);
    [received, sent]
}

/// Bytes and packets that a device received, then those that it sent.
pub(crate) fn traffic(namespace: &View, device: &str) -> [u64; 4] {
    let text = namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':')).unwrap();
    let columns: Vec<u64> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
    [0, 1, 8, 9].map(|column| columns[column])
}

/// Two nodes.
pub(crate) struct Pair {
    pub(crate) nodes: [Node; 2],
    pub(crate) underlay: Underlay,
}

impl Pair {
    /// Nodes with a pod each, by the device.
    pub(crate) fn new(underlay: Underlay) -> Self {
        mount_bpffs();
        Self::between(node::underlay(), underlay, [1, 1])
    }

    /// Nodes with so many pods, in namespaces that reach each other.
    pub(crate) fn between([one, two]: [Namespace; 2], underlay: Underlay, pods: [usize; 2]) -> Self {
        let pair =
            Self { nodes: [Node::new(one, 1, underlay, pods[0]), Node::new(two, 2, underlay, pods[1])], underlay };
        pair.take([Way::Device; 2]);
        pair
    }

    /// Lets both ends take these ways.
    pub(crate) fn take(&self, ways: [Way; 2]) {
        for (node, way) in self.nodes.iter().zip(ways) {
            node.take(way);
        }
    }

    /// Traffic of each family from the first node's pod to the second's.
    pub(crate) fn flows(&self) -> [Flow<'_>; 2] {
        pod_addresses(2, 0).map(|address| self.flow(address.parse().unwrap()))
    }

    /// Traffic from the first node's pod to an address of the second's.
    pub(crate) fn flow(&self, address: IpAddr) -> Flow<'_> {
        let [from, to] = [0, 1].map(|at| &*self.nodes[at].pods[0].namespace);
        Flow { from, to, address }
    }

    /// Lets something cross in both directions, and fails unless it took these ways.
    pub(crate) fn crosses(&self, what: &str, ways: [Way; 2], traffic: impl FnOnce() -> anyhow::Result<()>) {
        let what = format!("{what}, {ways:?} over {:?}", self.underlay);
        let before = [0, 1].map(|at| self.nodes[at].overlay_packets());
        traffic().unwrap_or_else(|error| panic!("{what}: {error:#}"));
        for (at, way) in ways.into_iter().enumerate() {
            let after = self.nodes[at].overlay_packets();
            let [received, sent] = [0, 1].map(|direction| after[direction] - before[at][direction]);
            let is_right = match way {
                Way::Past => received == 0 && sent == 0,
                Way::Device => received > 0 && sent > 0,
            };
            assert!(is_right, "{what}: the device of node {} received {received} and sent {sent} packets", at + 1);
        }
        self.assert_nothing_was_wrong(&what);
    }

    /// Fails if a program dropped something, or a pod received something damaged.
    pub(crate) fn assert_nothing_was_wrong(&self, what: &str) {
        for node in &self.nodes {
            for (program, reason, count) in node.maps.drops().unwrap() {
                let expected = count == 0 || reason == DropReason::LinkLocalIgnored;
                assert!(expected, "{what}: node {} {} {}: {count}", node.number, program.name(), reason.name());
            }
            for pod in &node.pods {
                assert_eq!(pod.checksum_errors(), 0, "{what}: checksums at a pod of node {}", node.number);
            }
        }
    }
}

/// Changes offloads of a device, in the words of `ethtool -K`.
pub(crate) fn offloads(namespace: &View, device: &str, words: &str) {
    run(namespace, &format!("ethtool -K {device} {words}"));
}
