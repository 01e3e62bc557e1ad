//! Kubernetes' Service and ServiceCIDR -> [`model::services`](crate::model::services). A field that makes no sense is left out and
//! named; the rest of the object counts.

use std::fmt::Display;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::addresses::{never_of_users, never_translated, parse_address, parse_range};
use super::metadata::{label, name_of};
use super::service_cidr_object::ServiceCidrObject;
use super::service_object::{ServiceObject, ServicePortObject};
use crate::model::problem::Problem;
use crate::model::services::{Protocol, Service, ServicePort, Told};

/// A Service that carries this label is another proxy's.
pub const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Seconds of a client's affinity where nothing is said, and the most that Kubernetes allows.
const AFFINITY_SECONDS: (u32, u32) = (10_800, 86_400);

/// What of an object was left out.
struct Problems {
    object: String,
    found: Vec<Problem>,
}

impl Problems {
    fn add(&mut self, reason: impl Display, next_step: &str) {
        self.found.push(Problem::new(&self.object, reason.to_string(), next_step));
    }
}

/// The Service; `None` where it is not ours to serve.
pub fn service(object: &ServiceObject) -> Option<Told<Service>> {
    let spec = &object.spec;
    let kind = spec.kind.as_deref().unwrap_or("ClusterIP");
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let without_address = cluster_ip.is_empty() || cluster_ip == "None";
    if without_address || kind == "ExternalName" || label(&object.metadata, OTHER_PROXY).is_some() {
        return None;
    }
    let name = name_of(&object.metadata);
    let mut problems = Problems { object: format!("Service {name}"), found: Vec::new() };
    let external_ips = external_ips(object, &mut problems);
    let reached_from_outside = matches!(kind, "NodePort" | "LoadBalancer") || !external_ips.is_empty();
    let service = Service {
        cluster_ips: cluster_ips(object, cluster_ip, &mut problems),
        load_balancer_ips: if kind == "LoadBalancer" { load_balancer_ips(object, &mut problems) } else { Vec::new() },
        source_ranges: source_ranges(object, &mut problems),
        ports: ports(object, kind, &mut problems),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: reached_from_outside && spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity_seconds: affinity_seconds(object, &mut problems),
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        external_ips,
        name,
    };
    Some(Told { object: service, problems: problems.found })
}

/// The first of each family.
fn cluster_ips(object: &ServiceObject, cluster_ip: &str, problems: &mut Problems) -> Vec<IpAddr> {
    const NEXT_STEP: &str = "make the Service anew, so that the API server gives it an address";
    let all = object.spec.cluster_ips.as_deref().filter(|all| !all.is_empty());
    let texts = all.map_or_else(|| vec![cluster_ip], |all| all.iter().map(String::as_str).collect());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in texts {
        match usable(text, never_translated) {
            Ok(address) if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                if !addresses.contains(&address) {
                    let reason =
                        format!("spec.clusterIPs: {text} is its second address of one family, and is not served");
                    problems.add(reason, NEXT_STEP);
                }
            }
            Ok(address) => addresses.push(address),
            Err(reason) => problems.add(format!("spec.clusterIPs: {text:?} {reason}; it is not served"), NEXT_STEP),
        }
    }
    addresses
}

fn external_ips(object: &ServiceObject, problems: &mut Problems) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for text in object.spec.external_ips.iter().flatten() {
        match usable(text, never_of_users) {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(reason) => problems
                .add(format!("spec.externalIPs: {text:?} {reason}; it is not served"), "correct or remove the entry"),
        }
    }
    addresses
}

fn load_balancer_ips(object: &ServiceObject, problems: &mut Problems) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for ingress in object.status.load_balancer.ingress.iter().flatten() {
        let Some(text) = ingress.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        if ingress.ip_mode.as_deref().is_some_and(|mode| mode != "VIP") {
            continue;
        }
        match usable(text, never_translated) {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(reason) => problems.add(
                format!("status.loadBalancer.ingress: {text:?} {reason}; it is not served"),
                "see the controller of the load balancer, which wrote it",
            ),
        }
    }
    addresses
}

