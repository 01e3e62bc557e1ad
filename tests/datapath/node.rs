//! A node in a network namespace, wired with `ip` and `tc` as the plugin and the agent wire theirs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_agent::datapath::maps::Maps;
use weft_agent::datapath::object::OBJECT;
use weft_agent::datapath::programs;
use weft_agent::overlay::state::NodeEntry;
use weft_common::entries::{Config, Endpoint};
use weft_common::layout::{OVERLAY_DEVICE, program};
use weft_tests::netns::{Namespace, View, veth};

use crate::datapath::set_endpoint;
use crate::frames::Mac;

/// The families of an underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// The InternalIP of a node.
    pub(crate) fn node_address(self, number: u8) -> IpAddr {
        let text = match self {
            Self::V4 => format!("192.0.2.{number}"),
            Self::V6 => format!("2001:db8::{number}"),
        };
        text.parse().unwrap()
    }

    /// The address of a node that is no InternalIP.
    pub(crate) fn other_address(self, number: u8) -> IpAddr {
        self.node_address(100 + number)
    }
}

/// A node, and its pods.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) maps: Maps,
    pub(crate) pods: Vec<Pod>,
    pub(crate) number: u8,
    pub(crate) underlay: Underlay,
    pub(crate) pins: PathBuf,
}

/// A pod.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) endpoint: Endpoint,
    /// Index of the pod side.
    pub(crate) ifindex: u32,
}

/// The MAC address of `eth0` of a node.
pub(crate) fn node_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 1, number]
}

/// The MAC address of `weft0` of a node.
pub(crate) fn overlay_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 2, number]
}

/// The gateways of the pods of a node.
pub(crate) fn gateways(number: u8) -> [String; 2] {
    [format!("10.244.{number}.1"), format!("fd00:10:244:{number}::1")]
}

/// The addresses of a pod: those that end in 10, 11, ...
pub(crate) fn pod_addresses(node: u8, index: usize) -> [String; 2] {
    let end = 10 + index;
    [format!("10.244.{node}.{end}"), format!("fd00:10:244:{node}::{end}")]
}

/// The networks of the pods of a node.
pub(crate) fn pod_cidrs(number: u8) -> [IpNetwork; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")].map(|text| text.parse().unwrap())
}

