//! The host sides of pod interfaces: looked at with one list of each kind for all pods, and put right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use libc::EEXIST;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::LinkUnspec;
use weft_common::layout::{LINK_GROUP, OVERLAY_DEVICE};

use super::links::Link;
use super::requests::{NetlinkError, Requests};
use super::route_messages;
use super::routes::{self, RouteError};
use crate::overlay::pod_devices::RecordedInterface;
use crate::overlay::pods::{PodDevice, PodRoute, PodState};

/// What is there of these interfaces, but for the map's entries.
pub(super) async fn observe(
    requests: &Requests,
    links: &[Link],
    recorded: &BTreeMap<String, RecordedInterface>,
) -> Result<PodState, NetlinkError> {
    let mut state = PodState::default();
    for link in links {
        match recorded.get(&link.name) {
            Some(interface) if interface.index == link.index => {
                state.devices.insert(link.name.clone(), link.pod_device());
            }
            // Of a device that somebody made under a recorded name we know nothing.
            _ if link.group == LINK_GROUP && link.name != OVERLAY_DEVICE => {
                state.unrecorded.insert(link.index);
            }
            _ => (),
        }
    }
    if state.devices.is_empty() {
        return Ok(state);
    }
    let names: BTreeMap<u32, &String> = state.devices.iter().map(|(name, device)| (device.index, name)).collect();
    for answer in requests.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())).await? {
        let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
        if let Some(device) = names.get(&message.header.ifindex)
            && let Some((address, mac)) = permanent(&message)
            && recorded.get(*device).is_some_and(|interface| interface.addresses.contains(&address))
        {
            state.neighbours.insert(((*device).clone(), address), mac);
        }
    }
    let present = recorded.iter().filter(|(name, _)| state.devices.contains_key(*name));
    let addresses: BTreeSet<IpAddr> = present.flat_map(|(_, interface)| interface.addresses.iter().copied()).collect();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in routes::dump(requests, family, RouteProtocol::Static).await? {
            if let Some((address, route)) = route(&message).filter(|(address, _)| addresses.contains(address)) {
                state.routes.insert(address, route);
            }
        }
    }
    Ok(state)
}

/// Sets MAC address, group and state of a host side, which is `present` now.
pub(super) async fn set_device(requests: &Requests, present: &Link, wanted: &PodDevice) -> Result<(), NetlinkError> {
    let mut builder = LinkUnspec::new_with_index(wanted.index);
    // Told a MAC address, and be it the one that the device has, the kernel forgets all neighbours, others' too.
    if present.pod_device().mac != wanted.mac {
        builder = builder.address(wanted.mac.to_vec());
    }
    let mut message = if wanted.up { builder.up() } else { builder }.build();
    message.attributes.push(LinkAttribute::Group(LINK_GROUP));
    requests.change(RouteNetlinkMessage::SetLink(message), 0).await
}

/// Adds or replaces a permanent neighbour.
pub(super) async fn set_neighbour(
    requests: &Requests,
    index: u32,
    address: IpAddr,
    mac: [u8; 6],
) -> Result<(), NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.attributes =
        vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    requests.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).await
}

/// Adds the route to a pod's address, or puts it in the place of one that looks as if the plugin had made it.
pub(super) async fn set_route(requests: &Requests, index: u32, address: IpAddr) -> Result<(), RouteError> {
    let destination = IpNetwork::from(address);
    let message = route_messages::to_pod(index, address);
    let request = || RouteNetlinkMessage::NewRoute(message.clone());
    match requests.change(request(), NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.is(EEXIST) => (),
        result => return Ok(result?),
    }
    for present in routes::dump(requests, message.header.address_family, RouteProtocol::Unspec).await? {
        let in_the_way = route_messages::destination(&present) == Some(destination)
            && route_messages::is_in_our_place(&present)
            && present.header.protocol != RouteProtocol::Static;
        if in_the_way {
            return Err(RouteError::InTheWay { destination, seen: route_messages::describe(&present) });
        }
    }
    Ok(requests.change(request(), NLM_F_CREATE | NLM_F_REPLACE).await?)
}

/// Address and MAC address of a permanent neighbour.
fn permanent(message: &NeighbourMessage) -> Option<(IpAddr, [u8; 6])> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => (),
        }
    }
    (message.header.state == NeighbourState::Permanent).then_some(())?;
    Some((address?, mac?))
}

/// A route to one address that is where the plugin's would be.
fn route(message: &RouteMessage) -> Option<(IpAddr, PodRoute)> {
    let destination = route_messages::destination(message)?;
    let is_host = destination.prefix() == IpNetwork::from(destination.ip()).prefix();
    (is_host && route_messages::is_in_our_place(message)).then_some(())?;
    let route = route_messages::directly_over(message)
        .map_or_else(|| PodRoute::Other { seen: route_messages::describe(message) }, PodRoute::Device);
    Some((destination.ip(), route))
}
