//! Nobody gets in: what a pod with raw sockets, a node that lies, and a stranger send arrives nowhere, and is counted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket};
use weft_tests::netns::View;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT, internal_ips};
use crate::operators::answer;

/// Where pods listen, and the port of the overlay.
const PORT: u16 = 4242;
const VXLAN: u16 = 4789;
/// What only a legal packet says.
const LEGAL: &[u8] = b"legal";

/// Waits until a pod that has just been made answers: on a busy machine the kernel takes its time with IPv6 addresses.
fn reach(from: &View, addresses: &[String]) {
    for address in addresses {
        let words = ["ping", "-q", "-c", "1", "-W", "1", address];
        wait::until(LIMIT, "a ping", || from.run(words).map(drop)).unwrap();
    }
}

/// A pod that listens.
struct Listener(UdpSocket);

impl Listener {
    fn start(pod: &View) -> Self {
        let socket = pod.enter(|| UdpSocket::bind(("::", PORT)).unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self(socket)
    }

    /// Has a legal packet sent after all others, and sees that it comes alone.
    fn hears_nothing_but_what_is_legal(&self, from: &View, address: &str, what: &str) {
        let sender = from.enter(|| UdpSocket::bind(("::", 0)).unwrap()).unwrap();
        sender.send_to(LEGAL, mapped(address, PORT)).unwrap();
        let mut packet = [0; 4096];
        let length = self.0.recv(&mut packet).unwrap_or_else(|error| panic!("{what}: nothing legal comes: {error}"));
        assert_eq!(&packet[..length], LEGAL, "{what} came in");
    }
}

/// For a socket of both families.
fn mapped(address: &str, port: u16) -> SocketAddr {
    let address = match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddr::new(address.into(), port)
}

/// A UDP packet to where pods listen, from its IP header on.
fn packet(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let builder = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => PacketBuilder::ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => PacketBuilder::ipv6(source.octets(), destination.octets(), 64),
        mixed => panic!("{mixed:?} are of two families"),
    };
    let mut bytes = Vec::new();
    builder.udp(PORT, PORT).write(&mut bytes, payload).unwrap();
    bytes
}

/// The same in VXLAN, from its header on.
fn encapsulated(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if source.contains(':') { [0x86, 0xdd] } else { [8, 0] };
    let header = [0x08, 0, 0, 0, 0, 0, 1, 0];
    let macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    [&header[..], &macs, &ether_type, &packet(source, destination, payload)].concat()
}

/// Sends a whole packet by a raw socket, whatever source it names.
fn send_raw(from: &View, packet: &[u8], destination: &str) {
    let destination: IpAddr = destination.parse().unwrap();
    let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    from.enter(|| {
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
        let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
        sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
    })
    .unwrap();
}

/// Sends by UDP to the overlay's port.
fn send_vxlan(from: &View, message: &[u8], node: &str) {
    let sender = from.enter(|| UdpSocket::bind(("::", 0)).unwrap()).unwrap();
    sender.send_to(message, mapped(node, VXLAN)).unwrap();
}

/// Packets that were dropped for a reason, by whichever program.
fn dropped(node: &AgentNode, reason: &str) -> u64 {
    let answer = answer(node, &["drops"], "agent");
    let drops = answer["drops"].as_array().unwrap().iter().filter(|drop| drop["reason"] == reason);
    drops.map(|drop| drop["packets"].as_u64().unwrap()).sum()
}

fn family(address: &str) -> usize {
    usize::from(address.contains(':'))
}

#[test]
fn a_pod_with_raw_sockets_reaches_nobody_from_an_address_that_is_not_its_own() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let (own, neighbour, far) = (one.add_pod(0), one.add_pod(1), two.add_pod(0));
        reach(&one.pods[0], &[neighbour.as_slice(), &far].concat());
        let listeners = [Listener::start(&one.pods[1]), Listener::start(&two.pods[0]), Listener::start(&one.namespace)];
        let (node, gateways) = (internal_ips(1, DUAL), ["10.244.1.1", "fd00:10:244:1::1"].map(str::to_owned));
        let worlds = [0, 1].map(worlds);
        let sources = [&neighbour[..], &far, &node, &internal_ips(2, DUAL), &gateways, &worlds];
        let mut sent = 0;
        for (listener, destinations) in listeners.iter().zip([&neighbour, &far, &node]) {
            for destination in destinations {
                for source in sources.iter().map(|addresses| &addresses[family(destination)]) {
                    send_raw(&one.pods[0], &packet(source, destination, b"spoofed"), destination);
                    sent += 1;
                }
                // The own source by the same socket is legal.
                let legal = packet(&own[family(destination)], destination, LEGAL);
                send_raw(&one.pods[0], &legal, destination);
                let what = format!("a packet to {destination} from a source that is not its own");
                listener.hears_nothing_but_what_is_legal(&one.pods[0], destination, &what);
                let mut second = [0; 64];
                let length = listener.0.recv(&mut second).unwrap();
                assert_eq!(&second[..length], LEGAL, "{what} came in");
            }
        }
        assert_eq!(dropped(one, "source_not_pod"), sent);
    });
}