/// An entry that makes no sense lets nobody in, and opens nothing either.
fn source_ranges(object: &ServiceObject, problems: &mut Problems) -> Option<Vec<IpNetwork>> {
    let texts = object.spec.load_balancer_source_ranges.as_deref().filter(|texts| !texts.is_empty())?;
    let mut ranges = Vec::new();
    for text in texts {
        match parse_range(text) {
            Ok(range) if ranges.contains(&range) => {}
            Ok(range) => ranges.push(range),
            Err(reason) => problems.add(
                format!("spec.loadBalancerSourceRanges: {text:?} {reason}; it lets nobody in"),
                "correct or remove the entry",
            ),
        }
    }
    Some(ranges)
}

fn ports(object: &ServiceObject, kind: &str, problems: &mut Problems) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for object in object.spec.ports.iter().flatten() {
        let port = match port(object, kind, problems) {
            Ok(port) => port,
            Err(reason) => {
                let name = object.name.as_deref().unwrap_or_default();
                problems.add(
                    format!("spec.ports: port {name:?} ({}): {reason}; it is not served", object.port),
                    "correct the port",
                );
                continue;
            }
        };
        if ports.iter().any(|other| (other.protocol, other.port) == (port.protocol, port.port)) {
            let reason = format!("spec.ports: {}/{} is there twice; the first one counts", port.port, port.protocol);
            problems.add(reason, "remove one of the two");
            continue;
        }
        ports.push(port);
    }
    ports
}

fn port(object: &ServicePortObject, kind: &str, problems: &mut Problems) -> Result<ServicePort, String> {
    let protocol = parse_protocol(object.protocol.as_deref())?;
    let port = parse_port(object.port).ok_or("is no port between 1 and 65535")?;
    let node_port = object.node_port.filter(|number| *number != 0 && matches!(kind, "NodePort" | "LoadBalancer"));
    let parsed = node_port.and_then(parse_port);
    if let (Some(number), None) = (node_port, parsed) {
        problems.add(
            format!("spec.ports: the nodePort {number} is no port between 1 and 65535; it is not served"),
            "correct the nodePort",
        );
    }
    Ok(ServicePort { name: object.name.clone().unwrap_or_default(), protocol, port, node_port: parsed })
}

fn affinity_seconds(object: &ServiceObject, problems: &mut Problems) -> Option<u32> {
    if object.spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = object.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|config| config.timeout_seconds) else { return Some(AFFINITY_SECONDS.0) };
    let valid = u32::try_from(seconds).ok().filter(|seconds| (1..=AFFINITY_SECONDS.1).contains(seconds));
    if valid.is_none() {
        problems.add(
            format!(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not between 1 and {}; {} counts",
                AFFINITY_SECONDS.1, AFFINITY_SECONDS.0
            ),
            "correct the timeout",
        );
    }
    valid.or(Some(AFFINITY_SECONDS.0))
}

/// The ranges of a ServiceCIDR, and what was left out.
pub fn service_cidr(object: &ServiceCidrObject) -> (Vec<IpNetwork>, Vec<Problem>) {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let mut problems = Problems { object: format!("ServiceCIDR {name}"), found: Vec::new() };
    let mut ranges = Vec::new();
    for text in object.spec.cidrs.iter().flatten() {
        match parse_range(text) {
            // 0.0.0.0/0 would drop every packet to the world.
            Ok(range) if range.prefix() == 0 => problems.add(
                format!("spec.cidrs: {text} is every address; nothing is dropped because of it"),
                "make a ServiceCIDR of the addresses that Services have, and delete this one",
            ),
            Ok(range) => ranges.push(range),
            Err(reason) => {
                problems.add(format!("spec.cidrs: {text:?} {reason}"), "delete the ServiceCIDR and make it anew");
            }
        }
    }
    (ranges, problems.found)
}

/// An address that can be translated.
pub(super) fn usable(text: &str, refused: impl Fn(IpAddr) -> Option<&'static str>) -> Result<IpAddr, String> {
    let address = parse_address(text)?;
    match refused(address) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(address),
    }
}

/// A protocol; absent: TCP.
pub(super) fn parse_protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("the protocol {other:?} is none of TCP, UDP and SCTP")),
    }
}

/// A port that somebody can dial.
pub(super) fn parse_port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}
