//! How the nodes of a cluster are connected: which devices and addresses a node has. Pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::plan::{self, Family, Interface};

/// MTU of the network that carries the nodes' InternalIPs.
const NODES_MTU: u32 = 1500;
/// MTU of the other one. Pods that got theirs from it would have a smaller one than the way between the nodes allows.
const OTHER_MTU: u32 = 1400;

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    /// One device with one address of each family, its InternalIPs.
    #[default]
    Plain,
    /// Two devices on two networks, with two addresses of each family on each. The kernel would choose none of the InternalIPs as
    /// a source, no default route leaves by their device, on every third node theirs is the second device, and IPv4's reverse
    /// path filter is strict, as some distributions have it.
    Twofold,
}

/// A network between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The one that carries the InternalIPs; the control plane is on it too.
    Nodes,
    /// Another one, which leads to the world.
    Other,
}

/// A network device of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: &'static str,
    /// What it is connected to.
    pub network: Network,
    /// Its addresses, in the order in which it gets them.
    pub addresses: Vec<Interface>,
    /// Whether the default routes leave by it.
    pub leads_to_world: bool,
}

impl Network {
    /// The bridge that it is, in the control plane's namespace.
    pub fn bridge(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Other => "other",
        }
    }

    /// The largest packet that it carries.
    pub fn mtu(self) -> u32 {
        match self {
            Self::Nodes => NODES_MTU,
            Self::Other => OTHER_MTU,
        }
    }

    /// The router's addresses on it.
    pub fn gateway(self, family: Family) -> Vec<Interface> {
        match self {
            Self::Nodes => plan::control(family),
            Self::Other => plan::other_gateway(family),
        }
    }
}

impl Wiring {
    /// The networks that there are.
    pub fn networks(self) -> &'static [Network] {
        match self {
            Self::Plain => &[Network::Nodes],
            Self::Twofold => &[Network::Nodes, Network::Other],
        }
    }

    /// The devices of the node with this number (from 1), in their order.
    pub fn devices(self, family: Family, number: usize) -> Vec<Device> {
        let internal_ips = plan::node(family, number);
        match self {
            Self::Plain => {
                vec![Device { name: "eth0", network: Network::Nodes, addresses: internal_ips, leads_to_world: true }]
            }
            Self::Twofold => {
                let (nodes, other) = if number.is_multiple_of(3) { ("eth1", "eth0") } else { ("eth0", "eth1") };
                let addresses = shadowed(internal_ips, plan::second(family, number));
                let nodes = Device { name: nodes, network: Network::Nodes, addresses, leads_to_world: false };
                let addresses = plan::other(family, number);
                let other = Device { name: other, network: Network::Other, addresses, leads_to_world: true };
                let mut devices = vec![nodes, other];
                devices.sort_by_key(|device| device.name);
                devices
            }
        }
    }

    /// Addresses with which what a node forwards to the world may leave.
    pub fn seen_by_world(self, family: Family, number: usize) -> Vec<IpAddr> {
        let devices = self.devices(family, number).into_iter().filter(|device| device.leads_to_world);
        devices.flat_map(|device| device.addresses).map(|interface| interface.address).collect()
    }
}

/// Orders two addresses of each family so that the kernel prefers the `preferred` ones as sources: of IPv4 addresses in one network
/// the first that a device gets, of IPv6 ones the last.
fn shadowed(hidden: Vec<Interface>, preferred: Vec<Interface>) -> Vec<Interface> {
    let pairs = hidden.into_iter().zip(preferred);
    pairs
        .flat_map(
            |(hidden, preferred)| {
                if hidden.address.is_ipv4() { [preferred, hidden] } else { [hidden, preferred] }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(device: &Device) -> Vec<String> {
        device.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_node_has_its_internal_ips_and_no_more() {
        let devices = Wiring::Plain.devices(Family::Dual, 2);
        assert_eq!(devices.len(), 1);
        assert_eq!(texts(&devices[0]), ["172.30.0.12/24", "fd30::c/64"]);
        assert_eq!(Wiring::Plain.seen_by_world(Family::Ipv4, 2), [IpAddr::from([172, 30, 0, 12])]);
    }

    #[test]
    fn a_twofold_node_has_two_devices_with_two_addresses_each() {
        let devices = Wiring::Twofold.devices(Family::Dual, 2);
        assert_eq!(devices.iter().map(|device| device.name).collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert_eq!(texts(&devices[0]), ["172.30.0.112/24", "172.30.0.12/24", "fd30::c/64", "fd30::70/64"]);
        assert_eq!(texts(&devices[1]), ["172.31.0.12/24", "172.31.0.112/24", "fd31::c/64", "fd31::70/64"]);
        assert!(!devices[0].leads_to_world && devices[1].leads_to_world);
    }

    #[test]
    fn on_every_third_twofold_node_the_internal_ips_are_on_the_second_device() {
        let second = |number| Wiring::Twofold.devices(Family::Dual, number)[1].network;
        assert_eq!([1, 2, 3, 4, 6].map(second), {
            use Network::{Nodes, Other};
            [Other, Other, Nodes, Other, Nodes]
        });
    }

    #[test]
    fn no_address_is_given_twice() {
        let mut all: Vec<IpAddr> =
            Network::Nodes.gateway(Family::Dual).iter().map(|interface| interface.address).collect();
        all.extend(Network::Other.gateway(Family::Dual).iter().map(|interface| interface.address));
        for number in 1..=plan::MOST_NODES {
            let devices = Wiring::Twofold.devices(Family::Dual, number);
            all.extend(devices.iter().flat_map(|device| &device.addresses).map(|interface| interface.address));
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
