//! What the maps should hold for one Service: pure, from the objects and this node.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_common::address::{AddressBytes, prefix_bits, to_bytes};
use weft_common::services::{Backend, FrontendKey, SourceRangeKey, frontend, service};

use super::here::Here;
use super::plan::{Family, FrontendKind};
use super::standing::judge;
use super::state::SourceRange;
use crate::model::problem::Problem;
use crate::model::services::{Protocol, Service, ServicePort, Slice};

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPort {
    /// The port's name.
    pub name: String,
    /// The family.
    pub family: Family,
    /// The protocol.
    pub protocol: Protocol,
    /// The cluster set, sorted.
    pub cluster: Vec<Backend>,
    /// The local set, sorted.
    pub local: Vec<Backend>,
    /// How long a client stays with its backend, in seconds; 0: session affinity is off.
    pub affinity_seconds: u32,
    /// Flags of the entry of SERVICES.
    pub flags: u32,
    /// Only clients from these may use addresses with the flag SOURCE_RANGES.
    pub source_ranges: Vec<IpNetwork>,
    /// What clients dial.
    pub frontends: Vec<WantedFrontend>,
}

/// An address and port that clients may dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedFrontend {
    /// Where it comes from.
    pub kind: FrontendKind,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Flags of the entry of FRONTENDS.
    pub flags: u32,
}

impl WantedFrontend {
    /// The key in FRONTENDS.
    pub fn key(&self, protocol: Protocol) -> FrontendKey {
        FrontendKey {
            address: to_bytes(self.address),
            port: self.port.to_be_bytes(),
            protocol: protocol.number(),
            zero: 0,
        }
    }
}

/// The key of what a cluster IP does not serve.
pub fn rest_key(address: IpAddr) -> FrontendKey {
    rest_key_of(to_bytes(address))
}

/// The same of an address as in other keys.
pub const fn rest_key_of(address: AddressBytes) -> FrontendKey {
    FrontendKey { address, port: [0; 2], protocol: 0, zero: 0 }
}

/// Whether a key is one of those.
pub fn is_rest(key: &FrontendKey) -> bool {
    key.protocol == 0
}

/// All ports of a Service, in the order of the object, once for each family that it has a cluster IP of.
pub fn ports(service: &Service, slices: &[&Slice], here: &Here) -> Vec<WantedPort> {
    let mut wanted = Vec::new();
    for port in &service.ports {
        wanted.extend(families(service).map(|family| wanted_port(service, port, family, slices, here)));
    }
    wanted
}

/// The families of a Service: those of its cluster IPs.
pub fn families(service: &Service) -> impl Iterator<Item = Family> {
    let has = |family| service.cluster_ips.iter().any(|address| Family::of(*address) == family);
    [Family::V4, Family::V6].into_iter().filter(move |family| has(*family))
}

fn wanted_port(of: &Service, port: &ServicePort, family: Family, slices: &[&Slice], here: &Here) -> WantedPort {
    let (_, judged) = judge(slices.iter().copied(), &port.name, port.protocol, family, here);
    let backend =
        |address: IpAddr, port: u16| Backend { address: to_bytes(address), port: port.to_be_bytes(), zero: [0; 2] };
    let (mut cluster, mut local) = (Vec::new(), Vec::new());
    for one in &judged {
        let backend = backend(one.backend.ip(), one.backend.port());
        if one.cluster.is_in() {
            cluster.push(backend);
        }
        if one.local.is_in() {
            local.push(backend);
        }
    }
    // They stay for as long as the Service is as it is.
    cluster.shrink_to_fit();
    local.shrink_to_fit();
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    WantedPort {
        name: port.name.clone(),
        family,
        protocol: port.protocol,
        cluster,
        local,
        affinity_seconds: of.affinity_seconds.unwrap_or(0),
        flags: flag(of.internal_local, service::INTERNAL_LOCAL) | flag(of.external_local, service::EXTERNAL_LOCAL),
        source_ranges: source_ranges(of, family).unwrap_or_default(),
        frontends: frontends(of, port, family, here),
    }
}

/// What clients dial to get to a port.
pub fn frontends(of: &Service, port: &ServicePort, family: Family, here: &Here) -> Vec<WantedFrontend> {
    let one = |kind, address, port, flags| WantedFrontend { kind, address, port, flags };
    let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
    };
    let usable = |addresses: &[IpAddr]| {
        let mut addresses = of_family(addresses);
        addresses.retain(|address| unusable(*address, here).is_none());
        addresses
    };
    let mut frontends = Vec::new();
    for address in of_family(&of.cluster_ips) {
        frontends.push(one(FrontendKind::ClusterIp, address, port.port, frontend::INTERNAL));
    }
    let restricted = if source_ranges(of, family).is_some() { frontend::SOURCE_RANGES } else { 0 };
    for address in usable(&of.load_balancer_ips) {
        frontends.push(one(FrontendKind::LoadBalancer, address, port.port, restricted));
    }
    for address in usable(&of.external_ips) {
        frontends.push(one(FrontendKind::ExternalIp, address, port.port, 0));
    }
    if let Some(node_port) = port.node_port {
        for address in of_family(&here.addresses) {
            frontends.push(one(FrontendKind::NodePort, address, node_port, frontend::NODE_PORT));
        }
        let flags = frontend::HOST_ONLY | frontend::NODE_PORT;
        frontends.push(one(FrontendKind::LocalNodePort, loopback(family), node_port, flags));
    }
    frontends
}

const fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}

/// The ranges that load balancer addresses of a family are for; `None`: everybody. As kube-proxy, a list with ranges of the other
/// family alone restricts nobody here; a list of which nothing made sense lets nobody in.
pub fn source_ranges(of: &Service, family: Family) -> Option<Vec<IpNetwork>> {
    let all = of.source_ranges.as_ref()?;
    let mut ours: Vec<IpNetwork> = all.iter().copied().filter(|range| Family::of(range.ip()) == family).collect();
    if ours.iter().any(|range| range.prefix() == 0) || (ours.is_empty() && !all.is_empty()) {
        return None;
    }
    ours.sort_unstable();
    ours.dedup();
    Some(ours)
}

/// The key of a range in SOURCE_RANGES.
pub fn source_range(id: u64, range: IpNetwork) -> SourceRange {
    SourceRange {
        bits: u64::BITS + prefix_bits(range.network(), range.prefix()),
        key: SourceRangeKey { service: id.to_ne_bytes(), client: to_bytes(range.network()) },
    }
}

/// What is wrong with the external addresses of a Service.
pub fn problems(of: &Service, here: &Here) -> Vec<Problem> {
    let fields = [("spec.externalIPs", &of.external_ips), ("status.loadBalancer.ingress", &of.load_balancer_ips)];
    let mut problems = Vec::new();
    for (field, addresses) in fields {
        for address in addresses {
            if let Some(reason) = unusable(*address, here) {
                problems.push(Problem::new(
                    format!("Service {}", of.name),
                    format!("{field}: {address} is left out: {reason}"),
                    "use an address that nothing else in the cluster has",
                ));
            }
        }
    }
    problems
}

/// Why an address cannot be a Service's external one.
fn unusable(address: IpAddr, here: &Here) -> Option<String> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local {
        return Some("it is no address that a client could dial from elsewhere".to_owned());
    }
    let pod_cidr = here.pod_cidr_of(address)?;
    Some(format!("it lies in the podCIDR {pod_cidr}, and pods keep their addresses"))
}
