//! What is compared, and where.

use serde::{Deserialize, Serialize};

/// Where the two ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// On one node.
    SameNode,
    /// On two nodes.
    CrossNode,
}

/// A way to connect two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// Pods of weft, as it is installed.
    Weft,
    /// Pods of weft with the fast path off.
    WeftByDevice,
    /// Two namespaces and a veth pair: the least that a pod can have.
    VethPair,
    /// Pods of Debian's bridge plugin with host-local.
    Bridge,
    /// Two hosts and a veth pair: what the others' tunnels lie on.
    Underlay,
    /// Two hosts on the kernel's VXLAN, without pods.
    KernelVxlan,
    /// Pods on a bridge behind a VXLAN device with static entries, and conntrack: what flannel makes.
    FlannelLike,
}

/// A peer in a place.
pub(crate) type Line = (Place, Peer);

/// All lines, in the order of the tables.
pub(crate) const LINES: [Line; 8] = [
    (Place::SameNode, Peer::Weft),
    (Place::SameNode, Peer::VethPair),
    (Place::SameNode, Peer::Bridge),
    (Place::CrossNode, Peer::Weft),
    (Place::CrossNode, Peer::WeftByDevice),
    (Place::CrossNode, Peer::Underlay),
    (Place::CrossNode, Peer::KernelVxlan),
    (Place::CrossNode, Peer::FlannelLike),
];

impl Place {
    pub(crate) const ALL: [Self; 2] = [Self::SameNode, Self::CrossNode];

    /// Its name in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::CrossNode => "cross node",
        }
    }

    /// What the others are compared with here.
    pub(crate) fn references(self) -> &'static [Peer] {
        match self {
            Self::SameNode => &[Peer::VethPair],
            Self::CrossNode => &[Peer::Underlay, Peer::KernelVxlan, Peer::FlannelLike],
        }
    }
}

impl Peer {
    /// Its name in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::WeftByDevice => "weft, by the device",
            Self::VethPair => "bare veth pair",
            Self::Bridge => "bridge + host-local",
            Self::Underlay => "underlay, host to host",
            Self::KernelVxlan => "kernel VXLAN, host to host",
            Self::FlannelLike => "flannel-like",
        }
    }

    /// Its name where there is little room.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Underlay => "underlay",
            Self::KernelVxlan => "kernel VXLAN",
            Self::VethPair => "veth pair",
            other => other.name(),
        }
    }
}
