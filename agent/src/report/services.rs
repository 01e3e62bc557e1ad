//! `weft services`: what clients may dial, where they get, and why each endpoint is in or out, beside what the maps hold.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::Source;
use super::service_maps::Held;
use crate::model::problem::Problem;
use crate::model::services::Protocol;
use crate::services::plan::{
    EndpointPlan, Family, FrontendKind, FrontendPlan, Outcome, PortPlan, ServicePlan, Topology,
};

/// `weft services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesReport {
    /// Who answered.
    pub source: Source,
    /// What is in the way of a full answer, and what is wrong with no single Service.
    pub problems: Vec<Problem>,
    /// The Services, by name; without an agent, by the addresses in the maps.
    pub services: Vec<ServiceReport>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    /// Its namespace; absent without an agent: the maps know no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name; absent without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its ports, each once for every family.
    pub ports: Vec<ServicePortReport>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortReport {
    /// Its key in the map SERVICES: the bytes in hexadecimal, in the order in which `bpftool` prints and takes them.
    pub id: String,
    /// The port's name; absent where it has none, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number; absent where nothing in the maps tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its protocol; absent where nothing in the maps tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The family of its addresses and backends; absent where nothing in the maps tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: Policy,
    /// `externalTrafficPolicy`.
    pub external_traffic_policy: Policy,
    /// How long a client stays with its backend, in seconds; absent: session affinity is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Which hints of the endpoints decide on the cluster set; absent without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// What clients may dial.
    pub frontends: Vec<FrontendReport>,
    /// The cluster set: backends on any node.
    pub cluster: Vec<SocketAddr>,
    /// The local set: backends on this node.
    pub local: Vec<SocketAddr>,
    /// Every endpoint and why it is in or out of each set; only where single Services were asked for, and with an agent.
    pub endpoints: Vec<EndpointPlan>,
    /// What the maps hold otherwise. Empty where they hold all of this and nothing else.
    pub differences: Vec<String>,
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Any backend.
    Cluster,
    /// Those on the node.
    Local,
}

impl Policy {
    /// From a flag that says "Local".
    pub const fn of(local: bool) -> Self {
        if local { Self::Local } else { Self::Cluster }
    }
}

/// An address and port that clients may dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendReport {
    /// Where it comes from; absent for an external address without an agent, which could be of a LoadBalancer or an externalIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FrontendKind>,
    /// Its address and port.
    pub address: SocketAddr,
    /// What happens to clients on this node: its pods and its own processes.
    pub here: Outcome,
    /// What `externalTrafficPolicy` means for clients from elsewhere; absent where those cannot dial it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Outcome>,
    /// Only clients from these ranges, the others are dropped; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<IpNetwork>>,
    /// The Service (`namespace/name`) that has this address and port, and to which clients get instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<String>,
}

/// A Service as the loop plans it. What the maps hold is compared elsewhere.
pub(super) fn service(plan: &ServicePlan) -> ServiceReport {
    ServiceReport {
        namespace: Some(plan.name.namespace.clone()),
        name: Some(plan.name.name.clone()),
        ports: plan.ports.iter().map(port).collect(),
        problems: plan.problems.clone(),
    }
}

fn port(plan: &PortPlan) -> ServicePortReport {
    ServicePortReport {
        id: id(plan.id),
        name: Some(plan.name.clone()).filter(|name| !name.is_empty()),
        port: Some(plan.port),
        protocol: Some(plan.protocol),
        family: Some(plan.family),
        internal_traffic_policy: Policy::of(plan.internal_local),
        external_traffic_policy: Policy::of(plan.external_local),
        affinity_seconds: plan.affinity_seconds,
        topology: Some(plan.topology),
        frontends: plan.frontends.iter().map(frontend).collect(),
        cluster: plan.cluster.clone(),
        local: plan.local.clone(),
        endpoints: plan.endpoints.clone(),
        differences: Vec::new(),
    }
}

fn frontend(plan: &FrontendPlan) -> FrontendReport {
    FrontendReport {
        kind: Some(plan.kind),
        address: SocketAddr::new(plan.address, plan.port),
        here: plan.here,
        elsewhere: plan.elsewhere,
        source_ranges: plan.source_ranges.clone(),
        taken_by: plan.taken_by.as_ref().map(ToString::to_string),
    }
}

/// The bytes of a key of SERVICES, as they lie in memory.
pub(super) fn id(key: u64) -> String {
    key.to_ne_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An address that somebody typed instead of a name, with a port or without: `10.96.0.10`, `10.96.0.10:53`, `[fd00::a]:53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// All ports of it.
    Whole(IpAddr),
    /// One port of it.
    Port(SocketAddr),
}

impl Address {
    /// `None` where it is no address, and so must be a name.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = text.parse().map(Self::Whole);
        whole.or_else(|_| text.parse().map(Self::Port)).ok()
    }

    /// Whether it leads to a Service that is only planned.
    pub fn is_of_plan(&self, plan: &ServicePlan) -> bool {
        self.is_of(&service(plan))
    }

    /// Whether it leads to a Service.
    pub fn is_of(&self, service: &ServiceReport) -> bool {
        let frontends = service.ports.iter().flat_map(|port| &port.frontends);
        frontends.filter(|frontend| frontend.taken_by.is_none()).any(|frontend| match self {
            Self::Whole(address) => frontend.address.ip() == *address,
            Self::Port(address) => frontend.address == *address,
        })
    }
}

/// The Services of these plans beside what the maps hold, or without that where they cannot be read. `all` says that there are no other
/// Services.
pub fn services(plans: &[ServicePlan], held: Result<&Held<'_>, Problem>, all: bool) -> ServicesReport {
    let mut services: Vec<_> = plans.iter().map(service).collect();
    let mut problems = Vec::new();
    match held {
        Ok(held) => {
            for (plan, service) in plans.iter().zip(&mut services) {
                for (plan, port) in plan.ports.iter().zip(&mut service.ports) {
                    port.differences = held.differences(plan.id, port);
                }
            }
            if all {
                let wanted = plans.iter().flat_map(|service| &service.ports).map(|port| port.id).collect();
                problems.extend(held.of_nobody(&wanted).iter().map(of_nobody));
            }
        }
        Err(problem) => problems.push(problem),
    }
    ServicesReport { source: Source::Agent, problems, services }
}

/// The maps have entries that no Service accounts for.
fn of_nobody(service: &ServiceReport) -> Problem {
    let ids: Vec<_> = service.ports.iter().map(|port| port.id.as_str()).collect();
    let frontends = service.ports.iter().flat_map(|port| &port.frontends);
    let addresses: Vec<_> = frontends.map(|frontend| frontend.address.to_string()).collect();
    let dialled =
        if addresses.is_empty() { String::new() } else { format!(", which clients dial at {}", addresses.join(", ")) };
    Problem::new(
        "maps of Services",
        format!("they have entries of {}{dialled}, but there is no such Service", ids.join(", ")),
        "nothing: the agent removes them; where they stay, its log says why",
    )
}

impl ServicesReport {
    /// Whether the maps hold all that they should.
    pub fn is_in_sync(&self) -> bool {
        self.services.iter().flat_map(|service| &service.ports).all(|port| port.differences.is_empty())
    }
}
