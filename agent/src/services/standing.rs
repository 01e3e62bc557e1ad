//! Which endpoints of a Service's port are in the cluster set and which in the local set, and why. Exactly kube-proxy's rules
//! (service-semantics.md, section 2).

use std::net::SocketAddr;

use super::here::Here;
use super::plan::{Family, Standing, Topology};
use crate::model::services::{Endpoint, Protocol, Slice};

/// An endpoint with its standing in both sets.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Its address and port.
    pub backend: SocketAddr,
    /// The slice that has it.
    pub slice: &'a Slice,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// In the cluster set.
    pub cluster: Standing,
    /// In the local set.
    pub local: Standing,
}

/// All endpoints of a port, by address and port; those that count before their duplicates.
pub fn judge<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    name: &str,
    protocol: Protocol,
    family: Family,
    here: &Here,
) -> (Topology, Vec<Judged<'a>>) {
    let mut judged = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|port| port.name == name && port.protocol == protocol);
        for port in ports {
            let endpoints = slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family);
            judged.extend(endpoints.map(|endpoint| Judged {
                backend: SocketAddr::new(endpoint.address, port.port),
                slice,
                endpoint,
                cluster: Standing::Duplicate,
                local: Standing::Duplicate,
            }));
        }
    }
    // A pod's address may belong to the next pod before the last one's endpoint is gone: the terminating one does not count.
    judged.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut last = None;
    let counts: Vec<bool> = judged.iter().map(|judged| last.replace(judged.backend) != Some(judged.backend)).collect();
    let topology =
        topology(judged.iter().zip(&counts).filter(|(_, counts)| **counts).map(|(one, _)| one.endpoint), here);
    judge_cluster(&mut judged, &counts, topology, here);
    judge_local(&mut judged, &counts, here);
    (topology, judged)
}

fn order<'a>(judged: &Judged<'a>) -> (SocketAddr, bool, bool, bool, &'a str) {
    let Endpoint { ready, serving, terminating, .. } = judged.endpoint;
    (judged.backend, *terminating, !ready, !serving, &judged.slice.name.name)
}

/// Hints count only when all ready endpoints have them, and one of them is for us: else nobody might serve this node.
fn topology<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, here: &Here) -> Topology {
    let (mut all_name_nodes, mut one_names_this_node) = (true, false);
    let (mut all_name_zones, mut one_names_this_zone) = (true, false);
    for endpoint in endpoints.filter(|endpoint| endpoint.ready) {
        all_name_nodes &= !endpoint.node_hints.is_empty();
        one_names_this_node |= names_this_node(endpoint, here);
        all_name_zones &= !endpoint.zone_hints.is_empty();
        one_names_this_zone |= names_this_zone(endpoint, here);
    }
    if all_name_nodes && one_names_this_node {
        Topology::SameNode
    } else if all_name_zones && one_names_this_zone {
        Topology::SameZone
    } else {
        Topology::Anywhere
    }
}

fn names_this_node(endpoint: &Endpoint, here: &Here) -> bool {
    endpoint.node_hints.iter().any(|node| **node == *here.node)
}

fn names_this_zone(endpoint: &Endpoint, here: &Here) -> bool {
    here.zone.as_deref().is_some_and(|here| endpoint.zone_hints.iter().any(|zone| **zone == *here))
}

fn judge_cluster(judged: &mut [Judged<'_>], counts: &[bool], topology: Topology, here: &Here) {
    let mut one_is_ready = false;
    for (one, _) in judged.iter_mut().zip(counts).filter(|(_, counts)| **counts) {
        one.cluster = match topology {
            _ if !one.endpoint.ready => without_ready(one.endpoint),
            Topology::SameNode if !names_this_node(one.endpoint, here) => Standing::HintOtherNode,
            Topology::SameZone if !names_this_zone(one.endpoint, here) => Standing::HintOtherZone,
            _ => Standing::Ready,
        };
        one_is_ready |= one.cluster == Standing::Ready;
    }
    if one_is_ready {
        for one in judged.iter_mut().filter(|one| one.cluster == Standing::StillServing) {
            one.cluster = Standing::Terminating;
        }
    }
}

fn judge_local(judged: &mut [Judged<'_>], counts: &[bool], here: &Here) {
    let mut one_is_ready = false;
    for (one, _) in judged.iter_mut().zip(counts).filter(|(_, counts)| **counts) {
        let is_here = one.endpoint.node.as_deref() == Some(here.node.as_str());
        one.local = match one.endpoint.ready {
            _ if !is_here => Standing::OtherNode,
            true => Standing::Ready,
            false => without_ready(one.endpoint),
        };
        one_is_ready |= one.local == Standing::Ready;
    }
    if one_is_ready {
        for one in judged.iter_mut().filter(|one| one.local == Standing::StillServing) {
            one.local = Standing::Terminating;
        }
    }
}

/// The standing of an endpoint that is not ready, in a set without a ready one.
fn without_ready(endpoint: &Endpoint) -> Standing {
    match (endpoint.terminating, endpoint.serving) {
        (true, true) => Standing::StillServing,
        (true, false) => Standing::Ended,
        (false, _) => Standing::NotReady,
    }
}