#[test]
fn a_pod_that_speaks_vxlan_is_heard_by_no_node() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let (own, neighbour, far) = (one.add_pod(0), one.add_pod(1), two.add_pod(0));
        reach(&one.pods[0], &[neighbour.as_slice(), &far].concat());
        let gateways = ["10.244.1.1", "fd00:10:244:1::1"].map(str::to_owned);
        let mut sent = 0;
        // One for all that a pod is to hear: a process that another test has just forked may hold a closed socket, and its port, for a moment.
        let (near, distant) = (Listener::start(&one.pods[1]), Listener::start(&two.pods[0]));
        // To the own node, to its gateway, which is an address of it too, and to the other node.
        for (nodes, targets, listener) in [
            (internal_ips(1, DUAL), &neighbour, &near),
            (gateways.to_vec(), &neighbour, &near),
            (internal_ips(2, DUAL), &far, &distant),
        ] {
            for node in &nodes {
                for target in targets {
                    for source in [&own, &neighbour, &far].map(|addresses| &addresses[family(target)]) {
                        // Whole, and in three fragments.
                        for length in [100, 3000] {
                            let message = encapsulated(source, target, &vec![7; length]);
                            send_vxlan(&one.pods[0], &message, node);
                            sent += 1;
                        }
                    }
                }
                let what = format!("VXLAN of a pod to {node}");
                for target in targets {
                    listener.hears_nothing_but_what_is_legal(&one.pods[0], target, &what);
                }
            }
        }
        assert_eq!(dropped(one, "vxlan_from_pod"), sent);
        for node in [one, two] {
            for reason in ["outer_source_unknown", "inner_source_mismatch", "not_for_this_node"] {
                assert_eq!(dropped(node, reason), 0, "{reason} on {}: something was sent on", node.name);
            }
        }
    });
}

/// Pings through a VXLAN device of the kernel's own in the world beyond the nodes, as if it were on another node. No answer may come.
fn ping_as_a_stranger(hub: &View, node: &str, source: &str, target: &str) {
    let local = if node.contains(':') { "2001:db8::fe" } else { "192.0.2.254" };
    let (family, length, nodad) = if source.contains(':') { ("-6", 128, "nodad") } else { ("-4", 32, "") };
    let script = format!(
        "ip link add weft-stranger address 02:00:00:00:00:09 type vxlan id 1 local {local} remote {node} dstport {VXLAN}
         ip link set weft-stranger addrgenmode none up
         ip {family} address add {source}/{length} dev weft-stranger {nodad}
         ip {family} route add {target}/{length} dev weft-stranger
         ip {family} neighbour add {target} lladdr 02:00:00:00:00:01 dev weft-stranger nud permanent
         if ping -q -c 3 -i 0.01 -W 0.1 -I {source} {target}; then answer=1; fi
         ip link del weft-stranger
         test -z \"$answer\"",
    );
    hub.run(["sh", "-ec", &script]).unwrap();
}

#[test]
fn neither_a_stranger_nor_a_node_that_lies_brings_a_packet_into_the_pod_network() {
    AgentCluster::run(DUAL, 3, |cluster| {
        let [one, two, three] = cluster.nodes.as_slice() else { panic!("three nodes") };
        let (own, far, other) = (one.add_pod(0), two.add_pod(0), three.add_pod(0));
        reach(&two.pods[0], &[own.as_slice(), &other].concat());
        for node in internal_ips(1, DUAL) {
            for (source, target) in far.iter().zip(&own) {
                let before = dropped(one, "outer_source_unknown");
                ping_as_a_stranger(&cluster.hub, &node, source, target);
                let counted = dropped(one, "outer_source_unknown") - before;
                assert!(counted >= 3, "{counted} packets of a stranger to {node} were counted");
            }
        }
        // A process of node 2 is heard for what belongs to node 2, and for nothing else.
        let listener = Listener::start(&one.pods[0]);
        let mut lies = 0;
        for node in internal_ips(1, DUAL) {
            for target in &own {
                let family = family(target);
                let receiver = &internal_ips(1, DUAL)[family];
                for source in [&other[family], &own[family], receiver, &internal_ips(3, DUAL)[family]] {
                    send_vxlan(&two.namespace, &encapsulated(source, target, b"a lie"), &node);
                    lies += 1;
                }
                let loopback = if family == 0 { "127.0.0.1" } else { "::1" };
                let multicast = if family == 0 { "224.0.0.1" } else { "ff02::1" };
                for (source, target) in [
                    (loopback, target.as_str()),
                    (multicast, target),
                    (&worlds(family), target),
                    (&unspecified(family), target),
                ] {
                    send_vxlan(&two.namespace, &encapsulated(source, target, b"a lie"), &node);
                    lies += 1;
                }
                send_vxlan(&two.namespace, &encapsulated(&far[family], target, LEGAL), &node);
                let what = format!("what node 2 may not say to {node}");
                listener.hears_nothing_but_what_is_legal(&two.pods[0], target, &what);
                let mut second = [0; 64];
                let length = listener.0.recv(&mut second).unwrap();
                assert_eq!(&second[..length], LEGAL, "{what} came in");
            }
        }
        assert_eq!(dropped(one, "inner_source_mismatch"), lies);
        // To a pod of another node, to many, and to the world.
        let before = dropped(one, "not_for_this_node");
        let mut lost = 0;
        for target in other.iter().map(String::as_str).chain(["224.0.0.1", "ff02::1", "203.0.113.7", "2001:db8:7::7"]) {
            send_vxlan(&two.namespace, &encapsulated(&far[family(target)], target, b"lost"), "192.0.2.1");
            lost += 1;
        }
        listener.hears_nothing_but_what_is_legal(&two.pods[0], &own[0], "what is not for node 1");
        assert_eq!(dropped(one, "not_for_this_node") - before, lost);
    });
}

/// Addresses of nobody in the cluster, and of nobody at all.
fn worlds(family: usize) -> String {
    ["203.0.113.7", "2001:db8:7::7"][family].to_owned()
}

fn unspecified(family: usize) -> String {
    ["0.0.0.0", "::"][family].to_owned()
}
