//! Real sockets that dial Services past the hooks of sockets: streams that the kernel cuts and joins, datagrams, refusals.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use weft_common::reason::{DropReason, Program};
use weft_tests::netns::View;

use crate::capture::LIMIT;
use crate::datapath::mount_bpffs;
use crate::frames::{TCP, UDP};
use crate::node::{self, Node, Underlay, pod_addresses};
use crate::services::{Port, Services};
use crate::services_packets::{SERVICE_PORT, at};
use crate::streams_traffic::transfer;
use crate::ways_pair::{Pair, UNDERLAY_DEVICE, Way, offloads};

/// Bytes of a stream in each direction.
const AMOUNT: usize = 1 << 20;
/// The port of backends.
pub(crate) const BACKEND_PORT: u16 = 8080;
/// Cluster IPs.
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];

/// Two nodes; node 1 has two pods, and clients of Services are its first.
pub(crate) struct Cluster {
    pub(crate) pair: Pair,
    pub(crate) services: Services,
}

impl Cluster {
    pub(crate) fn new(underlay: Underlay) -> Self {
        mount_bpffs();
        let pair = Pair::between(node::underlay(), underlay, [2, 1]);
        let services = Services::open(&pair.nodes[0].pins);
        Self { services, pair }
    }

    pub(crate) fn client(&self) -> &View {
        &self.pair.nodes[0].pods[0].namespace
    }

    pub(crate) fn first(&self) -> &Node {
        &self.pair.nodes[0]
    }

    /// Lets the cluster IPs lead to a backend, by its address in each family.
    pub(crate) fn serve(&self, backends: &[String; 2]) {
        for (cluster_ip, backend) in CLUSTER_IPS.into_iter().zip(backends) {
            for protocol in [TCP, UDP] {
                let id = u64::from(protocol) << 8 | u64::from(backend.contains(':'));
                let port = Port::new(id, protocol, &at(cluster_ip, SERVICE_PORT), &[&at(backend, BACKEND_PORT)]);
                self.services.set(&port);
            }
        }
    }

    /// A stream and datagrams to the cluster IPs, which lead to the addresses of a namespace.
    fn exchange(&self, backend: &View, backends: &[String; 2], what: &str) {
        self.serve(backends);
        for (address, backend_address) in addresses().into_iter().zip(backends) {
            let bound = (backend_address.parse::<IpAddr>().unwrap(), BACKEND_PORT);
            let listener = backend.enter(|| TcpListener::bind(bound)).unwrap().unwrap();
            let server = backend.enter(|| UdpSocket::bind(bound)).unwrap().unwrap();
            server.set_read_timeout(Some(LIMIT)).unwrap();
            let done = self.stream(&listener, address).and_then(|()| self.datagrams(&server, address));
            done.unwrap_or_else(|error| panic!("{what}, {address}: {error:#}"));
        }
        self.pair.assert_nothing_was_wrong(what);
    }

    /// A stream both ways.
    pub(crate) fn stream(&self, listener: &TcpListener, address: SocketAddr) -> Result<()> {
        let client = self.client().enter(|| TcpStream::connect_timeout(&address, LIMIT))?.context("cannot connect")?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
        }
        transfer(&client, &server, AMOUNT).context("there")?;
        transfer(&server, &client, AMOUNT).context("back")
    }

    /// As names are asked for: each question from a socket of its own.
    fn datagrams(&self, server: &UdpSocket, address: SocketAddr) -> Result<()> {
        let mut buffer = [0; 1 << 16];
        // The last ones come in fragments.
        for size in [0, 1, 33, 512, 1300, 4096, 8192, 65_000].into_iter().cycle().take(24) {
            let client = self.udp(address)?;
            client.send(&content(size))?;
            let (length, from) = server.recv_from(&mut buffer).context("no question")?;
            ensure!(buffer[..length] == content(size), "a question of {size} bytes came otherwise");
            server.send_to(&buffer[..length], from)?;
            // It is connected: what comes from elsewhere is not for it.
            let length = client.recv(&mut buffer).context("no answer")?;
            ensure!(buffer[..length] == content(size), "an answer of {size} bytes came otherwise");
        }
        Ok(())
    }

    /// A socket of the client that is connected to an address.
    pub(crate) fn udp(&self, address: SocketAddr) -> Result<UdpSocket> {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = self.client().enter(|| UdpSocket::bind((any, 0)))??;
        client.set_read_timeout(Some(LIMIT))?;
        client.connect(address)?;
        Ok(client)
    }
}

