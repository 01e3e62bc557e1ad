//! CHECK: is everything as ADD made it?

use std::{net::IpAddr, path::Path};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressAttribute,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    route::{RouteAddress, RouteAttribute},
};

use crate::{
    addresses::Addresses,
    attachment::{Attachment, AttachmentId},
    attachments,
    endpoints::{self, Endpoints},
    error::{Failure, code},
    filters::Programs,
    lock::{self, Lock},
    mac_address::MacAddress,
    messages,
    netconf::NetConf,
    netlink::{self, Netlink},
    pod_interface::{self, PodSide},
    result,
};

/// Compares the link, its addresses, routes, neighbours, filters and map entries with the record, and the record with
/// `prevResult`. Names everything that differs.
pub fn check(conf: &NetConf, id: &AttachmentId, netns: &Path) -> Result<(), Failure> {
    // Under the lock, because a CHECK may come while another ADD or DEL runs.
    let _lock = Lock::acquire(&conf.state_directory, lock::WAIT)?;
    let Some(record) = attachments::read(&conf.state_directory, id)? else {
        return Err(Failure::new(
            code::UNKNOWN_CONTAINER,
            "unknown container",
            format!("there is no attachment of {id}: ADD was never called for it, or DEL was"),
        ));
    };
    let mut damage = match &conf.prev_result {
        Some(previous) => result::disagreements(&record, netns, previous),
        None => Vec::new(),
    };
    if record.network != conf.name {
        damage.push(format!("it belongs to the network {}, not to {}", record.network, conf.name));
    }
    let addresses = Addresses::new(&conf.state_directory);
    for address in &record.addresses {
        if addresses.owner(*address)?.as_ref() != Some(id) {
            damage.push(format!("the address {address} is not allocated to it"));
        }
    }
    damage.extend(host_damage(conf, &record)?);
    damage.extend(pod_damage(&record, netns)?);
    if damage.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        code::CHECK_FAILED,
        format!("{id} is not as ADD left it"),
        format!("{}. Delete the pod{}; its owner makes a new one", damage.join("; "), pod_name(&record)),
    ))
}

fn pod_name(record: &Attachment) -> String {
    match (&record.pod_namespace, &record.pod_name) {
        (Some(namespace), Some(name)) => format!(" {namespace}/{name}"),
        _ => String::new(),
    }
}

fn host_damage(conf: &NetConf, record: &Attachment) -> Result<Vec<String>, Failure> {
    let mut host = Netlink::open()?;
    let device = &record.host_device;
    let Some(link) = pod_interface::find(&mut host, device)? else {
        return Ok(vec![format!("the host has no device {device}")]);
    };
    let mut damage = link_damage(device, &link, record.host_mac, record.mtu);
    if link.header.index != record.host_ifindex {
        damage.push(format!("{device} has the index {}, not {}", link.header.index, record.host_ifindex));
        // Everything else goes by the index.
        return Ok(damage);
    }
    if !pod_interface::is_ours(&link) {
        damage.push(format!("{device} is not in weft's link group"));
    }
    let neighbours = record.addresses.iter().map(|address| (*address, record.pod_mac));
    damage.extend(neighbour_damage(&mut host, device, record.host_ifindex, neighbours)?);
    for address in &record.addresses {
        let routes = routes_over(&mut host, record.host_ifindex, *address)?;
        if !routes.contains(&Route::To(*address)) {
            damage.push(format!("the host has no route to {address} over {device}"));
        }
    }
    damage.extend(Programs::open(&conf.pin_directory)?.damage(record, &mut host)?);
    let endpoints = Endpoints::open(&conf.pin_directory)?;
    for address in &record.addresses {
        match endpoints.get(*address)? {
            None => damage.push(format!("the map ENDPOINTS has no entry for {address}")),
            Some(found) if found != endpoints::of_attachment(record) => {
                damage.push(format!("the map ENDPOINTS has another entry for {address}: {found:?}"));
            }
            Some(_) => {}
        }
    }
    Ok(damage)
}