/// The number of a device.
pub(crate) fn ifindex(namespace: &View, device: &str) -> u32 {
    let links: Value = serde_json::from_str(&namespace.run(["ip", "-j", "link", "show", device]).unwrap()).unwrap();
    u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// Runs `ip` or `tc` with words separated by blanks.
pub(crate) fn run(namespace: &View, line: &str) {
    namespace.run(line.split_whitespace()).unwrap();
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Two namespaces joined by `eth0`, numbered 1 and 2.
pub(crate) fn underlay() -> [Namespace; 2] {
    let namespaces = [Namespace::new("node1").unwrap(), Namespace::new("node2").unwrap()];
    veth((&namespaces[0], "eth0"), (&namespaces[1], "eth0")).unwrap();
    address_underlay(&namespaces);
    namespaces
}

/// Gives the devices `eth0` of two nodes, which reach each other, their addresses.
pub(crate) fn address_underlay(namespaces: &[Namespace; 2]) {
    for (number, namespace) in (1..).zip(namespaces) {
        run(namespace, &format!("ip link set eth0 address {}", text(node_mac(number))));
        // The InternalIP is not the first address: the kernel would choose that one as the outer source.
        for address in [format!("192.0.2.{}/24", 100 + number), format!("192.0.2.{number}/24")] {
            namespace.add_address("eth0", &address).unwrap();
        }
        for address in [format!("2001:db8::{number}/64"), format!("2001:db8::{}/64", 100 + u16::from(number))] {
            namespace.add_address("eth0", &address).unwrap();
        }
        let other = 3 - number;
        for underlay in [Underlay::V4, Underlay::V6] {
            let (address, mac) = (underlay.node_address(other), text(node_mac(other)));
            run(namespace, &format!("ip neighbour replace {address} lladdr {mac} dev eth0 nud permanent"));
        }
    }
}

impl Node {
    /// Makes a namespace of [`underlay`] a node with pods. The other node is the other number.
    pub(crate) fn new(namespace: Namespace, number: u8, underlay: Underlay, pods: usize) -> Self {
        let pins = crate::datapath::bpffs(&format!("node{number}"));
        programs::load(&pins, OBJECT).unwrap();
        let maps = Maps::open(&pins).unwrap();
        for number_of in [1, 2] {
            let (tunnel, source) = (underlay.node_address(number_of), underlay.node_address(number));
            let entry = NodeEntry { tunnel, source, local: number_of == number, underlay: None };
            for pod_cidr in pod_cidrs(number_of) {
                maps.set_node(pod_cidr, entry).unwrap();
            }
            for family in [Underlay::V4, Underlay::V6] {
                maps.set_node_address(family.node_address(number_of), entry.of_address()).unwrap();
            }
        }
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            namespace.set_sysctl(sysctl, "1").unwrap();
        }
        let mut node = Self { namespace, maps, pods: Vec::new(), number, underlay, pins };
        node.add_overlay(underlay);
        for index in 0..pods {
            let pod = node.add_pod(index);
            node.pods.push(pod);
        }
        node
    }

    fn add_overlay(&self, underlay: Underlay) {
        let mac = text(overlay_mac(self.number));
        let line = format!(
            "ip link add {OVERLAY_DEVICE} address {mac} mtu 1430 type vxlan external dstport 4789 nolearning udp6zerocsumrx"
        );
        run(&self.namespace, &line);
        // The neighbours of this device are nodes, which no ARP finds.
        run(&self.namespace, &format!("ip link set {OVERLAY_DEVICE} arp off up"));
        self.namespace.set_sysctl("ipv4/conf/all/rp_filter", "0").unwrap();
        self.namespace.set_sysctl(&format!("ipv4/conf/{OVERLAY_DEVICE}/rp_filter"), "2").unwrap();
        let other = 3 - self.number;
        let [from, to] = [self.number, other].map(|number| underlay.node_address(number));
        let encap = if underlay == Underlay::V4 { "ip" } else { "ip6" };
        for (gateway, (own, remote)) in
            gateways(self.number).into_iter().zip(pod_cidrs(self.number).into_iter().zip(pod_cidrs(other)))
        {
            let bits = if own.is_ipv4() { 32 } else { 128 };
            self.namespace.add_address(OVERLAY_DEVICE, &format!("{gateway}/{bits}")).unwrap();
            run(&self.namespace, &format!("ip route add unreachable {own}"));
            let route = format!(
                "ip route add {remote} encap {encap} id 1 src {from} dst {to} dev {OVERLAY_DEVICE} src {gateway}"
            );
            run(&self.namespace, &route);
        }
        self.attach(OVERLAY_DEVICE, "ingress", program::FROM_OVERLAY);
        let config = Config { overlay_ifindex: ifindex(&self.namespace, OVERLAY_DEVICE), pod_mtu: 1430 };
        self.maps.set_config(config).unwrap();
        self.maps.lease_fast_path(Duration::MAX).unwrap();
    }

    fn add_pod(&self, index: usize) -> Pod {
        let namespace = Namespace::new(&format!("pod{}{index}", self.number)).unwrap();
        let device = format!("weftpod{index}");
        veth((&self.namespace, &device), (&namespace, "eth0")).unwrap();
        let [pod_mac, host_mac] = [3, 4].map(|side| [2, 0, 0, side, self.number, index as u8]);
        run(&namespace, &format!("ip link set eth0 address {} mtu 1430", text(pod_mac)));
        run(&self.namespace, &format!("ip link set {device} address {} mtu 1430", text(host_mac)));
        for (address, gateway) in pod_addresses(self.number, index).into_iter().zip(gateways(self.number)) {
            let bits = if address.contains(':') { 128 } else { 32 };
            namespace.add_address("eth0", &format!("{address}/{bits}")).unwrap();
            run(&namespace, &format!("ip neighbour add {gateway} lladdr {} dev eth0 nud permanent", text(host_mac)));
            run(&namespace, &format!("ip route add {gateway} dev eth0"));
            run(&namespace, &format!("ip route add default via {gateway}"));
            run(
                &self.namespace,
                &format!("ip neighbour add {address} lladdr {} dev {device} nud permanent", text(pod_mac)),
            );
            run(&self.namespace, &format!("ip route add {address}/{bits} dev {device}"));
        }
        self.attach(&device, "ingress", program::FROM_POD);
        self.attach(&device, "egress", program::TO_POD);
        let endpoint = Endpoint { ifindex: ifindex(&self.namespace, &device), pod_mac, host_mac };
        for address in pod_addresses(self.number, index) {
            set_endpoint(&self.pins, address.parse().unwrap(), endpoint);
        }
        Pod { ifindex: ifindex(&namespace, "eth0"), namespace, endpoint }
    }

    /// Attaches a program of this node.
    pub(crate) fn attach(&self, device: &str, hook: &str, program: &str) {
        run(&self.namespace, &format!("tc qdisc replace dev {device} clsact"));
        let pin = Path::new(&self.pins).join(program);
        let filter =
            format!("tc filter replace dev {device} {hook} prio 1 handle 1 bpf da object-pinned {}", pin.display());
        run(&self.namespace, &filter);
    }

    /// How many packets the node's stack sent on.
    pub(crate) fn forwarded(&self) -> u64 {
        let [v4, v6] = ["/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"]
            .map(|file| self.namespace.enter(|| std::fs::read_to_string(file).unwrap()).unwrap());
        let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).unwrap().trim().parse::<u64>();
        snmp(&v4, "Ip", "ForwDatagrams") + v6.unwrap()
    }
}

impl Pod {
    /// Packets of the pod whose transport checksum was wrong.
    pub(crate) fn checksum_errors(&self) -> u64 {
        let read = |file| self.namespace.enter(|| std::fs::read_to_string(file).unwrap()).unwrap();
        let (v4, v6) = (read("/proc/thread-self/net/snmp"), read("/proc/thread-self/net/snmp6"));
        let v6: u64 = v6
            .lines()
            .filter_map(|line| line.split_once("InCsumErrors"))
            .map(|(_, count)| count.trim().parse::<u64>().unwrap())
            .sum();
        snmp(&v4, "Tcp", "InCsumErrors") + snmp(&v4, "Udp", "InCsumErrors") + v6
    }
}

/// A counter of `/proc/net/snmp`: a line of names, then a line of values.
fn snmp(text: &str, protocol: &str, counter: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|&(name, _)| name == counter).unwrap().1.parse().unwrap()
}
