//! The peers' networks: pairs of hosts joined by one veth, and what each peer puts on them.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::netns::{Namespace, View, veth};

use super::addresses::Addresses;
use super::measurement::Ends;
use crate::plugins::Plugin;

/// The device between two hosts.
pub(crate) const UNDERLAY: &str = "eth0";
/// MTU of that.
const MTU: u32 = 1500;
/// Of the kernel's VXLAN between hosts.
const VXLAN: &str = "vxlan0";
/// Of flannel's, with its number and port.
const FLANNEL: &str = "flannel.1";
const FLANNEL_ID: &str = "1";
const FLANNEL_PORT: &str = "8472";

/// Namespaces that live as long as the ends between them are measured.
pub(crate) struct Bed {
    pub(crate) ends: Ends,
    _namespaces: Vec<Namespace>,
}

impl Bed {
    fn new(ends: Ends, namespaces: Vec<Namespace>) -> Self {
        Self { ends, _namespaces: namespaces }
    }
}

/// Runs a command of words separated by blanks.
pub(crate) fn run(namespace: &View, line: &str) -> Result<()> {
    namespace.run(line.split_whitespace()).map(drop)
}

/// Two hosts, numbered 1 and 2, joined by a veth pair.
pub(crate) fn hosts(addresses: Addresses) -> Result<[Namespace; 2]> {
    let hosts = [Namespace::new("host1")?, Namespace::new("host2")?];
    veth((&hosts[0], UNDERLAY), (&hosts[1], UNDERLAY))?;
    for (number, host) in (1..).zip(&hosts) {
        host.add_address(UNDERLAY, &addresses.host(number).to_string())?;
    }
    Ok(hosts)
}

/// From the first host to the second.
pub(crate) fn bare(addresses: Addresses) -> Result<Bed> {
    let hosts = hosts(addresses)?;
    let ends = Ends { client: hosts[0].clone(), server: hosts[1].clone(), address: addresses.host(2).ip() };
    Ok(Bed::new(ends, hosts.into()))
}

/// From the first host to the second, over a VXLAN device that knows the other end and nothing else.
pub(crate) fn kernel_vxlan(addresses: Addresses) -> Result<Bed> {
    let hosts = hosts(addresses)?;
    for (number, host) in (1..).zip(&hosts) {
        let [own, other] = [number, 3 - number].map(|number| addresses.host(number).ip());
        run(
            host,
            &format!("ip link add {VXLAN} type vxlan id 42 local {own} remote {other} dstport 4789 dev {UNDERLAY}"),
        )?;
        host.add_address(VXLAN, &addresses.inner_host(number).to_string())?;
        run(host, &format!("ip link set {VXLAN} up"))?;
    }
    let ends = Ends { client: hosts[0].clone(), server: hosts[1].clone(), address: addresses.inner_host(2).ip() };
    Ok(Bed::new(ends, hosts.into()))
}

/// Two pods of Debian's bridge plugin on one node.
pub(crate) fn bridge(addresses: Addresses, folder: &Path) -> Result<Bed> {
    let node = Namespace::new("bridge")?;
    node.set_sysctl(addresses.forwarding(), "1")?;
    let plugin = Plugin::bridge(&folder.join("bridge"), "bench0", &[addresses.pod_cidr(1)], MTU);
    let pods = [Namespace::new("pod1")?, Namespace::new("pod2")?];
    plugin.add(&node, &pods[0], "one")?;
    let address = plugin.add(&node, &pods[1], "two")?;
    let ends = Ends { client: pods[0].clone(), server: pods[1].clone(), address };
    let mut namespaces = Vec::from(pods);
    namespaces.push(node);
    Ok(Bed::new(ends, namespaces))
}

