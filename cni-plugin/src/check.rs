//! CHECK: is everything as ADD made it?

use std::{net::IpAddr, path::Path};

use crate::{
    addresses::Addresses,
    answer::{Address, Answer, Link, Neighbour, Route},
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
    result, source_rules,
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
    if link.index != record.host_ifindex {
        damage.push(format!("{device} has the index {}, not {}", link.index, record.host_ifindex));
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
        if !routes.contains(&route_to(record.host_ifindex, *address)) {
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
    let index = link.index;
    let mut damage = link_damage(ifname, &link, record.pod_mac, record.mtu);
    let present = pod.netlink().dump("list addresses in the pod", &messages::addresses_on(index))?;
    let present: Vec<_> = present.iter().filter_map(Answer::address).collect();
    let neighbours = record.gateways.iter().map(|gateway| (*gateway, record.host_mac));
    damage.extend(neighbour_damage(pod.netlink(), ifname, index, neighbours)?);
    for (address, gateway) in record.addresses_and_gateways() {
        if !present.contains(&Address { link: index, address, prefix: messages::host_prefix(address) }) {
            damage.push(format!("{ifname} has no address {address}"));
        }
        let routes = routes_over(pod.netlink(), index, address)?;
        if !routes.contains(&route_to(index, gateway)) {
            damage.push(format!("the pod has no route to its gateway {gateway} over {}", record.ifname));
        }
        if !routes.contains(&Route { link: index, destination: None, prefix: 0, gateway: Some(gateway) }) {
            damage.push(format!("the pod has no default route via {gateway} over {}", record.ifname));
        }
    }
    damage.extend(source_rules::damage(pod.netlink(), record, index)?);
    Ok(damage)
}

fn link_damage(name: &str, link: &Link, mac: MacAddress, mtu: u32) -> Vec<String> {
    let mut damage = Vec::new();
    if !link.is_up {
        damage.push(format!("{name} is down"));
    }
    if let Some(found) = link.mtu.filter(|found| *found != mtu) {
        damage.push(format!("{name} has the MTU {found}, not {mtu}"));
    }
    if let Some(found) = link.mac.map(MacAddress).filter(|found| *found != mac) {
        damage.push(format!("{name} has the MAC address {found}, not {mac}"));
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
        let wanted = Neighbour { link: index, is_permanent: true, address, mac: Some(mac.0) };
        if !neighbours.iter().filter_map(Answer::neighbour).any(|neighbour| neighbour == wanted) {
            damage.push(format!("{name} has no permanent neighbour {address} with the MAC address {mac}"));
        }
    }
    Ok(damage)
}

fn routes_over(netlink: &mut Netlink, index: u32, of: IpAddr) -> Result<Vec<Route>, netlink::Error> {
    let answers = netlink.dump("list routes", &messages::routes_over(index, of, None))?;
    Ok(answers.iter().filter_map(Answer::route).collect())
}

/// A route to one address, directly over a link.
fn route_to(link: u32, address: IpAddr) -> Route {
    Route { link, destination: Some(address), prefix: messages::host_prefix(address), gateway: None }
}
