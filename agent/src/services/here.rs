//! What Services depend on of this node and of the others.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_common::address::to_bytes;
use weft_common::services::ServicesConfig;

use super::plan::Family;
use super::snapshot::HostSockets;
use crate::model::cluster::Cluster;
use crate::overlay::claims;
use crate::overlay::plan::gateway;

/// This node, and where pods are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Our Node's name.
    pub node: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Its InternalIPs.
    pub addresses: Vec<IpAddr>,
    /// The gateways of its pods, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// The podCIDRs of all nodes, which do not overlap, by first address.
    pub pod_cidrs: BTreeMap<IpAddr, IpNetwork>,
}

impl Here {
    /// The node `name`, once the cluster has it. Claims that several nodes make are settled as for the overlay.
    pub fn of(cluster: &Cluster, name: &str) -> Option<Self> {
        let node = cluster.nodes.get(name)?;
        let (owned, _) = claims::settle(cluster);
        let own = owned.get(name)?;
        Some(Self {
            node: name.to_owned(),
            zone: node.zone.clone(),
            addresses: own.internal_ips.clone(),
            gateways: own.pod_cidrs.iter().map(|pod_cidr| gateway(*pod_cidr)).collect(),
            pod_cidrs: owned.values().flat_map(|node| &node.pod_cidrs).map(|range| (range.network(), *range)).collect(),
        })
    }

    /// The podCIDR that has this address.
    pub fn pod_cidr_of(&self, address: IpAddr) -> Option<IpNetwork> {
        let (_, range) = self.pod_cidrs.range(..=address).next_back()?;
        range.contains(address).then_some(*range)
    }

    /// The entry of SERVICES_CONFIG.
    pub fn config(&self, sockets: HostSockets) -> ServicesConfig {
        let first = |addresses: &[IpAddr], family| {
            addresses
                .iter()
                .find(|address| Family::of(**address) == family)
                .map_or([0; 16], |address| to_bytes(*address))
        };
        ServicesConfig {
            gateway_v4: first(&self.gateways, Family::V4),
            gateway_v6: first(&self.gateways, Family::V6),
            host_v4: first(&self.addresses, Family::V4),
            host_v6: first(&self.addresses, Family::V6),
            host_namespace: sockets.namespace,
            flags: sockets.flags,
            zero: 0,
        }
    }
}
