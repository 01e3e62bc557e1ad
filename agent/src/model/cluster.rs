//! The nodes of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::problem::Problem;

/// A node, as far as the overlay depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The Node object's name.
    pub name: String,
    /// Its InternalIPs, in the order of the object.
    pub internal_ips: Vec<IpAddr>,
    /// Its podCIDRs, in the order of the object, as networks (no host bits).
    pub pod_cidrs: Vec<IpNetwork>,
    /// The message of its condition NetworkUnavailable, where that is true.
    pub network_unavailable: Option<String>,
    /// Somebody asked for its deletion, and something still holds it.
    pub deleting: bool,
    /// The cluster autoscaler is about to delete its machine.
    pub tainted_for_deletion: bool,
    /// Its zone, by the label topology.kubernetes.io/zone.
    pub zone: Option<String>,
    /// When the object was created, in seconds since 1970. Decides between nodes that claim the same address.
    pub created: i64,
}

/// Everything that the API server says, after one conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// All nodes, by name.
    pub nodes: BTreeMap<String, Node>,
    /// Fields of these nodes that made no sense and were left out.
    pub problems: Vec<Problem>,
    /// The ranges of Services' cluster IPs; `None` while they were not listed yet.
    pub service_cidrs: Option<BTreeSet<IpNetwork>>,
}
