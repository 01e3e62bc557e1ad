//! A pod behind a node and a namespace beyond it that plays the world: whose address the world sees.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use weft_tests::netns::{Namespace, veth};

use crate::kernel_session::{NodePlan, Session, add_internal_ips, gateway, internal_ip, pod_cidr};

/// Long enough for a loaded machine; no test waits for its end when all is well.
const DEADLINE: Duration = Duration::from_secs(20);
/// Flows whose source ports are looked at: by chance alone, a range that includes lower ports would show among them.
const FLOWS: usize = 300;

const NODE_MAC: &str = "02:00:00:00:01:01";
const POD_MAC: &str = "02:00:00:00:01:02";

/// A pod, its node (1) and the world, which has the addresses of node 2.
struct World {
    pod: Namespace,
    world: Namespace,
    // Routes between the two.
    _node: Namespace,
}

fn pod_ip(family: u8) -> IpAddr {
    pod_cidr(1, family).iter().nth(9).unwrap()
}

fn world() -> World {
    let [pod, node, world] = ["pod", "node", "world"].map(|name| Namespace::new(name).unwrap());
    veth((&node, "eth0"), (&world, "eth0")).unwrap();
    add_internal_ips(&node, "eth0", 1);
    add_internal_ips(&world, "eth0", 2);
    veth((&node, "weft0000000000a"), (&pod, "eth0")).unwrap();
    Session::run(&node, |session| session.converge(&NodePlan::of(1, &[4], &[4, 6]).desired()));
    for (namespace, device, mac) in [(&node, "weft0000000000a", NODE_MAC), (&pod, "eth0", POD_MAC)] {
        namespace.run(["ip", "link", "set", device, "address", mac]).unwrap();
    }
    for family in [4, 6] {
        let (pod_ip, gateway) = (pod_ip(family).to_string(), gateway(pod_cidr(1, family)).to_string());
        pod.add_address("eth0", &format!("{pod_ip}/{}", if family == 4 { 32 } else { 128 })).unwrap();
        node.run(["ip", "route", "add", &pod_ip, "dev", "weft0000000000a"]).unwrap();
        pod.run(["ip", "route", "add", &gateway, "dev", "eth0"]).unwrap();
        // As the plugin does: the gateway is on another device, which does not answer neighbour discovery here.
        pod.run(["ip", "neighbour", "add", &gateway, "lladdr", NODE_MAC, "dev", "eth0"]).unwrap();
        node.run(["ip", "neighbour", "add", &pod_ip, "lladdr", POD_MAC, "dev", "weft0000000000a"]).unwrap();
        let family = if family == 4 { "-4" } else { "-6" };
        pod.run(["ip", family, "route", "add", "default", "via", &gateway, "dev", "eth0"]).unwrap();
    }
    World { pod, world, _node: node }
}

fn any(family: u8) -> SocketAddr {
    if family == 4 { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() }
}

#[test]
fn udp_and_tcp_leave_with_the_nodes_address_and_a_high_port() {
    let World { pod, world, _node } = world();
    for family in [4, 6] {
        let (server, listener) =
            world.enter(|| (UdpSocket::bind(any(family)).unwrap(), TcpListener::bind(any(family)).unwrap())).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let node_ip = internal_ip(1, family);
        let to = |port| SocketAddr::new(internal_ip(2, family), port);

        let clients: Vec<UdpSocket> =
            pod.enter(|| (0..FLOWS).map(|_| UdpSocket::bind(any(family)).unwrap()).collect()).unwrap();
        for client in &clients {
            client.send_to(b"hello", to(server.local_addr().unwrap().port())).unwrap();
            let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(from.ip(), node_ip);
            assert!(from.port() >= 32_768, "{from} is where NodePorts are, or below");
            server.send_to(b"hello", from).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        }
        for _ in 0..20 {
            let port = listener.local_addr().unwrap().port();
            let client = pod.enter(|| TcpStream::connect_timeout(&to(port), DEADLINE).unwrap()).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), node_ip);
            assert!(from.port() >= 32_768, "{from}");
            drop((client, accepted));
        }
    }
}

#[test]
fn icmp_is_answered_and_errors_come_back() {
    let World { pod, world, _node } = world();
    for family in [4, 6] {
        let target = internal_ip(2, family);
        pod.run(["ping", "-c", "2", "-i", "0.2", "-W", "5", &target.to_string()]).unwrap();
        // Nobody listens there: the world's answer is translated back to the pod.
        let closed = world.enter(|| UdpSocket::bind(any(family)).unwrap().local_addr().unwrap().port()).unwrap();
        let client = pod.enter(|| UdpSocket::bind(any(family)).unwrap()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect((target, closed)).unwrap();
        client.send(b"hello").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn what_goes_through_the_overlay_keeps_the_pods_address() {
    let World { pod, world, _node } = world();
    // The world becomes node 2 of the cluster.
    Session::run(&world, |session| session.converge(&NodePlan::of(2, &[4], &[4, 6]).desired()));
    for family in [4, 6] {
        let server = world.enter(|| UdpSocket::bind((gateway(pod_cidr(2, family)), 0)).unwrap()).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let client = pod.enter(|| UdpSocket::bind(any(family)).unwrap()).unwrap();
        client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        assert_eq!((from.ip(), from.port()), (pod_ip(family), client.local_addr().unwrap().port()));
    }
}

/// The answer to an address of the node would come past the tunnel, where nobody expects a pod's address. Of addresses that are no
/// InternalIPs, the other node would not even take the question.
#[test]
fn what_a_node_sends_to_pods_of_others_has_its_gateways_address_whatever_it_is_bound_to() {
    let World { pod: _pod, world, _node: node } = world();
    Session::run(&world, |session| session.converge(&NodePlan::of(2, &[4], &[4, 6]).desired()));
    for namespace in [&node, &world] {
        namespace.set_sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
        namespace.set_sysctl("ipv4/conf/eth0/rp_filter", "1").unwrap();
    }
    let seconds: [IpAddr; 2] = ["203.0.113.7".parse().unwrap(), "2001:db8:7::7".parse().unwrap()];
    for (family, second) in [4, 6].into_iter().zip(seconds) {
        node.add_address("eth0", &format!("{second}/{}", if family == 4 { 24 } else { 64 })).unwrap();
        let server = world.enter(|| UdpSocket::bind((gateway(pod_cidr(2, family)), 0)).unwrap()).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        for own in [internal_ip(1, family), second, gateway(pod_cidr(1, family))] {
            let client = node.enter(|| UdpSocket::bind((own, 0)).unwrap()).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
            let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(from.ip(), gateway(pod_cidr(1, family)), "sent from {own}");
            server.send_to(b"hello", from).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        }
    }
    let listing = node.run(["nft", "list", "table", "inet", "weft"]).unwrap();
    let rule = r#"iif 0 oifname "weft0" ip saddr != 10.244.1.0/24 masquerade comment"#;
    assert!(listing.contains(rule), "{listing}");
}
