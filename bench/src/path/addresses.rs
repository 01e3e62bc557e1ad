//! The address plan. All beds use the same one, because none sees another.

use anyhow::{Result, bail};
use ipnetwork::IpNetwork;
use weft_tests::plan::Family;

/// Addresses of one family, of the underlay and of pods.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Addresses {
    V4,
    V6,
}

impl Addresses {
    pub(crate) fn of(family: Family) -> Result<Self> {
        match family {
            Family::Ipv4 => Ok(Self::V4),
            Family::Ipv6 => Ok(Self::V6),
            Family::Dual => bail!("a path is of one family: choose --family ipv4 or --family ipv6"),
        }
    }

    /// Its name in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// A host on the underlay, with the length of its network.
    pub(crate) fn host(self, number: usize) -> IpNetwork {
        self.parse(&format!("192.0.2.{number}/24"), &format!("2001:db8::{number}/64"))
    }

    /// A host on a network in a tunnel.
    pub(crate) fn inner_host(self, number: usize) -> IpNetwork {
        self.parse(&format!("198.18.0.{number}/24"), &format!("2001:db8:18::{number}/64"))
    }

    /// The podCIDR of a node.
    pub(crate) fn pod_cidr(self, number: usize) -> IpNetwork {
        self.parse(&format!("10.244.{number}.0/24"), &format!("fd00:10:244:{number}::/64"))
    }

    /// The range of all pods.
    pub(crate) fn pods(self) -> &'static str {
        match self {
            Self::V4 => "10.244.0.0/16",
            Self::V6 => "fd00:10:244::/48",
        }
    }

    /// Bytes that a VXLAN tunnel adds to an IP packet.
    pub(crate) fn overhead(self) -> u32 {
        match self {
            Self::V4 => weft_common::layout::OVERHEAD_IPV4,
            Self::V6 => weft_common::layout::OVERHEAD_IPV6,
        }
    }

    /// Multicast addresses.
    pub(crate) fn multicast(self) -> &'static str {
        match self {
            Self::V4 => "224.0.0.0/4",
            Self::V6 => "ff00::/8",
        }
    }

    /// What nftables calls the family.
    pub(crate) fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Sends on what is for others.
    pub(crate) fn forwarding(self) -> &'static str {
        match self {
            Self::V4 => "ipv4/ip_forward",
            Self::V6 => "ipv6/conf/all/forwarding",
        }
    }

    fn parse(self, v4: &str, v6: &str) -> IpNetwork {
        let text = match self {
            Self::V4 => v4,
            Self::V6 => v6,
        };
        text.parse().expect("the plan's own texts are networks")
    }
}
