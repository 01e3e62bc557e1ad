//! What becomes of a Service on this node, as data for people: which frontends it has, what happens to a client of each, and of
//! every endpoint why it is in or out of each set. The maps are filled from the same judgements.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::model::problem::Problem;
use crate::model::services::{ObjectName, Protocol};

/// A Service on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePlan {
    /// Its name.
    pub name: ObjectName,
    /// Its ports, in the order of the object, each once for every family that it has a cluster IP of.
    pub ports: Vec<PortPlan>,
    /// What is wrong with it, or was refused by the kernel.
    pub problems: Vec<Problem>,
}

/// One port of a Service in one family: an entry of the map SERVICES.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortPlan {
    /// Its key in the maps.
    pub id: u64,
    /// The port's name; empty where the only port has none.
    pub name: String,
    /// The port's number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of all its addresses and backends.
    pub family: Family,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Session affinity by the client's address: for how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// What clients may dial.
    pub frontends: Vec<FrontendPlan>,
    /// Which hints of the endpoints decide on the cluster set.
    pub topology: Topology,
    /// The cluster set, sorted.
    pub cluster: Vec<SocketAddr>,
    /// The local set, sorted.
    pub local: Vec<SocketAddr>,
    /// Every endpoint of this port, by address, then by slice. Told only when one Service was asked for.
    pub endpoints: Vec<EndpointPlan>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address and port that clients may dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendPlan {
    /// Where it comes from.
    pub kind: FrontendKind,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What happens to clients on this node: its pods and its own processes.
    pub here: Outcome,
    /// What `externalTrafficPolicy` means for clients from elsewhere; absent where only clients on this node can dial it: cluster IPs,
    /// NodePorts on loopback addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Outcome>,
    /// Only clients from these ranges, the others are dropped; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<IpNetwork>>,
    /// Another Service has this address and port, and clients get to that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<ObjectName>,
}

/// Why a Service has a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    #[serde(rename = "clusterIP")]
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    #[serde(rename = "externalIP")]
    ExternalIp,
    /// `nodePort`, on an address of this node.
    NodePort,
    /// `nodePort`, on the loopback address: for processes of this node.
    LocalNodePort,
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "externalIP",
            Self::NodePort | Self::LocalNodePort => "NodePort",
        })
    }
}

/// What happens to a client of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It gets a backend of the cluster set.
    Cluster,
    /// It gets a backend of the local set.
    Local,
    /// It is refused at once: there is no endpoint anywhere.
    Refused,
    /// Its packets are dropped: there are endpoints, but none on this node, and the policy is Local.
    Dropped,
}

/// Which hints decide on the cluster set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Topology {
    /// None.
    #[default]
    Anywhere,
    /// `hints.forNodes`: every ready endpoint has some, and at least one names this node.
    SameNode,
    /// `hints.forZones`: every ready endpoint has some, and at least one names this node's zone.
    SameZone,
}

/// An endpoint of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPlan {
    /// Its address and port.
    pub backend: SocketAddr,
    /// The name of the EndpointSlice that has it.
    pub slice: String,
    /// The node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The object that it stands for ("Pod echo-1").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// In or out of the cluster set, and why.
    pub cluster: Standing,
    /// In or out of the local set, and why.
    pub local: Standing,
}

/// Why an endpoint is in or out of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// In: it is ready.
    Ready,
    /// In: it is terminating and still serves, and the set has no ready endpoint.
    StillServing,
    /// Out: it is not ready.
    NotReady,
    /// Out: it is terminating and still serves, but the set has ready endpoints.
    Terminating,
    /// Out: it is terminating and does not serve any more.
    Ended,
    /// Out of the local set: it is on another node, or on none that is known.
    OtherNode,
    /// Out of the cluster set: its hints name other nodes.
    HintOtherNode,
    /// Out of the cluster set: its hints name other zones.
    HintOtherZone,
    /// Out: another endpoint has the same address and port, and counts before this one.
    Duplicate,
}

impl Standing {
    /// Whether the endpoint is in the set.
    pub const fn is_in(self) -> bool {
        matches!(self, Self::Ready | Self::StillServing)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::StillServing => "terminating, and still serves while nothing is ready",
            Self::NotReady => "not ready",
            Self::Terminating => "terminating",
            Self::Ended => "terminating, and no longer serves",
            Self::OtherNode => "on another node",
            Self::HintOtherNode => "its hints name other nodes",
            Self::HintOtherZone => "its hints name other zones",
            Self::Duplicate => "another endpoint has the same address and port",
        })
    }
}
