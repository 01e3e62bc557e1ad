//! Routes of our protocol number in the main table, both families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use libc::{EEXIST, ENOENT, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteIpTunnel, RouteIpTunnelFlags,
    RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use weft_common::layout::POD_VNI;

use super::requests::{NetlinkError, Requests, unless};
use crate::overlay::state::RouteKind;

/// The routing protocol number of our routes: what carries it is ours to remove. `ip route show proto 119` lists them.
pub const ROUTE_PROTOCOL: u8 = 119;
/// What IPv6 makes of "no metric". IPv4 leaves it at 0 and does not report it.
const DEFAULT_METRIC_IPV6: u32 = 1024;

/// A route cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Somebody else has a route to the same destination.
    #[error("a route that is not weft's is in the way ({seen}): remove it, `ip route show {destination}` shows it")]
    InTheWay {
        /// The podCIDR.
        destination: IpNetwork,
        /// The other route.
        seen: String,
    },
    /// Tunnel addresses of two families.
    #[error("the tunnel's source {source_address} and destination {destination_address} are of different families")]
    MixedFamilies {
        /// Our InternalIP.
        source_address: IpAddr,
        /// The other node's.
        destination_address: IpAddr,
    },
}

/// Our routes. `overlay` is the index of `weft0`.
pub(super) async fn list(
    requests: &Requests,
    overlay: Option<u32>,
) -> Result<BTreeMap<IpNetwork, RouteKind>, NetlinkError> {
    let mut routes = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in dump(requests, family, RouteProtocol::Other(ROUTE_PROTOCOL)).await? {
            let Some(destination) = destination(&message) else { continue };
            let found = kind(&message, overlay);
            routes
                .entry(destination)
                .and_modify(|present| {
                    *present = RouteKind::Foreign { seen: format!("two routes: {present:?}, {found:?}") }
                })
                .or_insert(found);
        }
    }
    Ok(routes)
}

/// Adds a route, or puts it in the place of what we have to that destination, without a moment between.
pub(super) async fn set(
    requests: &Requests,
    overlay: u32,
    destination: IpNetwork,
    kind: &RouteKind,
) -> Result<(), RouteError> {
    let message = message(overlay, destination, kind)?;
    let request = || RouteNetlinkMessage::NewRoute(message.clone());
    match requests.change(request(), NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.is(EEXIST) => (),
        result => return Ok(result?),
    }
    // A replace would also take the place of a route that is not ours, so what is there must be known.
    let family = message.header.address_family;
    for present in dump(requests, family, RouteProtocol::Unspec).await? {
        if self::destination(&present) != Some(destination) {
            continue;
        }
        let same_place = is_default_metric(&present) && present.header.tos == 0;
        if present.header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL) {
            if same_place {
                return Err(RouteError::InTheWay { destination, seen: describe(&present) });
            }
        } else if !same_place {
            // With another metric it would stay beside the new one.
            unless(ESRCH, requests.change(RouteNetlinkMessage::DelRoute(present), 0).await)?;
        }
    }
    Ok(requests.change(request(), NLM_F_CREATE | NLM_F_REPLACE).await?)
}

/// Deletes all our routes to a destination.
pub(super) async fn remove(requests: &Requests, destination: IpNetwork) -> Result<(), NetlinkError> {
    let mut message = empty(destination);
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    // "Any" in a deletion.
    message.header.scope = RouteScope::NoWhere;
    match requests.change(RouteNetlinkMessage::DelRoute(message.clone()), 0).await {
        // Nothing of the usual form is there: something unusual may be.
        Err(error) if error.is(ESRCH) => (),
        result => return result,
    }
    for present in dump(requests, message.header.address_family, message.header.protocol).await? {
        if self::destination(&present) == Some(destination) {
            unless(ESRCH, requests.change(RouteNetlinkMessage::DelRoute(present), 0).await)?;
        }
    }
    Ok(())
}

/// The routes of the main table of that protocol, or of all.
async fn dump(
    requests: &Requests,
    family: AddressFamily,
    protocol: RouteProtocol,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol;
    let answers = match requests.dump(RouteNetlinkMessage::GetRoute(message)).await {
        // The kernel makes the table with its first route.
        Err(error) if error.is(ENOENT) => return Ok(Vec::new()),
        answers => answers?,
    };
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            // A kernel without IPv6 answers for it with the routes of IPv4.
            RouteNetlinkMessage::NewRoute(message) => (message.header.address_family == family).then_some(message),
            _ => None,
        })
        .collect())
}

fn empty(destination: IpNetwork) -> RouteMessage {
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

fn message(overlay: u32, destination: IpNetwork, kind: &RouteKind) -> Result<RouteMessage, RouteError> {
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

fn destination(message: &RouteMessage) -> Option<IpNetwork> {
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

fn is_default_metric(message: &RouteMessage) -> bool {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    match message.header.address_family {
        AddressFamily::Inet6 => metric == Some(DEFAULT_METRIC_IPV6),
        _ => metric.is_none(),
    }
}

/// What a route of our protocol is: exactly what [`message`] makes, or foreign.
fn kind(message: &RouteMessage, overlay: Option<u32>) -> RouteKind {
    let foreign = || RouteKind::Foreign { seen: describe(message) };
    if message.header.tos != 0 || !is_default_metric(message) {
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
fn describe(message: &RouteMessage) -> String {
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
