//! Routes of our protocol number in the main table, both families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use libc::{EEXIST, ENOENT, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::requests::{NetlinkError, Requests, unless};
use super::route_messages;
use crate::overlay::state::RouteKind;

/// The routing protocol number of our routes: what carries it is ours to remove. `ip route show proto 119` lists them.
pub const ROUTE_PROTOCOL: u8 = 119;

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
            let Some(destination) = route_messages::destination(&message) else { continue };
            let found = route_messages::kind(&message, overlay);
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
///
/// A replacement would also take the place of a route that is not ours, so what is there must be known first. One question
/// tells that, unless there are several routes to the destination; `look_closely` says that there may be.
pub(super) async fn set(
    requests: &Requests,
    overlay: u32,
    destination: IpNetwork,
    kind: &RouteKind,
    look_closely: bool,
) -> Result<(), RouteError> {
    let message = route_messages::message(overlay, destination, kind)?;
    let request = || RouteNetlinkMessage::NewRoute(message.clone());
    match requests.change(request(), NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.is(EEXIST) => (),
        result => return Ok(result?),
    }
    if look_closely || !replaces_ours(requests, destination).await {
        clear_the_way(requests, destination).await?;
    }
    Ok(requests.change(request(), NLM_F_CREATE | NLM_F_REPLACE).await?)
}

/// Whether the route that the kernel would take to this destination is ours and the one that a replacement replaces.
async fn replaces_ours(requests: &Requests, destination: IpNetwork) -> bool {
    let mut question = route_messages::empty(IpNetwork::from(destination.network()));
    question.header.table = RouteHeader::RT_TABLE_UNSPEC;
    question.header.flags = RouteFlags::FibMatch;
    match requests.get(RouteNetlinkMessage::GetRoute(question)).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(found))) => {
            let same_destination = route_messages::destination(&found) == Some(destination);
            same_destination && route_messages::is_ours(&found) && route_messages::is_in_our_place(&found)
        }
        // Unreachable destinations have no answer: the list tells.
        _ => false,
    }
}

/// Makes sure that a replacement replaces our route, and that no other of ours stays beside it.
async fn clear_the_way(requests: &Requests, destination: IpNetwork) -> Result<(), RouteError> {
    let family = route_messages::empty(destination).header.address_family;
    for present in dump(requests, family, RouteProtocol::Unspec).await? {
        if route_messages::destination(&present) != Some(destination) {
            continue;
        }
        match (route_messages::is_ours(&present), route_messages::is_in_our_place(&present)) {
            (false, true) => {
                return Err(RouteError::InTheWay { destination, seen: route_messages::describe(&present) });
            }
            (true, false) => {
                unless(ESRCH, requests.change(RouteNetlinkMessage::DelRoute(present), 0).await)?;
            }
            (true, true) | (false, false) => (),
        }
    }
    Ok(())
}

/// Deletes all our routes to a destination.
pub(super) async fn remove(requests: &Requests, destination: IpNetwork) -> Result<(), NetlinkError> {
    let mut message = route_messages::empty(destination);
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    // "Any" in a deletion.
    message.header.scope = RouteScope::NoWhere;
    match requests.change(RouteNetlinkMessage::DelRoute(message.clone()), 0).await {
        // Nothing of the usual form is there: something unusual may be.
        Err(error) if error.is(ESRCH) => (),
        result => return result,
    }
    for present in dump(requests, message.header.address_family, message.header.protocol).await? {
        if route_messages::destination(&present) == Some(destination) {
            unless(ESRCH, requests.change(RouteNetlinkMessage::DelRoute(present), 0).await)?;
        }
    }
    Ok(())
}

/// The routes of the main table of that protocol, or of all.
pub(super) async fn dump(
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
