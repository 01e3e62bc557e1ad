//! `weft routes`: what should be there beside what the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::Source;
use crate::model::problem::Problem;
use crate::overlay::plan::Plan;
use crate::overlay::state::{NodeEntry, RouteKind};

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
    /// The podCIDR, or a range of cluster IPs.
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

/// The routes that follow from the maps NODES and SERVICE_CIDRS, for when nobody can say what the API server wants. `gateways` are
/// this node's.
pub fn routes_of_maps(
    nodes: &BTreeMap<IpNetwork, NodeEntry>,
    service_cidrs: &BTreeSet<IpNetwork>,
    gateways: &[IpAddr],
) -> BTreeMap<IpNetwork, RouteKind> {
    let route = |(pod_cidr, entry): (&IpNetwork, &NodeEntry)| {
        if entry.local {
            return (*pod_cidr, RouteKind::Unreachable);
        }
        let preferred_source = gateways.iter().copied().find(|gateway| gateway.is_ipv4() == pod_cidr.is_ipv4());
        let (tunnel_source, tunnel_destination) = (entry.source, entry.tunnel);
        (*pod_cidr, RouteKind::Overlay { tunnel_source, tunnel_destination, preferred_source })
    };
    let ranges = service_cidrs.iter().map(|range| (*range, RouteKind::Unreachable));
    ranges.chain(nodes.iter().map(route)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::compared;

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
        assert_eq!(report.routes.len(), 8);
    }
}
