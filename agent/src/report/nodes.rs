//! `weft nodes`: every node, and what of it is not in the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{PeerReport, RouteReport, RouteState, RoutesReport, Source, WayReport};
use crate::model::problem::Problem;
use crate::overlay::plan::Plan;
use crate::overlay::state::{NodeAddressEntry, NodeEntry, OverlayState};
use crate::overlay::way::Ways;

/// `weft nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodesReport {
    /// Who answered.
    pub source: Source,
    /// Why nothing can be said of what should be there, where that is so.
    pub problems: Vec<Problem>,
    /// All nodes, this one first.
    pub nodes: Vec<NodeReport>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The Node's name; absent without an agent, except for this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It is the node that answers.
    pub this_node: bool,
    /// Its InternalIPs.
    #[serde(rename = "internalIPs")]
    pub internal_ips: Vec<IpAddr>,
    /// Its podCIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// The address that the overlay uses for it from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<IpAddr>,
    /// Which way packets take to it; absent for this node, and where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<WayReport>,
    /// Routes and map entries are as they should be.
    pub in_sync: bool,
    /// What is missing or different.
    pub missing: Vec<String>,
}

/// Nodes: every one of the plan, with what differs.
pub fn nodes(
    plan: &Plan,
    ways: &Ways,
    desired: &OverlayState,
    observed: &OverlayState,
    problems: Vec<Problem>,
) -> NodesReport {
    let report = |name: &str, this_node, internal_ips: &[IpAddr], pod_cidrs: &[IpNetwork], tunnel: Option<IpAddr>| {
        let mut missing = differences(internal_ips, pod_cidrs, desired, observed);
        if tunnel.is_none() && !pod_cidrs.is_empty() {
            missing.push("an InternalIP of a family that this node has too".to_owned());
        }
        NodeReport {
            name: Some(name.to_owned()),
            this_node,
            internal_ips: internal_ips.to_vec(),
            pod_cidrs: pod_cidrs.to_vec(),
            tunnel,
            way: ways.peers.get(name).map(WayReport::from),
            in_sync: missing.is_empty(),
            missing,
        }
    };
    let own = report(&plan.name, true, &plan.internal_ips, &plan.pod_cidrs, plan.own_tunnel());
    let peers = plan.peers.iter().map(|(name, peer)| {
        report(name, false, &peer.internal_ips, &peer.pod_cidrs, peer.tunnel.map(|tunnel| tunnel.destination))
    });
    NodesReport { source: Source::Agent, problems, nodes: [own].into_iter().chain(peers).collect() }
}

fn differences(
    addresses: &[IpAddr],
    pod_cidrs: &[IpNetwork],
    desired: &OverlayState,
    observed: &OverlayState,
) -> Vec<String> {
    let mut missing = Vec::new();
    for pod_cidr in pod_cidrs {
        if desired.routes.get(pod_cidr) != observed.routes.get(pod_cidr) {
            missing.push(format!("route {pod_cidr}"));
        }
        if desired.nodes.get(pod_cidr) != observed.nodes.get(pod_cidr) {
            missing.push(format!("map entry {pod_cidr}"));
        }
    }
    let absent = |address: &&IpAddr| desired.node_addresses.get(address) != observed.node_addresses.get(address);
    missing.extend(addresses.iter().filter(absent).map(|address| format!("map entry {address}")));
    missing
}

/// The nodes that follow from the maps: grouped by the address that stands for each. Only this node's name is known then. `peers` are
/// the ways to the others.
pub fn nodes_of_maps(
    this_node: Option<&str>,
    observed: &OverlayState,
    routes: &RoutesReport,
    peers: &[PeerReport],
) -> Vec<NodeReport> {
    let of_node = |entry: &NodeEntry| (!entry.local, entry.tunnel);
    let of_address = |entry: &NodeAddressEntry| (!entry.local, entry.tunnel);
    // This node first.
    let identities: BTreeSet<(bool, IpAddr)> =
        observed.nodes.values().map(of_node).chain(observed.node_addresses.values().map(of_address)).collect();
    let report = |(remote, tunnel): (bool, IpAddr)| {
        let identity = (remote, tunnel);
        let own = observed.nodes.iter().filter(|(_, entry)| of_node(entry) == identity);
        let pod_cidrs: Vec<_> = own.map(|(pod_cidr, _)| *pod_cidr).collect();
        let differs = |route: &&RouteReport| pod_cidrs.contains(&route.destination) && route.state != RouteState::Ok;
        let missing: Vec<_> =
            routes.routes.iter().filter(differs).map(|route| format!("route {}", route.destination)).collect();
        NodeReport {
            name: if remote { None } else { this_node.map(str::to_owned) },
            this_node: !remote,
            internal_ips: observed
                .node_addresses
                .iter()
                .filter(|(_, entry)| of_address(entry) == identity)
                .map(|(address, _)| *address)
                .collect(),
            in_sync: missing.is_empty(),
            pod_cidrs,
            tunnel: Some(tunnel),
            way: peers.iter().find(|peer| remote && peer.tunnel == tunnel).map(|peer| peer.way.clone()),
            missing,
        }
    };
    identities.into_iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::fixture::{compared, ways};
    use crate::report::{peers_of_maps, routes, routes_of_maps};

    #[test]
    fn a_node_says_what_it_lacks() {
        let (plan, desired) = compared();
        let mut observed = desired.clone();
        observed.nodes.remove(&"10.244.2.0/24".parse().unwrap());
        observed.node_addresses.remove(&"192.0.2.2".parse().unwrap());
        let report = nodes(&plan, &ways(), &desired, &observed, Vec::new());
        assert_eq!(report.nodes[0].name.as_deref(), Some("one"));
        let two = report.nodes.iter().find(|node| node.name.as_deref() == Some("two")).unwrap();
        assert_eq!(two.missing, ["map entry 10.244.2.0/24", "map entry 192.0.2.2"]);
        assert!(report.nodes.iter().all(|node| node.in_sync == (node.name.as_deref() != Some("two"))));
    }

    #[test]
    fn without_an_agent_the_maps_tell_the_same_routes_and_nodes() {
        let (plan, state) = compared();
        let gateways: Vec<_> = state.addresses.iter().copied().collect();
        let service_cidrs = plan.service_cidrs.as_ref().unwrap();
        assert!(!service_cidrs.is_empty());
        assert_eq!(routes_of_maps(&state.nodes, service_cidrs, &gateways), state.routes);
        let report = routes(Source::Offline, &state.routes, &state.routes, &BTreeMap::new(), Vec::new());
        let peers = peers_of_maps(state.nodes.values(), &BTreeMap::new(), true);
        let found = nodes_of_maps(Some("one"), &state, &report, &peers);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].name.as_deref(), found[0].this_node), (Some("one"), true));
        assert_eq!(found[1].internal_ips, plan.peers["two"].internal_ips);
        assert_eq!(found[1].pod_cidrs, plan.peers["two"].pod_cidrs);
    }
}
