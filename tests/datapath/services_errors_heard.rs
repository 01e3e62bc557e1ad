//! Real sockets that hear through a Service what happened to their packets: a closed port, a path that takes less.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::libc::{
    EMSGSIZE, IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_DO, IPPROTO_IP, IPPROTO_IPV6, IPV6_MTU, IPV6_MTU_DISCOVER, c_int,
    getsockopt, setsockopt, socklen_t,
};

use crate::capture::LIMIT;
use crate::node::{Underlay, pod_addresses, run};
use crate::services_streams::{BACKEND_PORT, Cluster, addresses};
use crate::ways_pair::Way;

/// What a path takes less than a pod's device does.
const NARROW: usize = 1300;

/// Sends to a Service whose backend's port is closed.
fn is_refused(cluster: &Cluster, backends: &[String; 2], what: &str) {
    cluster.serve(backends);
    for address in addresses() {
        let client = cluster.udp(address).unwrap();
        client.send(b"weft").unwrap();
        let refused = client.recv(&mut [0; 9]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{what}: {address}: {refused}");
    }
    cluster.pair.assert_nothing_was_wrong(what);
}

#[test]
fn a_client_hears_that_the_backends_port_is_closed() {
    let cluster = Cluster::new(Underlay::V4);
    is_refused(&cluster, &pod_addresses(1, 1), "a pod beside");
    is_refused(&cluster, &pod_addresses(1, 0), "the pod itself");
    for ways in [[Way::Past; 2], [Way::Device; 2]] {
        cluster.pair.take(ways);
        is_refused(&cluster, &pod_addresses(2, 0), &format!("a pod of another node, {ways:?}"));
    }
    for number in [1, 2] {
        let backends = [Underlay::V4, Underlay::V6].map(|family| family.node_address(number).to_string());
        is_refused(&cluster, &backends, &format!("node {number}"));
    }
}

#[test]
fn a_backend_hears_that_the_clients_port_was_closed() {
    let cluster = Cluster::new(Underlay::V4);
    for (at, backends) in [(0, pod_addresses(1, 1)), (1, pod_addresses(2, 0))] {
        let pods = &cluster.pair.nodes[at].pods;
        let pod = &pods[pods.len() - 1].namespace;
        cluster.serve(&backends);
        for (address, backend) in addresses().into_iter().zip(backends) {
            let bound = (backend.parse::<IpAddr>().unwrap(), BACKEND_PORT);
            let server = pod.enter(|| UdpSocket::bind(bound)).unwrap().unwrap();
            server.set_read_timeout(Some(LIMIT)).unwrap();
            let client = cluster.udp(address).unwrap();
            client.send(b"weft").unwrap();
            let (_, from) = server.recv_from(&mut [0; 9]).unwrap();
            drop(client);
            server.connect(from).unwrap();
            server.send(b"too late").unwrap();
            let refused = server.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}: {refused}");
        }
    }
    cluster.pair.assert_nothing_was_wrong("closed clients");
}

/// Sets what its socket does with packets that are too large, and reads what the path takes.
fn never_fragment(socket: &UdpSocket, family: SocketAddr) {
    let (level, option) =
        if family.is_ipv4() { (IPPROTO_IP, IP_MTU_DISCOVER) } else { (IPPROTO_IPV6, IPV6_MTU_DISCOVER) };
    let value: c_int = IP_PMTUDISC_DO;
    // SAFETY: the kernel reads an integer of the size that it is told.
    let set = unsafe {
        setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<c_int>() as socklen_t)
    };
    assert_eq!(set, 0);
}

fn path_mtu(socket: &UdpSocket, family: SocketAddr) -> usize {
    let (level, option) = if family.is_ipv4() { (IPPROTO_IP, IP_MTU) } else { (IPPROTO_IPV6, IPV6_MTU) };
    let (mut value, mut length): (c_int, _) = (0, size_of::<c_int>() as socklen_t);
    // SAFETY: the kernel writes an integer of the size that it is told.
    let got = unsafe { getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    assert_eq!(got, 0);
    value as usize
}

#[test]
fn a_client_learns_the_mtu_of_a_narrow_path() {
    let cluster = Cluster::new(Underlay::V4);
    let backends = [Underlay::V4, Underlay::V6].map(|family| family.node_address(2).to_string());
    cluster.serve(&backends);
    for (address, backend) in addresses().into_iter().zip(&backends) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        run(&cluster.first().namespace, &format!("ip route add {backend}/{bits} dev eth0 mtu {NARROW}"));
        let bound = (backend.parse::<IpAddr>().unwrap(), BACKEND_PORT);
        let server = cluster.pair.nodes[1].namespace.enter(|| UdpSocket::bind(bound)).unwrap().unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let client = cluster.udp(address).unwrap();
        never_fragment(&client, address);
        let header = if address.is_ipv4() { 28 } else { 48 };
        client.send(&vec![1; 1430 - header]).unwrap();
        let deadline = Instant::now() + LIMIT;
        while path_mtu(&client, address) != NARROW {
            assert!(Instant::now() < deadline, "{address}: the path takes {} bytes", path_mtu(&client, address));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let told = client.take_error().unwrap().map(|error| error.raw_os_error());
        assert_eq!(told, Some(Some(EMSGSIZE)), "{address}");
        client.send(&vec![2; NARROW - header]).unwrap();
        let (length, _) = server.recv_from(&mut [0; 2000]).unwrap();
        assert_eq!(length, NARROW - header, "{address}");
        // And a stream by packets goes on with smaller segments.
        let listener = cluster.pair.nodes[1].namespace.enter(|| TcpListener::bind(bound)).unwrap().unwrap();
        cluster.stream(&listener, address).unwrap_or_else(|error| panic!("{address}: {error:#}"));
    }
    cluster.pair.assert_nothing_was_wrong("a narrow path");
}