/// Bytes that are different at every place.
fn content(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

/// What clients dial.
pub(crate) fn addresses() -> [SocketAddr; 2] {
    CLUSTER_IPS.map(|address| SocketAddr::new(address.parse().unwrap(), SERVICE_PORT))
}

#[test]
fn a_pod_reaches_pods_of_its_own_node_and_itself_through_a_service() {
    let cluster = Cluster::new(Underlay::V4);
    for index in [1, 0] {
        let pod = &cluster.first().pods[index].namespace;
        cluster.exchange(pod, &pod_addresses(1, index), &format!("pod {index}"));
    }
    assert_eq!(cluster.first().forwarded(), 0, "the stack had a part in it");
}

#[test]
fn a_pod_reaches_a_pod_of_another_node_through_a_service_whichever_way_packets_take() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let cluster = Cluster::new(underlay);
        for ways in Way::PAIRS {
            cluster.pair.take(ways);
            let pod = &cluster.pair.nodes[1].pods[0].namespace;
            cluster.exchange(pod, &pod_addresses(2, 0), &format!("{ways:?} over {underlay:?}"));
        }
    }
}

#[test]
fn a_pod_reaches_processes_of_nodes_through_a_service() {
    let cluster = Cluster::new(Underlay::V4);
    for (node, number) in cluster.pair.nodes.iter().zip(1..) {
        let backends = [Underlay::V4, Underlay::V6].map(|family| family.node_address(number).to_string());
        cluster.exchange(&node.namespace, &backends, &format!("node {number}"));
    }
}

#[test]
fn streams_through_a_service_arrive_whole_whatever_devices_compute() {
    for words in ["tx off tso off gso off", "tso off gso off", "gro on"] {
        let cluster = Cluster::new(Underlay::V4);
        for node in &cluster.pair.nodes {
            let pods = node.pods.iter().map(|pod| &*pod.namespace);
            for namespace in pods.chain([&*node.namespace]) {
                offloads(namespace, UNDERLAY_DEVICE, words);
            }
        }
        let pod = &cluster.first().pods[1].namespace;
        cluster.exchange(pod, &pod_addresses(1, 1), &format!("this node, {words}"));
        for ways in [[Way::Past; 2], [Way::Device; 2]] {
            cluster.pair.take(ways);
            let pod = &cluster.pair.nodes[1].pods[0].namespace;
            cluster.exchange(pod, &pod_addresses(2, 0), &format!("another node, {words}, {ways:?}"));
        }
    }
}

#[test]
fn a_client_of_a_service_without_endpoints_hears_so_at_once() {
    let cluster = Cluster::new(Underlay::V4);
    for cluster_ip in CLUSTER_IPS {
        for protocol in [TCP, UDP] {
            cluster.services.set(&Port::new(1, protocol, &at(cluster_ip, SERVICE_PORT), &[]));
        }
    }
    for address in addresses() {
        for address in [address, SocketAddr::new(address.ip(), 81)] {
            let refused = cluster.client().enter(|| TcpStream::connect_timeout(&address, LIMIT)).unwrap();
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "TCP to {address}");
            let client = cluster.udp(address).unwrap();
            client.send(b"weft").unwrap();
            let refused = client.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "UDP to {address}");
        }
    }
    for (program, reason, count) in cluster.first().maps.drops().unwrap() {
        let is_refusal = (program, reason) == (Program::FromPod, DropReason::ServiceRefused);
        // Four addresses by two protocols.
        let expected = if is_refusal { 8 } else { 0 };
        let is_right = count == expected || reason == DropReason::LinkLocalIgnored;
        assert!(is_right, "{} {}: {count}", program.name(), reason.name());
    }
    assert_eq!(cluster.first().pods[0].checksum_errors(), 0);
}

#[test]
fn a_connected_socket_goes_on_with_another_backend_when_its_own_is_gone() {
    let cluster = Cluster::new(Underlay::V4);
    let open = |view: &View| {
        let server = view.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, BACKEND_PORT))).unwrap().unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        server
    };
    let one = open(&cluster.first().pods[1].namespace);
    let other = open(&cluster.pair.nodes[1].pods[0].namespace);
    for address in addresses() {
        let client = cluster.udp(address).unwrap();
        for round in 0..6 {
            let (backends, server) =
                if round % 2 == 0 { (pod_addresses(1, 1), &one) } else { (pod_addresses(2, 0), &other) };
            cluster.serve(&backends);
            let mut buffer = [0; 64];
            client.send(&[round]).unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap_or_else(|error| panic!("round {round}: {error}"));
            server.send_to(&[round, 1], from).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [round, 1]);
        }
    }
    cluster.pair.assert_nothing_was_wrong("backends that come and go");
}
