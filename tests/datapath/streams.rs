//! Real traffic between the pods of two nodes: large packets that the kernel cuts and joins, checksums that it fills in late.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use weft_common::reason::DropReason;

use crate::capture::LIMIT;
use crate::datapath::mount_bpffs;
use crate::node::{self, Node, Pod, Underlay, pod_addresses};

/// Bytes of a stream.
const AMOUNT: usize = 8 << 20;
/// Pods' MTU.
const MTU: u64 = 1430;

fn nodes(underlay: Underlay) -> [Node; 2] {
    mount_bpffs();
    let [one, two] = node::underlay();
    [Node::new(one, 1, underlay, 2), Node::new(two, 2, underlay, 1)]
}

/// Sends a stream from one pod to another, and compares what arrived with what was sent.
fn stream(from: &Pod, to: &Pod, address: &str) {
    let listener = to.namespace.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent: Vec<u8> = (0..AMOUNT).map(|at| (at * 31 / 7) as u8).collect();
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            let mut received = Vec::with_capacity(AMOUNT);
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.read_to_end(&mut received).map(|_| received)
        });
        let address = format!("{address}:{port}").parse().unwrap();
        let mut stream = from.namespace.enter(|| TcpStream::connect_timeout(&address, LIMIT).unwrap()).unwrap();
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(received.join().unwrap().unwrap() == sent, "the stream to {address} arrived otherwise");
    });
}

/// Sends a datagram and an answer, each larger than the MTU.
fn datagrams(from: &Pod, to: &Pod, address: &str) {
    let [client, server] =
        [from, to].map(|pod| pod.namespace.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap()).unwrap());
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let [sent, mut received] = [7_u8, 0].map(|fill| vec![fill; 4000]);
    let address = format!("{address}:{}", server.local_addr().unwrap().port());
    let mapped = address.parse::<std::net::SocketAddr>().unwrap();
    let mapped = match mapped.ip() {
        std::net::IpAddr::V4(v4) => (v4.to_ipv6_mapped(), mapped.port()).into(),
        std::net::IpAddr::V6(_) => mapped,
    };
    client.send_to(&sent, mapped).unwrap();
    let (_, back) = server.recv_from(&mut received).unwrap();
    assert_eq!(received, sent);
    server.send_to(&received, back).unwrap();
    assert_eq!(client.recv(&mut received).unwrap(), sent.len());
}

fn brackets(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Bytes a packet had on the average that a pod's device received.
fn received_size(pod: &Pod) -> u64 {
    let text = pod.namespace.run(["ip", "-j", "-s", "link", "show", "eth0"]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let received = &links[0]["stats64"]["rx"];
    received["bytes"].as_u64().unwrap() / received["packets"].as_u64().unwrap()
}

fn exchange(from: &Pod, to: &Pod, addresses: &[String]) {
    for address in addresses {
        stream(from, to, &brackets(address));
        datagrams(from, to, &brackets(address));
        from.namespace.run(["ping", "-c", "2", "-i", "0.2", "-W", "5", "-s", "3000", address]).unwrap();
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
        assert!(size > 2 * MTU, "packets were cut on the way: {size} bytes on the average");
    }
}

#[test]
fn streams_between_pods_of_a_node_arrive_whole() {
    let nodes = nodes(Underlay::V4);
    exchange(&nodes[0].pods[0], &nodes[0].pods[1], &pod_addresses(1, 1));
    assert_nothing_was_wrong(&nodes);
    assert_eq!(nodes[0].forwarded(), 0, "the stack had a part in it");
    let size = received_size(&nodes[0].pods[1]);
    assert!(size > 2 * MTU, "packets were cut on the way: {size} bytes on the average");
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
