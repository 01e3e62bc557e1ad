//! What is measured, where, and with whom.

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measurement {
    /// A TCP connection until it is there.
    Connect,
    /// A connection, one request, its answer and the end.
    Http,
    /// A socket, a question of the size of DNS, and its answer.
    Dns,
}

/// Where the backend is, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// On its node.
    SameNode,
    /// On another one.
    CrossNode,
}

/// Whose network and Services they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    Weft,
    /// kube-proxy in its mode for nftables, on Debian's ptp plugin and a route for each node.
    KubeProxy,
}

/// What a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    ClusterIp,
    /// The address of the Pod behind it.
    Pod,
}

/// What one turn gave, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

impl Measurement {
    pub(crate) const ALL: [Self; 3] = [Self::Connect, Self::Http, Self::Dns];

    /// Its name in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "TCP connect",
            Self::Http => "HTTP request",
            Self::Dns => "UDP question",
        }
    }
}

impl Place {
    pub(crate) const ALL: [Self; 2] = [Self::SameNode, Self::CrossNode];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::CrossNode => "cross node",
        }
    }
}

impl Peer {
    pub(crate) const ALL: [Self; 2] = [Self::Weft, Self::KubeProxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::KubeProxy => "kube-proxy nftables",
        }
    }

    /// The name of its network of Pods.
    pub(crate) fn network(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::KubeProxy => "ptp + routes",
        }
    }
}

impl Target {
    pub(crate) const ALL: [Self; 2] = [Self::ClusterIp, Self::Pod];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::Pod => "the Pod itself",
        }
    }
}
