//! Our routes as netlink messages: written, and recognised.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteIpTunnel, RouteIpTunnelFlags,
    RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use weft_common::layout::POD_VNI;

use super::routes::{ROUTE_PROTOCOL, RouteError};
use crate::overlay::state::RouteKind;

/// What IPv6 makes of "no metric". IPv4 leaves it at 0 and does not report it.
const DEFAULT_METRIC_IPV6: u32 = 1024;

/// A route to a destination, with nothing else said.
pub(super) fn empty(destination: IpNetwork) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match destination {
        IpNetwork::V4(_) => AddressFamily::Inet,
        IpNetwork::V6(_) => AddressFamily::Inet6,
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.destination_prefix_length = destination.prefix();
    message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    message
}

/// A route as we write it. `overlay` is the index of `weft0`.
pub(super) fn message(overlay: u32, destination: IpNetwork, kind: &RouteKind) -> Result<RouteMessage, RouteError> {
    let mut message = empty(destination);
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    match kind {
        RouteKind::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteKind::Overlay { tunnel_source, tunnel_destination, preferred_source } => {
            message.header.kind = RouteType::Unicast;
            if destination.is_ipv4() {
                // There is no gateway: the kernel calls that scope "link".
                message.header.scope = RouteScope::Link;
            }
            let (kind, tunnel) = encapsulation(*tunnel_source, *tunnel_destination)?;
            message.attributes.push(RouteAttribute::EncapType(kind));
            message.attributes.push(RouteAttribute::Encap(tunnel));
            message.attributes.push(RouteAttribute::Oif(overlay));
            message.attributes.extend(preferred_source.map(|source| RouteAttribute::PrefSource(source.into())));
        }
        RouteKind::Foreign { seen } => {
            return Err(RouteError::InTheWay { destination, seen: seen.clone() });
        }
    }
    Ok(message)
}

/// The host's route to an address of a pod, as the plugin makes it.
pub(super) fn to_pod(device: u32, address: IpAddr) -> RouteMessage {
    let mut message = empty(IpNetwork::from(address));
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    if address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes.push(RouteAttribute::Oif(device));
    message
}

/// The device of a route that leads over it and says nothing else: as [`to_pod`] makes it.
pub(super) fn directly_over(message: &RouteMessage) -> Option<u32> {
    (message.header.kind == RouteType::Unicast).then_some(())?;
    let mut device = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::PrefSource(_) => return None,
            RouteAttribute::Metrics(metrics) if !metrics.is_empty() => return None,
            _ => (),
        }
    }
    device
}

fn encapsulation(
    source_address: IpAddr,
    destination_address: IpAddr,
) -> Result<(RouteLwEnCapType, Vec<RouteLwTunnelEncap>), RouteError> {
    match (source_address, destination_address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let tunnel = [
                RouteIpTunnel::Id(POD_VNI.into()),
                RouteIpTunnel::Source(source),
                RouteIpTunnel::Destination(destination),
            ];
            Ok((RouteLwEnCapType::Ip, tunnel.map(RouteLwTunnelEncap::Ip).into()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let tunnel = [
                RouteIp6Tunnel::Id(POD_VNI.into()),
                RouteIp6Tunnel::Source(source),
                RouteIp6Tunnel::Destination(destination),
            ];
            Ok((RouteLwEnCapType::Ip6, tunnel.map(RouteLwTunnelEncap::Ip6).into()))
        }
        _ => Err(RouteError::MixedFamilies { source_address, destination_address }),
    }
}

/// Where a route leads to.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNetwork> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    // The default route has no such attribute.
    let address = address.or(match message.header.address_family {
        AddressFamily::Inet => Some(IpAddr::from([0; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0; 16])),
        _ => None,
    })?;
    IpNetwork::new(address, message.header.destination_prefix_length).ok()
}

/// Whether our route to the same destination would have the same place in the table.
pub(super) fn is_in_our_place(message: &RouteMessage) -> bool {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let default = (message.header.address_family == AddressFamily::Inet6).then_some(DEFAULT_METRIC_IPV6);
    metric == default && message.header.tos == 0
}

/// Whether it has our protocol number.
pub(super) fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

/// What a route of our protocol is: exactly what [`message`] makes, or foreign.
pub(super) fn kind(message: &RouteMessage, overlay: Option<u32>) -> RouteKind {
    let foreign = || RouteKind::Foreign { seen: describe(message) };
    if !is_in_our_place(message) {
        return foreign();
    }
    match message.header.kind {
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Unicast => overlay.and_then(|overlay| overlay_route(message, overlay)).unwrap_or_else(foreign),
        _ => foreign(),
    }
}

fn overlay_route(message: &RouteMessage, overlay: u32) -> Option<RouteKind> {
    let (mut device, mut tunnel, mut preferred_source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Encap(encapsulation) => tunnel = tunnel_addresses(encapsulation),
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => preferred_source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => preferred_source = Some(IpAddr::V6(*v6)),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => return None,
            RouteAttribute::Metrics(metrics) if !metrics.is_empty() => return None,
            _ => (),
        }
    }
    let (tunnel_source, tunnel_destination) = tunnel.filter(|_| device == Some(overlay))?;
    Some(RouteKind::Overlay { tunnel_source, tunnel_destination, preferred_source })
}

/// Source and destination of an encapsulation as we write it; `None` for any other.
fn tunnel_addresses(encapsulation: &[RouteLwTunnelEncap]) -> Option<(IpAddr, IpAddr)> {
    let (mut id, mut source, mut destination) = (None, None, None);
    for part in encapsulation {
        match part {
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Id(number)) | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(number)) => {
                id = Some(*number);
            }
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Source(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(v4)) => destination = Some(IpAddr::V4(*v4)),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Source(v6)) => source = Some(IpAddr::V6(*v6)),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(v6)) => destination = Some(IpAddr::V6(*v6)),
            // The kernel reports these with zeros where nobody set them.
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Ttl(0) | RouteIpTunnel::Tos(0))
            | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Hoplimit(0) | RouteIp6Tunnel::Tc(0)) => (),
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Flags(flags)) if *flags == RouteIpTunnelFlags::empty() => (),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Flags(flags)) if *flags == RouteIp6TunnelFlags::empty() => (),
            _ => return None,
        }
    }
    (id == Some(POD_VNI.into())).then_some(())?;
    Some((source?, destination?))
}

/// A route in a few words, for people.
pub(super) fn describe(message: &RouteMessage) -> String {
    let mut words = vec![format!("{:?}", message.header.kind).to_lowercase()];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => words.push(format!("via {v4}")),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => words.push(format!("via {v6}")),
            RouteAttribute::Oif(index) => words.push(format!("dev index {index}")),
            RouteAttribute::Encap(encapsulation) => words.push(format!("encap {encapsulation:?}")),
            RouteAttribute::Priority(metric) => words.push(format!("metric {metric}")),
            RouteAttribute::MultiPath(hops) => words.push(format!("{} next hops", hops.len())),
            _ => (),
        }
    }
    words.push(format!("proto {}", u8::from(message.header.protocol)));
    if message.header.tos != 0 {
        words.push(format!("tos {:#x}", message.header.tos));
    }
    words.join(" ")
}
