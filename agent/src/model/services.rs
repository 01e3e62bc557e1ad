//! Services and their endpoints, as far as translation depends on them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// Namespace and name of an object: of a Service, or of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in IP headers (IANA, "Protocol Numbers").
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A Service that is ours to serve: neither headless, nor ExternalName, nor of another proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Cluster IPs, of one or two families.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` where `ipMode` is absent or VIP, for type LoadBalancer only.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; `None`: absent or empty. Of an entry that makes no sense only the [`Problem`] is left, so
    /// that a list of nothing but nonsense lets nobody in.
    pub source_ranges: Option<Vec<IpNetwork>>,
    /// Its ports, in the order of the object.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Session affinity by the client's address: for how many seconds.
    pub affinity_seconds: Option<u32>,
    /// When the object was created, in seconds since 1970. Decides between Services that claim the same external address.
    pub created: i64,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where the only port has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port that clients dial.
    pub port: u16,
    /// The port of nodes, of types NodePort and LoadBalancer.
    pub node_port: Option<u16>,
}

/// An EndpointSlice with IP addresses that belongs to a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Its name.
    pub name: ObjectName,
    /// The Service of its label `kubernetes.io/service-name`, in its namespace.
    pub service: ObjectName,
    /// Its ports: those with a number other than 0.
    pub ports: Vec<SlicePort>,
    /// Its endpoints, all of one family.
    pub endpoints: Vec<Endpoint>,
    /// The annotation `endpoints.kubernetes.io/last-change-trigger-time`, in seconds since 1970.
    pub triggered: Option<f64>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the backends.
    pub port: u16,
}

/// An endpoint of a slice. There may be a hundred thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`.
    pub address: IpAddr,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// `conditions.ready`; absent: true.
    pub ready: bool,
    /// `conditions.serving`; absent: true.
    pub serving: bool,
    /// `conditions.terminating`; absent: false.
    pub terminating: bool,
    /// `hints.forNodes`, by name.
    pub node_hints: Box<[Arc<str>]>,
    /// `hints.forZones`, by name.
    pub zone_hints: Box<[Arc<str>]>,
    /// The object that it stands for ("Pod echo-1"), for tables.
    pub target: Option<Box<str>>,
}

/// What the API server said, event by event. One task sends, one task keeps the whole.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceEvent {
    /// Of Services. What cannot be used is left out of `All`, and is a `Remove` elsewhere.
    Services(Update<Service>),
    /// Of EndpointSlices.
    Slices(Update<Slice>),
    /// Of ServiceCIDRs: the ranges of all objects, by object; empty where the API server has none.
    Cidrs(Vec<IpNetwork>),
}

/// A change of the objects of a kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Update<T> {
    /// A whole list: it is the truth, whatever was known before.
    All(Vec<Told<T>>),
    /// An object was made or changed.
    Set(Told<T>),
    /// An object is gone, or not for us any more.
    Remove(ObjectName),
}

/// An object, and what of it made no sense and was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Told<T> {
    /// The object.
    pub object: T,
    /// Fields that were left out.
    pub problems: Vec<Problem>,
}