fn pod_damage(record: &Attachment, netns: &Path) -> Result<Vec<String>, Failure> {
    let mut pod = PodSide::open(netns)?;
    let ifname = &format!("{} in the pod", record.ifname);
    let Some(link) = pod.link(&record.ifname)? else {
        return Ok(vec![format!("the pod has no interface {}", record.ifname)]);
    };
    let index = link.header.index;
    let mut damage = link_damage(ifname, &link, record.pod_mac, record.mtu);
    let present = addresses_on(pod.netlink(), index)?;
    let neighbours = record.gateways.iter().map(|gateway| (*gateway, record.host_mac));
    damage.extend(neighbour_damage(pod.netlink(), ifname, index, neighbours)?);
    for (address, gateway) in record.addresses_and_gateways() {
        if !present.contains(&address) {
            damage.push(format!("{ifname} has no address {address}"));
        }
        let routes = routes_over(pod.netlink(), index, address)?;
        if !routes.contains(&Route::To(gateway)) {
            damage.push(format!("the pod has no route to its gateway {gateway} over {}", record.ifname));
        }
        if !routes.contains(&Route::Default(gateway)) {
            damage.push(format!("the pod has no default route via {gateway} over {}", record.ifname));
        }
    }
    Ok(damage)
}

fn link_damage(name: &str, link: &LinkMessage, mac: MacAddress, mtu: u32) -> Vec<String> {
    let mut damage = Vec::new();
    if !link.header.flags.contains(LinkFlags::Up) {
        damage.push(format!("{name} is down"));
    }
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(found) if *found != mtu => damage.push(format!("{name} has the MTU {found}, not {mtu}")),
            LinkAttribute::Address(found) if found[..] != mac.0 => {
                let found = <[u8; 6]>::try_from(&found[..]).map(|found| MacAddress(found).to_string());
                damage.push(format!("{name} has the MAC address {}, not {mac}", found.unwrap_or_default()));
            }
            _ => {}
        }
    }
    damage
}

fn neighbour_damage(
    netlink: &mut Netlink,
    name: &str,
    index: u32,
    expected: impl Iterator<Item = (IpAddr, MacAddress)>,
) -> Result<Vec<String>, netlink::Error> {
    let mut damage = Vec::new();
    for (address, mac) in expected {
        let what = format!("list the neighbours of {name}");
        let neighbours = netlink.dump(&what, &messages::neighbours_on(index, address))?;
        let is_there = neighbours.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                let destination = match address {
                    IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
                    IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
                };
                neighbour.header.ifindex == index
                    && neighbour.header.state == NeighbourState::Permanent
                    && neighbour.attributes.contains(&NeighbourAttribute::Destination(destination))
                    && neighbour.attributes.contains(&NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()))
            }
            _ => false,
        });
        if !is_there {
            damage.push(format!("{name} has no permanent neighbour {address} with the MAC address {mac}"));
        }
    }
    Ok(damage)
}

/// The routes that ADD makes.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    To(IpAddr),
    Default(IpAddr),
}

fn routes_over(netlink: &mut Netlink, index: u32, of: IpAddr) -> Result<Vec<Route>, netlink::Error> {
    let answers = netlink.dump("list routes", &messages::routes_over(index, of))?;
    Ok(answers.iter().filter_map(|answer| route(answer, index)).collect())
}

fn route(answer: &RouteNetlinkMessage, index: u32) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    if !route.attributes.contains(&RouteAttribute::Oif(index)) {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let gateway = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    });
    match (route.header.destination_prefix_length, destination, gateway) {
        (0, _, Some(gateway)) => Some(Route::Default(gateway)),
        (length, Some(to), None) if length == messages::host_prefix(to) => Some(Route::To(to)),
        _ => None,
    }
}

fn addresses_on(netlink: &mut Netlink, index: u32) -> Result<Vec<IpAddr>, netlink::Error> {
    let message = RouteNetlinkMessage::GetAddress(messages::addresses_on(index));
    let answers = netlink.dump("list addresses in the pod", &message)?;
    let address = |answer: &RouteNetlinkMessage| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
            let with_prefix = |address: &IpAddr| message.header.prefix_len == messages::host_prefix(*address);
            message.attributes.iter().find_map(|attribute| match attribute {
                // IPv6 has no local address apart from the address.
                AddressAttribute::Address(address) => Some(*address).filter(with_prefix),
                _ => None,
            })
        }
        _ => None,
    };
    Ok(answers.iter().filter_map(address).collect())
}
