//! How this node reaches every other one: pure arithmetic over the cluster, before any device is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::claims::{self, Owned};
use crate::model::cluster::Cluster;
use crate::model::problem::Problem;

/// What must be there before anything can be computed is not there. Everything in the kernel stays as it is until it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What is missing on this node. Not empty.
    pub reasons: Vec<Problem>,
    /// What else is wrong in the cluster.
    pub others: Vec<Problem>,
}

/// This node and its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Our Node's name.
    pub name: String,
    /// Our InternalIPs, not empty.
    pub internal_ips: Vec<IpAddr>,
    /// Our podCIDRs, not empty, at most one of each family.
    pub pod_cidrs: Vec<IpNetwork>,
    /// All other nodes, by name.
    pub peers: BTreeMap<String, Peer>,
    /// The ranges of Services' cluster IPs; `None` while they are not known.
    pub service_cidrs: Option<BTreeSet<IpNetwork>>,
    /// What is wrong without being in the way.
    pub problems: Vec<Problem>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its InternalIPs.
    pub internal_ips: Vec<IpAddr>,
    /// Its podCIDRs.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The outer addresses between us: `None` where no family is common.
    pub tunnel: Option<Tunnel>,
}

/// Outer addresses, of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Ours.
    pub source: IpAddr,
    /// The peer's.
    pub destination: IpAddr,
}

impl Plan {
    /// The address that stands for this node in the maps.
    pub fn own_tunnel(&self) -> Option<IpAddr> {
        self.internal_ips.first().copied()
    }

    /// Our gateway of the same family as `network`.
    pub fn gateway_for(&self, network: IpNetwork) -> Option<IpAddr> {
        self.pod_cidrs.iter().find(|own| own.is_ipv4() == network.is_ipv4()).map(|own| gateway(*own))
    }

    /// Whether some outer header is IPv6, which takes more room.
    pub fn has_ipv6_underlay(&self) -> bool {
        let mut tunnels = self.peers.values().filter_map(|peer| peer.tunnel).peekable();
        if tunnels.peek().is_none() {
            return self.own_tunnel().is_some_and(|address| address.is_ipv6());
        }
        tunnels.any(|tunnel| tunnel.destination.is_ipv6())
    }
}

/// The first address of a podCIDR: on `weft0`, and the gateway of the pods.
pub fn gateway(pod_cidr: IpNetwork) -> IpAddr {
    match pod_cidr.network() {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + 1).into()),
    }
}

/// The plan of the node `name`.
pub fn plan(cluster: &Cluster, name: &str) -> Result<Plan, Blocked> {
    let (mut owned, mut problems) = claims::settle(cluster);
    problems.extend(cluster.problems.iter().cloned());
    let Some(own) = owned.remove(name) else {
        let missing = Problem::of_node(
            name,
            "the cluster has no Node of this name",
            "compare NODE_NAME of the agent with `kubectl get nodes`; if the Node was deleted, restart its kubelet, which registers it",
        );
        return Err(Blocked { reasons: vec![missing], others: problems });
    };
    let mut reasons = missing_on_this_node(name, &own);
    if !reasons.is_empty() {
        // What this node lost, and to whom, explains what it misses.
        let of_this_node = |problem: &Problem| problem.object == format!("Node {name}");
        let (lost, others) = problems.into_iter().partition(of_this_node);
        reasons.extend::<Vec<_>>(lost);
        return Err(Blocked { reasons, others });
    }
    let mut peers = BTreeMap::new();
    for (peer, theirs) in owned {
        let tunnel = tunnel(&own.internal_ips, &theirs.internal_ips);
        if !theirs.pod_cidrs.is_empty() {
            problems.extend(unreachable(name, &own, peer, &theirs, tunnel));
        }
        let Owned { internal_ips, pod_cidrs } = theirs;
        peers.insert(peer.to_owned(), Peer { internal_ips, pod_cidrs, tunnel });
    }
    problems.sort();
    let Owned { internal_ips, pod_cidrs } = own;
    let service_cidrs = cluster.service_cidrs.clone();
    Ok(Plan { name: name.to_owned(), internal_ips, pod_cidrs, peers, service_cidrs, problems })
}

fn missing_on_this_node(name: &str, own: &Owned) -> Vec<Problem> {
    let mut missing = Vec::new();
    if own.internal_ips.is_empty() {
        missing.push(Problem::of_node(
            name,
            "it has no usable InternalIP, so no other node can reach it",
            "check --node-ip and --cloud-provider of its kubelet: with an external cloud provider, its controller must set the address",
        ));
    }
    if own.pod_cidrs.is_empty() {
        missing.push(Problem::of_node(
            name,
            "it has no usable podCIDR, so its pods get no addresses",
            "start the controller manager with --allocate-node-cidrs=true and a --cluster-cidr that has room for this node",
        ));
    }
    missing
}

/// The first family that both have, in the order of our addresses.
fn tunnel(ours: &[IpAddr], theirs: &[IpAddr]) -> Option<Tunnel> {
    ours.iter().find_map(|source| {
        let destination = theirs.iter().find(|destination| destination.is_ipv4() == source.is_ipv4())?;
        Some(Tunnel { source: *source, destination: *destination })
    })
}

fn unreachable(name: &str, own: &Owned, peer: &str, theirs: &Owned, tunnel: Option<Tunnel>) -> Option<Problem> {
    if tunnel.is_some() {
        return None;
    }
    if theirs.internal_ips.is_empty() {
        return Some(Problem::of_node(
            peer,
            "it has no usable InternalIP, so its pods cannot be reached",
            "check --node-ip and --cloud-provider of its kubelet",
        ));
    }
    let family = |addresses: &[IpAddr]| if addresses.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    Some(Problem::of_node(
        peer,
        format!(
            "it has only {} InternalIPs and Node {name} has only {} ones, so their pods cannot reach each other",
            family(&theirs.internal_ips),
            family(&own.internal_ips)
        ),
        "give both an InternalIP of one family (--node-ip of the kubelet)",
    ))
}
