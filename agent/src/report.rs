//! What operators ask: `weft status`, `weft nodes`, `weft routes`. The answers as data, and pure functions that make them out of
//! what should be there and what is there, so that the `weft` command can use them while the agent is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_common::reason::{DropReason, Program};

use crate::model::problem::Problem;
use crate::overlay::plan::Plan;
use crate::overlay::state::{NodeEntry, OverlayState, RouteKind, Underlay};

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The agent of this node.
    Agent,
    /// The pinned maps, the state directory and the kernel: the agent does not answer.
    Offline,
}

/// `weft status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Who answered.
    pub source: Source,
    /// Nothing keeps this node's pods from talking to others.
    pub healthy: bool,
    /// Why it is not healthy: empty if, and only if, it is.
    pub reasons: Vec<Problem>,
    /// What else is wrong, with other nodes or single pods.
    pub problems: Vec<Problem>,
    /// The Node's name.
    pub node: String,
    /// Version of who answered.
    pub version: String,
    /// The API server; absent without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<ApiServerStatus>,
    /// The kernel.
    pub kernel: KernelStatus,
    /// Version of the layout of everything pinned.
    pub layout: u32,
    /// This node's podCIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// This node's InternalIPs, or what is known of them.
    #[serde(rename = "internalIPs")]
    pub internal_ips: Vec<IpAddr>,
    /// The device below the overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Underlay>,
    /// MTU of pods, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_mtu_bytes: Option<u32>,
    /// Seconds since everything was last in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_age_seconds: Option<f64>,
    /// Counters of packets that our programs dropped, without those that are zero.
    pub drops: Vec<Drop>,
}

/// The API server, as the agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServerStatus {
    /// Its address.
    pub address: String,
    /// Who told the agent that address.
    pub source: String,
    /// The last request was answered.
    pub connected: bool,
    /// What the last request that failed ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Seconds since the API server was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_age_seconds: Option<f64>,
    /// Seconds since the nodes were last listed whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_age_seconds: Option<f64>,
}

/// The kernel of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// `uname -r`.
    pub release: String,
    /// What weft would like and this kernel lacks, with the next step.
    pub missing: Vec<String>,
}

/// A counter of dropped packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drop {
    /// The program.
    pub program: String,
    /// The reason's name.
    pub reason: String,
    /// The reason in a sentence.
    pub explanation: String,
    /// Packets since the maps were made.
    pub packets: u64,
}

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
    /// Routes and map entries are as they should be.
    pub in_sync: bool,
    /// What is missing or different.
    pub missing: Vec<String>,
}

/// `weft routes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutesReport {
    /// Who answered.
    pub source: Source,
    /// Why nothing can be said of what should be there, where that is so.
    pub problems: Vec<Problem>,
    /// All destinations that should have a route of ours, or have one.
    pub routes: Vec<RouteReport>,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// The podCIDR.
    pub destination: IpNetwork,
    /// The Node that owns it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What should be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<RouteKind>,
    /// What the kernel has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<RouteKind>,
    /// The difference.
    pub state: RouteState,
}

/// What should be there compared with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteState {
    /// They agree.
    Ok,
    /// The kernel has no such route.
    Missing,
    /// The kernel has a route of ours that should not be there.
    Unexpected,
    /// The kernel has another route to that destination.
    Different,
}

/// Routes: `desired` beside `observed`. `owners` names the Nodes of podCIDRs.
pub fn routes(
    source: Source,
    desired: &BTreeMap<IpNetwork, RouteKind>,
    observed: &BTreeMap<IpNetwork, RouteKind>,
    owners: &BTreeMap<IpNetwork, String>,
    problems: Vec<Problem>,
) -> RoutesReport {
    let destinations: BTreeSet<IpNetwork> = desired.keys().chain(observed.keys()).copied().collect();
    let route = |destination: IpNetwork| {
        let (wanted, seen) = (desired.get(&destination), observed.get(&destination));
        let state = match (wanted, seen) {
            (Some(wanted), Some(seen)) if wanted == seen => RouteState::Ok,
            (Some(_), Some(_)) => RouteState::Different,
            (Some(_), None) => RouteState::Missing,
            (None, _) => RouteState::Unexpected,
        };
        let node = owners.get(&destination).cloned();
        RouteReport { destination, node, desired: wanted.cloned(), kernel: seen.cloned(), state }
    };
    RoutesReport { source, problems, routes: destinations.into_iter().map(route).collect() }
}