/// A pod on each of two nodes, connected as flannel does it.
pub(crate) fn flannel_like(addresses: Addresses, folder: &Path) -> Result<Bed> {
    let nodes = hosts(addresses)?;
    for (number, node) in (1..).zip(&nodes) {
        add_flannel_device(addresses, number, node)?;
    }
    for (number, node) in (1..).zip(&nodes) {
        add_flannel_peer(addresses, number, node, &nodes[2 - number])?;
        node.set_sysctl(addresses.forwarding(), "1")?;
        let rules = flannel_rules(addresses, number);
        node.run(["nft", rules.as_str()]).context("cannot write the rules of the flannel-like peer")?;
    }
    let pods = [Namespace::new("pod1")?, Namespace::new("pod2")?];
    let mut plugged = Vec::new();
    for (number, (node, pod)) in (1..).zip(nodes.iter().zip(&pods)) {
        let folder = folder.join(format!("flannel{number}"));
        let plugin = Plugin::bridge(&folder, "cni0", &[addresses.pod_cidr(number)], MTU - addresses.overhead());
        plugged.push(plugin.add(node, pod, "pod")?);
    }
    let ends = Ends { client: pods[0].clone(), server: pods[1].clone(), address: plugged[1] };
    Ok(Bed::new(ends, nodes.into_iter().chain(pods).collect()))
}

fn add_flannel_device(addresses: Addresses, number: usize, node: &View) -> Result<()> {
    let own = addresses.host(number).ip();
    let mtu = MTU - addresses.overhead();
    run(
        node,
        &format!(
            "ip link add {FLANNEL} mtu {mtu} type vxlan id {FLANNEL_ID} local {own} dev {UNDERLAY} dstport {FLANNEL_PORT} nolearning"
        ),
    )?;
    let network = addresses.pod_cidr(number);
    let bits = if network.is_ipv4() { 32 } else { 128 };
    node.add_address(FLANNEL, &format!("{}/{bits}", network.ip()))?;
    run(node, &format!("ip link set {FLANNEL} up"))
}

/// All that a node must know of another one, so that nothing is ever asked or learned.
fn add_flannel_peer(addresses: Addresses, number: usize, node: &View, peer: &View) -> Result<()> {
    let other = 3 - number;
    let (network, outer) = (addresses.pod_cidr(other), addresses.host(other).ip());
    let (gateway, mac) = (network.ip(), mac_of(peer, FLANNEL)?);
    run(node, &format!("ip neighbour add {gateway} lladdr {mac} dev {FLANNEL} nud permanent"))?;
    run(node, &format!("bridge fdb append {mac} dev {FLANNEL} dst {outer}"))?;
    run(node, &format!("ip route add {network} via {gateway} dev {FLANNEL} onlink"))
}

fn mac_of(namespace: &View, device: &str) -> Result<String> {
    let links: Value = serde_json::from_str(&namespace.run(["ip", "-j", "link", "show", device])?)?;
    links[0]["address"].as_str().map(String::from).with_context(|| format!("{device} has no MAC address"))
}

/// The rules that flannel writes, and the one of kube-proxy that looks at the state of what is forwarded.
fn flannel_rules(addresses: Addresses, number: usize) -> String {
    let (nft, all, own, multicast) =
        (addresses.nft(), addresses.pods(), addresses.pod_cidr(number), addresses.multicast());
    format!(
        "add table {nft} flannel; \
         add chain {nft} flannel forward {{ type filter hook forward priority filter; }}; \
         add rule {nft} flannel forward ct state invalid drop; \
         add rule {nft} flannel forward {nft} saddr {all} accept; \
         add rule {nft} flannel forward {nft} daddr {all} accept; \
         add chain {nft} flannel postrouting {{ type nat hook postrouting priority srcnat; }}; \
         add rule {nft} flannel postrouting meta mark & 0x4000 == 0x4000 return; \
         add rule {nft} flannel postrouting {nft} saddr {own} {nft} daddr {all} return; \
         add rule {nft} flannel postrouting {nft} saddr {all} {nft} daddr {own} return; \
         add rule {nft} flannel postrouting {nft} saddr != {all} {nft} daddr {own} return; \
         add rule {nft} flannel postrouting {nft} saddr {all} {nft} daddr != {multicast} masquerade fully-random; \
         add rule {nft} flannel postrouting {nft} saddr != {all} {nft} daddr {all} masquerade fully-random"
    )
}
