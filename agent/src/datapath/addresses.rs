//! Addresses of devices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use libc::{EADDRNOTAVAIL, EEXIST};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::requests::{NetlinkError, Requests, unless};

/// An address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceAddress {
    pub(super) device: u32,
    pub(super) address: IpNetwork,
}

/// All addresses of the namespace.
pub(super) async fn list(requests: &Requests) -> Result<Vec<DeviceAddress>, NetlinkError> {
    let answers = requests.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => device_address(message),
            _ => None,
        })
        .collect())
}

/// The addresses of a device that count: those with a host prefix, without link-local ones, which the kernel makes by itself.
///
/// An address that also has a shorter prefix is left out, so that it is seen as missing and [`add`] repairs it.
pub(super) fn of_overlay(list: &[DeviceAddress], device: u32) -> BTreeSet<IpAddr> {
    let on_device = || list.iter().filter(|entry| entry.device == device).map(|entry| entry.address);
    on_device()
        .filter(|address| is_host(*address) && !is_link_local(address.ip()))
        .filter(|address| on_device().filter(|other| other.ip() == address.ip()).count() == 1)
        .map(|address| address.ip())
        .collect()
}

/// Adds an address with a host prefix. The same address with another prefix is taken away.
pub(super) async fn add(requests: &Requests, device: u32, address: IpAddr) -> Result<(), NetlinkError> {
    for entry in list(requests).await? {
        if entry.device == device && entry.address.ip() == address && !is_host(entry.address) {
            delete(requests, device, entry.address).await?;
        }
    }
    let message = RouteNetlinkMessage::NewAddress(message(device, IpNetwork::from(address)));
    unless(EEXIST, requests.change(message, NLM_F_CREATE | NLM_F_EXCL).await)
}

/// Takes an address from a device, with whatever prefix it has.
pub(super) async fn remove(requests: &Requests, device: u32, address: IpAddr) -> Result<(), NetlinkError> {
    for entry in list(requests).await? {
        if entry.device == device && entry.address.ip() == address {
            delete(requests, device, entry.address).await?;
        }
    }
    Ok(())
}

async fn delete(requests: &Requests, device: u32, address: IpNetwork) -> Result<(), NetlinkError> {
    let message = RouteNetlinkMessage::DelAddress(message(device, address));
    unless(EADDRNOTAVAIL, requests.change(message, 0).await)
}

fn is_host(address: IpNetwork) -> bool {
    address.prefix() == IpNetwork::from(address.ip()).prefix()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn device_address(message: &AddressMessage) -> Option<DeviceAddress> {
    // With a peer, IFA_LOCAL is the device's address and IFA_ADDRESS the other side's. IPv6 has IFA_LOCAL only then.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let address = IpNetwork::new(address, message.header.prefix_len).ok()?;
    Some(DeviceAddress { device: message.header.index, address })
}

fn message(device: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.prefix_len = address.prefix();
    message.attributes.push(AddressAttribute::Address(address.ip()));
    message.attributes.push(AddressAttribute::Local(address.ip()));
    match address {
        IpNetwork::V4(_) => message.header.family = AddressFamily::Inet,
        IpNetwork::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // Nobody else is on weft0. Without this flag the address is not usable at once, and a route that prefers it is refused.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(device: u32, address: &str) -> DeviceAddress {
        DeviceAddress { device, address: address.parse().unwrap() }
    }

    #[test]
    fn only_host_prefixes_of_the_device_count() {
        let list = [
            on(7, "10.244.1.1/32"),
            on(7, "fd00::1/128"),
            on(7, "fe80::1/64"),
            on(7, "10.9.9.9/24"),
            on(8, "10.244.1.2/32"),
        ];
        let expected: BTreeSet<IpAddr> = ["10.244.1.1", "fd00::1"].map(|text| text.parse().unwrap()).into();
        assert_eq!(of_overlay(&list, 7), expected);
    }

    #[test]
    fn an_address_that_also_has_a_shorter_prefix_is_missing() {
        let list = [on(7, "10.244.1.1/32"), on(7, "10.244.1.1/24")];
        assert!(of_overlay(&list, 7).is_empty());
    }
}
