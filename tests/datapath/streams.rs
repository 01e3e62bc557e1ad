//! Real traffic between the pods of two nodes: large packets that the kernel cuts and joins, checksums that it fills in late.

use weft_common::reason::DropReason;

use crate::datapath::mount_bpffs;
use crate::node::{self, Node, Pod, Underlay, pod_addresses};
use crate::streams_traffic::Flow;
use crate::ways_pair::{POD_MTU, UNDERLAY_DEVICE, traffic};

/// Bytes of a stream in each direction.
const AMOUNT: usize = 1 << 20;

fn nodes(underlay: Underlay) -> [Node; 2] {
    mount_bpffs();
    let [one, two] = node::underlay();
    [Node::new(one, 1, underlay, 2), Node::new(two, 2, underlay, 1)]
}

/// Bytes a packet had on the average that a pod's device received.
fn received_size(pod: &Pod) -> usize {
    let [bytes, packets, ..] = traffic(&pod.namespace, UNDERLAY_DEVICE);
    (bytes / packets) as usize
}

fn exchange(from: &Pod, to: &Pod, addresses: &[String]) {
    for address in addresses {
        let flow = Flow { from: &from.namespace, to: &to.namespace, address: address.parse().unwrap() };
        flow.stream(AMOUNT).and_then(|()| flow.datagrams(&[4000])).and_then(|()| flow.ping(&[3000])).unwrap();
    }
}

fn assert_nothing_was_wrong(nodes: &[Node]) {
    for node in nodes {
        for (program, reason, count) in node.maps.drops().unwrap() {
            let expected = count == 0 || reason == DropReason::LinkLocalIgnored;
            assert!(expected, "node {}: {} {}: {count}", node.number, program.name(), reason.name());
        }
        for pod in &node.pods {
            assert_eq!(pod.checksum_errors(), 0);
        }
    }
}

#[test]
fn streams_between_pods_of_two_nodes_arrive_whole() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let nodes = nodes(underlay);
        exchange(&nodes[0].pods[0], &nodes[1].pods[0], &pod_addresses(2, 0));
        assert_nothing_was_wrong(&nodes);
        for node in &nodes {
            assert_eq!(node.forwarded(), 0, "the stack of node {} had a part in it", node.number);
        }
        let size = received_size(&nodes[1].pods[0]);
        assert!(size > 2 * POD_MTU, "packets were cut on the way: {size} bytes on the average");
    }
}

#[test]
fn streams_between_pods_of_a_node_arrive_whole() {
    let nodes = nodes(Underlay::V4);
    exchange(&nodes[0].pods[0], &nodes[0].pods[1], &pod_addresses(1, 1));
    assert_nothing_was_wrong(&nodes);
    assert_eq!(nodes[0].forwarded(), 0, "the stack had a part in it");
    let size = received_size(&nodes[0].pods[1]);
    assert!(size > 2 * POD_MTU, "packets were cut on the way: {size} bytes on the average");
}

#[test]
fn streams_arrive_whole_when_pods_and_underlay_compute_every_checksum() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let nodes = nodes(underlay);
        for namespace in nodes.iter().map(|node| &node.namespace).chain([&nodes[0].pods[0].namespace]) {
            namespace.run(["ethtool", "-K", "eth0", "tx", "off", "gso", "off", "tso", "off", "gro", "on"]).unwrap();
        }
        exchange(&nodes[0].pods[0], &nodes[1].pods[0], &pod_addresses(2, 0));
        exchange(&nodes[0].pods[0], &nodes[0].pods[1], &pod_addresses(1, 1));
        assert_nothing_was_wrong(&nodes);
    }
}

#[test]
fn hosts_reach_pods_of_both_nodes_and_pods_reach_hosts() {
    let nodes = nodes(Underlay::V4);
    let ping = |namespace: &weft_tests::netns::View, address: &str| {
        namespace.run(["ping", "-c", "1", "-W", "5", "-s", "3000", address]).unwrap();
    };
    for address in pod_addresses(1, 0).iter().chain(&pod_addresses(2, 0)) {
        ping(&nodes[0].namespace, address);
    }
    for address in node::gateways(1).iter().chain(&node::gateways(2)) {
        ping(&nodes[0].pods[0].namespace, address);
    }
    assert_nothing_was_wrong(&nodes);
}
