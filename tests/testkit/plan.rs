//! The address plan of a test cluster: what the underlay, the nodes, the pods and the world are called. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// What names of Services and Pods end with.
pub const DOMAIN: &str = "cluster.local";
/// Port of the API server.
pub const API_PORT: u16 = 6443;
/// Nodes that the address plan has room for.
pub const MOST_NODES: usize = 100;
/// What is added to a node's number to get the last byte of its first and of its second address in a network.
const FIRST: u8 = 10;
const SECOND: u8 = 110;

/// Address families of a cluster: of its underlay, its pods and its services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl Family {
    /// Whether a cluster of this family has this address.
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
            Self::Dual => true,
        }
    }

    /// Those of a pair of texts, one a family, that a cluster of this family has.
    pub fn choose<'a>(self, v4: &'a str, v6: &'a str) -> Vec<&'a str> {
        match self {
            Self::Ipv4 => vec![v4],
            Self::Ipv6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }

    /// How many addresses a pod has.
    pub fn count(self) -> usize {
        self.choose("", "").len()
    }

    /// Ranges of all pods, as the controller manager takes them.
    pub fn pod_ranges(self) -> String {
        self.choose("10.42.0.0/16", "fd42::/56").join(",")
    }

    /// Ranges of Services.
    pub fn service_ranges(self) -> String {
        self.choose("10.43.0.0/16", "fd43::/112").join(",")
    }

    /// The first Service address of each family: the one of `kubernetes.default`.
    pub fn api_services(self) -> Vec<&'static str> {
        self.choose("10.43.0.1", "fd43::1")
    }

    /// Where programs of one machine meet.
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::Ipv4 | Self::Dual => Ipv4Addr::LOCALHOST.into(),
            Self::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// What a server binds to that shall be reached by every address.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::Ipv6 | Self::Dual => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Where cluster DNS is.
    pub fn dns_service(self) -> Vec<&'static str> {
        self.choose("10.43.0.10", "fd43::a")
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Dual => "dual",
        })
    }
}

impl FromStr for Family {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "dual" => Self::Dual,
            _ => bail!("`{text}` is no family; there are ipv4, ipv6 and dual"),
        })
    }
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network.
    pub length: u8,
}

impl Interface {
    /// Its network, as routes name it.
    pub fn network(&self) -> String {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        format!("{address}/{}", self.length)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// The control plane's addresses on the underlay's bridge; also the nodes' default gateways.
pub fn control(family: Family) -> Vec<Interface> {
    underlay(family, 1)
}

/// InternalIPs of the node with this number (from 1).
pub fn node(family: Family, number: usize) -> Vec<Interface> {
    underlay(family, FIRST + byte(number))
}

/// Addresses in the same network that a node has besides, where it has any.
pub fn second(family: Family, number: usize) -> Vec<Interface> {
    underlay(family, SECOND + byte(number))
}

/// The router's addresses on the second network, where there is one.
pub fn other_gateway(family: Family) -> Vec<Interface> {
    other_network(family, 1)
}

/// Both addresses of each family of a node in the second network.
pub fn other(family: Family, number: usize) -> Vec<Interface> {
    let pairs =
        other_network(family, FIRST + byte(number)).into_iter().zip(other_network(family, SECOND + byte(number)));
    pairs.flat_map(|(first, second)| [first, second]).collect()
}

fn underlay(family: Family, host: u8) -> Vec<Interface> {
    of(family, Ipv4Addr::new(172, 30, 0, host), 24, Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, u16::from(host)))
}

fn other_network(family: Family, host: u8) -> Vec<Interface> {
    of(family, Ipv4Addr::new(172, 31, 0, host), 24, Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, u16::from(host)))
}

fn byte(number: usize) -> u8 {
    // MOST_NODES keeps it, and what is added to it, in one byte.
    number as u8
}

/// The router's addresses towards the world.
pub fn world_gateway(family: Family) -> Vec<Interface> {
    world_network(family, 1)
}

/// Addresses of the host in the world: one that is not part of the cluster and knows nothing of pods.
pub fn world(family: Family) -> Vec<Interface> {
    world_network(family, 2)
}

fn world_network(family: Family, host: u8) -> Vec<Interface> {
    of(family, Ipv4Addr::new(198, 51, 100, host), 24, Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, u16::from(host)))
}

fn of(family: Family, v4: Ipv4Addr, length: u8, v6: Ipv6Addr) -> Vec<Interface> {
    let all = [Interface { address: v4.into(), length }, Interface { address: v6.into(), length: 64 }];
    all.into_iter().filter(|interface| family.has(interface.address)).collect()
}

/// A URL's host part: IPv6 addresses stand in brackets.
pub fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_chooses_its_addresses_in_order() {
        let texts = |family| node(family, 2).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(Family::Ipv4), ["172.30.0.12/24"]);
        assert_eq!(texts(Family::Ipv6), ["fd30::c/64"]);
        assert_eq!(texts(Family::Dual), ["172.30.0.12/24", "fd30::c/64"]);
        assert_eq!(node(Family::Dual, 2)[0].network(), "172.30.0.0/24");
        assert_eq!(node(Family::Dual, 2)[1].network(), "fd30::/64");
        assert_eq!(Family::Dual.pod_ranges(), "10.42.0.0/16,fd42::/56");
    }

    #[test]
    fn families_are_read_as_they_are_written() {
        for family in [Family::Ipv4, Family::Ipv6, Family::Dual] {
            assert_eq!(family.to_string().parse::<Family>().unwrap(), family);
        }
        assert!("both".parse::<Family>().is_err());
    }
}