/// The Nodes of all podCIDRs of a plan.
pub fn owners(plan: &Plan) -> BTreeMap<IpNetwork, String> {
    let peers =
        plan.peers.iter().flat_map(|(name, peer)| peer.pod_cidrs.iter().map(move |pod_cidr| (*pod_cidr, name.clone())));
    peers.chain(plan.pod_cidrs.iter().map(|pod_cidr| (*pod_cidr, plan.name.clone()))).collect()
}

/// Nodes: every one of the plan, with what differs.
pub fn nodes(plan: &Plan, desired: &OverlayState, observed: &OverlayState, problems: Vec<Problem>) -> NodesReport {
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

/// Counters that are not zero.
pub fn drops(counters: &[(Program, DropReason, u64)]) -> Vec<Drop> {
    let counted = counters.iter().filter(|(_, _, packets)| *packets > 0);
    let drop = |(program, reason, packets): &(Program, DropReason, u64)| Drop {
        program: program.name().to_owned(),
        reason: reason.name().to_owned(),
        explanation: reason.explanation().trim().to_owned(),
        packets: *packets,
    };
    counted.map(drop).collect()
}

/// The routes that follow from the maps, for when nobody can say what the API server wants. `gateways` are this node's.
pub fn routes_of_maps(
    nodes: &BTreeMap<IpNetwork, NodeEntry>,
    node_addresses: &BTreeMap<IpAddr, NodeEntry>,
    gateways: &[IpAddr],
) -> BTreeMap<IpNetwork, RouteKind> {
    let same_family = |address: IpAddr, other: IpAddr| address.is_ipv4() == other.is_ipv4();
    let own = |tunnel: IpAddr| {
        let mut own = node_addresses.iter().filter(|(address, entry)| entry.local && same_family(**address, tunnel));
        // Of several own addresses the agent takes the Node's first; the maps tell that one alone from the others.
        let first = own.clone().find(|(address, entry)| entry.tunnel == **address);
        first.or_else(|| own.next()).map(|(address, _)| *address)
    };
    let route = |(pod_cidr, entry): (&IpNetwork, &NodeEntry)| {
        if entry.local {
            return Some((*pod_cidr, RouteKind::Unreachable));
        }
        let preferred_source = gateways.iter().copied().find(|gateway| same_family(*gateway, pod_cidr.network()));
        let tunnel_source = own(entry.tunnel)?;
        Some((*pod_cidr, RouteKind::Overlay { tunnel_source, tunnel_destination: entry.tunnel, preferred_source }))
    };
    nodes.iter().filter_map(route).collect()
}

/// The nodes that follow from the maps: grouped by the address that stands for each. Only this node's name is known then.
pub fn nodes_of_maps(this_node: Option<&str>, observed: &OverlayState, routes: &RoutesReport) -> Vec<NodeReport> {
    let entries = observed.nodes.values().chain(observed.node_addresses.values());
    // This node first.
    let identities: BTreeSet<(bool, IpAddr)> = entries.map(|entry| (!entry.local, entry.tunnel)).collect();
    let report = |(remote, tunnel): (bool, IpAddr)| {
        let is_of_node = |entry: &NodeEntry| (!entry.local, entry.tunnel) == (remote, tunnel);
        let pod_cidrs: Vec<_> =
            observed.nodes.iter().filter(|(_, entry)| is_of_node(entry)).map(|(pod_cidr, _)| *pod_cidr).collect();
        let differs = |route: &&RouteReport| pod_cidrs.contains(&route.destination) && route.state != RouteState::Ok;
        let missing: Vec<_> =
            routes.routes.iter().filter(differs).map(|route| format!("route {}", route.destination)).collect();
        NodeReport {
            name: if remote { None } else { this_node.map(str::to_owned) },
            this_node: !remote,
            internal_ips: observed
                .node_addresses
                .iter()
                .filter(|(_, entry)| is_of_node(entry))
                .map(|(address, _)| *address)
                .collect(),
            in_sync: missing.is_empty(),
            pod_cidrs,
            tunnel: Some(tunnel),
            missing,
        }
    };
    identities.into_iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cluster::{Cluster, Node};
    use crate::overlay::{desired, plan};

    fn compared() -> (Plan, OverlayState) {
        let node = |name: &str, last: u8| Node {
            name: name.to_owned(),
            internal_ips: vec![[192, 0, 2, last].into(), format!("2001:db8::{last}").parse().unwrap()],
            pod_cidrs: vec![
                format!("10.244.{last}.0/24").parse().unwrap(),
                format!("fd00:0:0:{last}::/64").parse().unwrap(),
            ],
            ..Node::default()
        };
        let nodes = [node("one", 1), node("two", 2), node("three", 3)];
        let cluster =
            Cluster { nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(), problems: vec![] };
        let plan = plan::plan(&cluster, "one").unwrap();
        let underlay = Underlay { device: "eth0".to_owned(), mtu: 1500 };
        let state = desired::desired(&plan, &underlay, &BTreeSet::new(), &BTreeMap::new());
        (plan, state)
    }

    fn state_of(report: &RoutesReport, destination: &str) -> RouteState {
        report.routes.iter().find(|route| route.destination.to_string() == destination).unwrap().state
    }

    #[test]
    fn routes_that_are_missing_different_or_unexpected_are_marked() {
        let (plan, desired) = compared();
        let mut observed = desired.clone();
        observed.routes.remove(&"10.244.2.0/24".parse().unwrap());
        observed.routes.insert("10.244.3.0/24".parse().unwrap(), RouteKind::Unreachable);
        observed.routes.insert("10.244.9.0/24".parse().unwrap(), RouteKind::Foreign { seen: "dev eth0".to_owned() });
        let report = routes(Source::Agent, &desired.routes, &observed.routes, &owners(&plan), Vec::new());
        assert_eq!(state_of(&report, "10.244.1.0/24"), RouteState::Ok);
        assert_eq!(state_of(&report, "10.244.2.0/24"), RouteState::Missing);
        assert_eq!(state_of(&report, "10.244.3.0/24"), RouteState::Different);
        assert_eq!(state_of(&report, "10.244.9.0/24"), RouteState::Unexpected);
        assert_eq!(report.routes.len(), 7);
    }

    #[test]
    fn a_node_says_what_it_lacks() {
        let (plan, desired) = compared();
        let mut observed = desired.clone();
        observed.nodes.remove(&"10.244.2.0/24".parse().unwrap());
        observed.node_addresses.remove(&"192.0.2.2".parse().unwrap());
        let report = nodes(&plan, &desired, &observed, Vec::new());
        assert_eq!(report.nodes[0].name.as_deref(), Some("one"));
        let two = report.nodes.iter().find(|node| node.name.as_deref() == Some("two")).unwrap();
        assert_eq!(two.missing, ["map entry 10.244.2.0/24", "map entry 192.0.2.2"]);
        assert!(report.nodes.iter().all(|node| node.in_sync == (node.name.as_deref() != Some("two"))));
    }

    #[test]
    fn without_an_agent_the_maps_tell_the_same_routes_and_nodes() {
        let (plan, state) = compared();
        let gateways: Vec<_> = state.addresses.iter().copied().collect();
        assert_eq!(routes_of_maps(&state.nodes, &state.node_addresses, &gateways), state.routes);
        let report = routes(Source::Offline, &state.routes, &state.routes, &BTreeMap::new(), Vec::new());
        let found = nodes_of_maps(Some("one"), &state, &report);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].name.as_deref(), found[0].this_node), (Some("one"), true));
        assert_eq!(found[1].internal_ips, plan.peers["two"].internal_ips);
        assert_eq!(found[1].pod_cidrs, plan.peers["two"].pod_cidrs);
    }

    #[test]
    fn counters_of_zero_are_left_out_and_json_names_carry_their_units() {
        let counters = [(Program::FromPod, DropReason::SourceNotPod, 3), (Program::ToPod, DropReason::Truncated, 0)];
        let counted = drops(&counters);
        assert_eq!(counted.len(), 1);
        assert_eq!(serde_json::to_value(&counted[0]).unwrap()["reason"], "source_not_pod");
        let status = ApiServerStatus {
            address: "https://192.0.2.1:6443".to_owned(),
            source: "--api-server".to_owned(),
            connected: false,
            last_error: Some("refused".to_owned()),
            sync_age_seconds: Some(1.5),
            list_age_seconds: None,
        };
        let json = serde_json::to_value(status).unwrap();
        assert_eq!((json["syncAgeSeconds"].as_f64(), json["lastError"].as_str()), (Some(1.5), Some("refused")));
    }
}
