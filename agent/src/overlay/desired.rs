//! What the kernel of this node should hold: a pure function of the plan, the underlay, the ways to the peers and the
//! recorded pod interfaces.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use weft_common::layout::{OVERHEAD_IPV4, OVERHEAD_IPV6, OVERLAY_DEVICE, map, program};

use super::plan::{Plan, gateway};
use super::pod_devices::PodDevices;
use super::state::{
    FilterPlace, FilterProgram, Hook, NodeEntry, OverlayDevice, OverlayState, Pin, RouteKind, Underlay,
};
use super::way::{Way, Ways};
use super::{pods, sysctls};
use crate::model::problem::Problem;

/// The smallest MTU that IPv6 allows (RFC 8200, section 5).
const IPV6_MINIMUM_MTU: u32 = 1280;
/// The smallest that IPv4 allows (RFC 791).
const IPV4_MINIMUM_MTU: u32 = 68;

/// The state that should be there. Of what is there, `observed`, only three things have a say: the sysctls of
/// [`sysctls::watched`], which host sides of the recorded pod interfaces exist, and, while the ranges of cluster IPs are not known, the
/// routes that an earlier agent made for them.
pub fn desired(
    plan: &Plan,
    underlay: &Underlay,
    ways: &Ways,
    recorded: &PodDevices,
    observed: &OverlayState,
) -> OverlayState {
    let pods = pods::desired(recorded, &observed.pods);
    let (ipv4_pods, ipv6_pods) = families(&plan.pod_cidrs);
    let mtu = pod_mtu(plan, underlay);
    let mut state = OverlayState {
        device: Some(OverlayDevice { mtu, mac: device_mac(&plan.name), shape_is_ours: true, up: true }),
        addresses: plan.pod_cidrs.iter().map(|pod_cidr| gateway(*pod_cidr)).collect(),
        configured: Some(mtu),
        masquerade: Some(plan.pod_cidrs.iter().copied().collect()),
        sysctls: sysctls::wanted(&underlay.device, ipv4_pods, ipv6_pods, &observed.sysctls),
        filters: filters(pods.devices.keys()),
        underlay_filters: underlay_filters(ways),
        pins: pins(),
        pods,
        ..OverlayState::default()
    };
    add_this_node(&mut state, plan);
    add_peers(&mut state, plan, ways);
    add_service_cidrs(&mut state, plan, observed);
    state
}

/// MTU of pods and of `weft0`: what is left of the underlay's.
pub fn pod_mtu(plan: &Plan, underlay: &Underlay) -> u32 {
    underlay.mtu.saturating_sub(if plan.has_ipv6_underlay() { OVERHEAD_IPV6 } else { OVERHEAD_IPV4 })
}

/// An underlay whose packets are too small for pods.
pub fn too_small(plan: &Plan, underlay: &Underlay) -> Option<Problem> {
    let mtu = pod_mtu(plan, underlay);
    let (_, ipv6_pods) = families(&plan.pod_cidrs);
    let (needed, family) = if ipv6_pods { (IPV6_MINIMUM_MTU, "IPv6") } else { (IPV4_MINIMUM_MTU, "IPv4") };
    (mtu < needed).then(|| {
        Problem::new(
            format!("device {}", underlay.device),
            format!("its MTU {} leaves pods {mtu} bytes, and {family} needs {needed}", underlay.mtu),
            "raise the MTU of the device",
        )
    })
}

/// MAC address of `weft0`: it must differ on every node, and be the same after every restart. Locally administered.
fn device_mac(node: &str) -> [u8; 6] {
    // FNV-1a, 64 bits: two nodes of 5,000 share the 40 bits that we take once in 90,000 clusters.
    let hash = node
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let [_, _, _, a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
    [0x02, a, b, c, d, e]
}

fn families(pod_cidrs: &[IpNetwork]) -> (bool, bool) {
    (pod_cidrs.iter().any(IpNetwork::is_ipv4), pod_cidrs.iter().any(IpNetwork::is_ipv6))
}

/// Every map and program of this layout under its name.
pub fn pins() -> BTreeMap<String, Pin> {
    map::ALL.into_iter().chain(program::ALL).map(|name| (name.to_owned(), Pin::InUse)).collect()
}

fn filters<'a>(pod_devices: impl Iterator<Item = &'a String>) -> BTreeMap<FilterPlace, FilterProgram> {
    let filter = |device: &str, hook, name: &str| {
        (FilterPlace { device: device.to_owned(), hook }, FilterProgram::Pinned(name.to_owned()))
    };
    let overlay = filter(OVERLAY_DEVICE, Hook::Ingress, program::FROM_OVERLAY);
    let pods = pod_devices.flat_map(|device| {
        [filter(device, Hook::Ingress, program::FROM_POD), filter(device, Hook::Egress, program::TO_POD)]
    });
    pods.chain([overlay]).collect()
}

/// Whatever peers send is taken before `weft0` sees it, wherever that is possible.
fn underlay_filters(ways: &Ways) -> BTreeMap<String, FilterProgram> {
    let devices = ways.devices.iter().filter(|device| device.receives_by_overlay.is_none());
    let filter = FilterProgram::Pinned(program::FROM_UNDERLAY.to_owned());
    devices.map(|device| (device.device.clone(), filter.clone())).collect()
}

fn add_this_node(state: &mut OverlayState, plan: &Plan) {
    let Some(tunnel) = plan.own_tunnel() else { return };
    let entry = NodeEntry { tunnel, source: tunnel, local: true, underlay: None };
    state.node_addresses.extend(plan.internal_ips.iter().map(|address| (*address, entry.of_address())));
    state.nodes.extend(plan.pod_cidrs.iter().map(|pod_cidr| (*pod_cidr, entry)));
    state.routes.extend(plan.pod_cidrs.iter().map(|pod_cidr| (*pod_cidr, RouteKind::Unreachable)));
}

fn add_peers(state: &mut OverlayState, plan: &Plan, ways: &Ways) {
    for (name, peer) in &plan.peers {
        let Some(tunnel) = peer.tunnel else { continue };
        let underlay = ways.peers.get(name).and_then(Way::underlay);
        let entry = NodeEntry { tunnel: tunnel.destination, source: tunnel.source, local: false, underlay };
        state.node_addresses.extend(peer.internal_ips.iter().map(|address| (*address, entry.of_address())));
        state.nodes.extend(peer.pod_cidrs.iter().map(|pod_cidr| (*pod_cidr, entry)));
        state.routes.extend(peer.pod_cidrs.iter().map(|pod_cidr| {
            let route = RouteKind::Overlay {
                tunnel_source: tunnel.source,
                tunnel_destination: tunnel.destination,
                preferred_source: plan.gateway_for(*pod_cidr),
            };
            (*pod_cidr, route)
        }));
    }
}

/// What programs do not translate must not leave by the default route: nobody out there has an address of a Service. Routes of
/// pods and nodes are more specific, or win by their place in the map.
fn add_service_cidrs(state: &mut OverlayState, plan: &Plan, observed: &OverlayState) {
    let is_unreachable = |kind: &RouteKind| matches!(kind, RouteKind::Unreachable);
    let known: Vec<IpNetwork> = match &plan.service_cidrs {
        Some(ranges) => ranges.iter().copied().collect(),
        None => observed.routes.iter().filter(|(_, kind)| is_unreachable(kind)).map(|(range, _)| *range).collect(),
    };
    for range in known {
        state.routes.entry(range).or_insert(RouteKind::Unreachable);
    }
}
