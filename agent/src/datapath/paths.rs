//! The kernel's own answers to the question how each peer is reached.
//!
//! The kernel is asked as its VXLAN device asks: bound to no device, UDP to the VXLAN port. Policy rules, metrics and nexthop objects
//! are then its business. Packets that go past the VXLAN device ask again, bound to the device and without ports; where rules could
//! tell the two questions apart, both are asked.

use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt, stream};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use weft_common::layout::VXLAN_PORT;

use super::requests::{NetlinkError, Requests};
use super::route_messages;
use crate::overlay::plan::Tunnel;
use crate::overlay::way::{Hop, RouteAnswer};

/// Questions that wait for their answer at a time. All answers of that many fit into the socket's buffer.
const AT_ONCE: usize = 64;
/// `IPPROTO_UDP`.
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// The answers for these tunnels, in their order.
pub(super) async fn answers(requests: &Requests, tunnels: &[Tunnel]) -> Result<Vec<RouteAnswer>, NetlinkError> {
    let is_ipv4 = |tunnel: &Tunnel| tunnel.destination.is_ipv4();
    let select_ipv4 = tunnels.iter().any(is_ipv4) && rules_select_packets(requests, AddressFamily::Inet).await?;
    let select_ipv6 = !tunnels.iter().all(is_ipv4) && rules_select_packets(requests, AddressFamily::Inet6).await?;
    let answers = tunnels.iter().map(|tunnel| {
        let rules_select = if is_ipv4(tunnel) { select_ipv4 } else { select_ipv6 };
        answer(requests, *tunnel, rules_select)
    });
    stream::iter(answers).buffered(AT_ONCE).try_collect().await
}

async fn answer(requests: &Requests, tunnel: Tunnel, rules_select: bool) -> Result<RouteAnswer, NetlinkError> {
    let mut question = question(tunnel);
    question.attributes.push(RouteAttribute::Dport(VXLAN_PORT));
    let route = match ask(requests, question.clone()).await? {
        Ok(route) => route,
        Err(words) => return Ok(RouteAnswer::None(words)),
    };
    if route.header.kind != RouteType::Unicast {
        return Ok(RouteAnswer::NotUnicast(format!("{:?}", route.header.kind).to_lowercase()));
    }
    let hops = hops(&route);
    let differs_by_device = match hops.first() {
        Some(hop) if rules_select => !is_the_same_when_bound(requests, tunnel, hop.device, &route).await?,
        _ => false,
    };
    let path_mtu = match tunnel.destination {
        // Routers cut what is too long for them, and say nothing.
        IpAddr::V4(_) => None,
        // What a router has said is not in the table, but in what the kernel would do now.
        IpAddr::V6(_) => {
            question.header.flags = RouteFlags::empty();
            ask(requests, question).await?.ok().and_then(|route| mtu(&route))
        }
    };
    let mtu = [mtu(&route), path_mtu].into_iter().flatten().min();
    Ok(RouteAnswer::Route { hops, mtu, differs_by_device })
}

/// Whether the kernel takes the same route for packets that are bound to the device.
async fn is_the_same_when_bound(
    requests: &Requests,
    tunnel: Tunnel,
    device: u32,
    route: &RouteMessage,
) -> Result<bool, NetlinkError> {
    let mut question = question(tunnel);
    question.attributes.push(RouteAttribute::Oif(device));
    Ok(ask(requests, question).await?.is_ok_and(|bound| identity(&bound) == identity(route)))
}

/// What tells a route from others: its table, destination, metric and type of service.
fn identity(route: &RouteMessage) -> (u8, u8, Vec<&RouteAttribute>) {
    let is_part = |attribute: &&RouteAttribute| {
        matches!(attribute, RouteAttribute::Table(_) | RouteAttribute::Destination(_) | RouteAttribute::Priority(_))
    };
    (route.header.destination_prefix_length, route.header.tos, route.attributes.iter().filter(is_part).collect())
}

/// The route, or the kernel's words where there is none.
async fn ask(requests: &Requests, question: RouteMessage) -> Result<Result<RouteMessage, String>, NetlinkError> {
    match requests.get(RouteNetlinkMessage::GetRoute(question)).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(Ok(route)),
        Ok(_) => Ok(Err("the kernel gives no route".to_owned())),
        Err(NetlinkError::Refused { error, reason }) => {
            let number = error.raw_os_error().map(Errno::from_raw);
            let words = number.map_or_else(|| error.to_string(), |number| number.desc().to_owned());
            Ok(Err(reason.map_or(words.clone(), |reason| format!("{words}: {reason}"))))
        }
        Err(error) => Err(error),
    }
}

/// The question for the way from the tunnel's source to its destination, as the routing table has it.
fn question(tunnel: Tunnel) -> RouteMessage {
    let mut question = route_messages::empty(tunnel.destination.into());
    question.header.table = RouteHeader::RT_TABLE_UNSPEC;
    question.header.flags = RouteFlags::FibMatch;
    question.header.source_prefix_length = if tunnel.source.is_ipv4() { 32 } else { 128 };
    question.attributes.push(RouteAttribute::Source(tunnel.source.into()));
    question.attributes.push(RouteAttribute::IpProto(UDP));
    question
}

/// Where a route leads next.
fn hops(route: &RouteMessage) -> Vec<Hop> {
    let encapsulates = |attributes: &[RouteAttribute]| {
        attributes.iter().any(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Encap(_)
                    | RouteAttribute::EncapType(_)
                    | RouteAttribute::NewDestination(_)
                    | RouteAttribute::NewDestinationAddress(_)
            )
        })
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => {
                let alive = hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
                let hop = |hop: &RouteNextHop| Hop {
                    device: hop.interface_index,
                    encapsulated: encapsulates(&hop.attributes),
                };
                return alive.map(hop).collect();
            }
            RouteAttribute::Oif(device) => {
                return vec![Hop { device: *device, encapsulated: encapsulates(&route.attributes) }];
            }
            _ => (),
        }
    }
    Vec::new()
}

fn mtu(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

/// Whether some policy rule looks at more than that there is a packet. Without one, every question walks the same tables.
async fn rules_select_packets(requests: &Requests, family: AddressFamily) -> Result<bool, NetlinkError> {
    let mut message = RuleMessage::default();
    message.header.family = family;
    let answers = match requests.dump(RouteNetlinkMessage::GetRule(message)).await {
        // A kernel without policy rules has none.
        Err(error) if error.is(libc::EOPNOTSUPP) || error.is(libc::EAFNOSUPPORT) => return Ok(false),
        answers => answers?,
    };
    Ok(answers.iter().any(|answer| matches!(answer, RouteNetlinkMessage::NewRule(rule) if selects(rule))))
}

fn selects(rule: &RuleMessage) -> bool {
    let plain = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Table(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX)
        )
    };
    let header = &rule.header;
    (header.src_len, header.dst_len, header.tos) != (0, 0, 0) || !rule.attributes.iter().all(plain)
}
