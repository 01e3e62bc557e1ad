//! `weft status`: healthy or not, and why.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_common::services::SOCKETS_OF_HOST_ONLY;

use super::{Drop, PeerReport, ProgramsStatus, Source};
use crate::datapath::socket_links::SocketLinks;
use crate::model::problem::Problem;
use crate::overlay::state::Underlay;
use crate::overlay::way::{FastPath, UnderlayDevice};
use crate::services::snapshot::Counts;
use crate::services::state::ServiceState;

/// `weft status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Who answered.
    pub source: Source,
    /// Nothing keeps this node's pods from talking to others.
    pub healthy: bool,
    /// Why it is not healthy: empty if, and only if, it is.
    pub reasons: Vec<Problem>,
    /// What else is wrong, with other nodes or single pods.
    pub problems: Vec<Problem>,
    /// The Node's name.
    pub node: String,
    /// Version of who answered.
    pub version: String,
    /// The API server; absent without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<ApiServerStatus>,
    /// The kernel.
    pub kernel: KernelStatus,
    /// Version of the layout of everything pinned.
    pub layout: u32,
    /// This node's podCIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// This node's InternalIPs, or what is known of them.
    #[serde(rename = "internalIPs")]
    pub internal_ips: Vec<IpAddr>,
    /// The device below the overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Underlay>,
    /// The devices below the overlay, and whether packets of peers are taken there before `weft0` sees them.
    #[serde(default)]
    pub underlay_devices: Vec<UnderlayDevice>,
    /// Which way packets take to each peer, and why.
    #[serde(default)]
    pub peers: Vec<PeerReport>,
    /// MTU of pods, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_mtu_bytes: Option<u32>,
    /// Seconds since everything was last in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_age_seconds: Option<f64>,
    /// Services on this node; absent where even the maps cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServicesStatus>,
    /// The programs, and what a packet costs in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<ProgramsStatus>,
    /// Counters of what our programs dropped or refused, without those that are zero.
    pub drops: Vec<Drop>,
}

/// The API server, as the agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServerStatus {
    /// Its address.
    pub address: String,
    /// Who told the agent that address.
    pub source: String,
    /// The last request was answered.
    pub connected: bool,
    /// What the last request that failed ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Seconds since the API server was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_age_seconds: Option<f64>,
    /// Seconds since the nodes were last listed whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_age_seconds: Option<f64>,
}

/// Services on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesStatus {
    /// Whose sockets get their backends when they dial; absent where nobody has told the programs yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<SocketsMode>,
    /// How many programs for sockets are attached to the root of the node's control groups.
    pub socket_programs_attached: usize,
    /// How many there should be.
    pub socket_programs_wanted: usize,
    /// Those that are not attached, and why.
    pub socket_programs_missing: Vec<String>,
    /// Services that weft serves; absent without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<usize>,
    /// Their ports, once for each family.
    pub ports: usize,
    /// Addresses and ports that clients may dial, and one for each cluster IP that refuses the rest.
    pub frontends: usize,
    /// Backends of all ports.
    pub backends: usize,
    /// Seconds since everything was last in the maps; absent before that, and without an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_age_seconds: Option<f64>,
    /// For how many seconds a change has waited to be in the maps; absent: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_seconds: Option<f64>,
}

/// Whose sockets get their backends when they dial a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SocketsMode {
    /// Everybody's.
    All,
    /// Those of the host's network namespace; packets of pods are translated on their way.
    Host,
}

impl SocketsMode {
    /// What flags of SERVICES_CONFIG say.
    pub const fn of(flags: u32) -> Self {
        if flags & SOCKETS_OF_HOST_ONLY == 0 { Self::All } else { Self::Host }
    }
}

impl ServicesStatus {
    /// What the pinned links tell, of numbers that the caller knows.
    pub fn new(sockets: Option<SocketsMode>, links: &SocketLinks, counts: Counts) -> Self {
        let missing = |(name, why): &(&str, String)| format!("{name}: {why}");
        Self {
            sockets,
            socket_programs_attached: links.wanted - links.missing.len(),
            socket_programs_wanted: links.wanted,
            socket_programs_missing: links.missing.iter().map(missing).collect(),
            services: Some(counts.services),
            ports: counts.ports,
            frontends: counts.frontends,
            backends: counts.backends,
            sync_age_seconds: None,
            pending_seconds: None,
        }
    }

    /// What maps and pinned links tell. The maps know ports, not Services.
    pub fn of_maps(state: &ServiceState, links: &SocketLinks) -> Self {
        let backends = state.services.values().map(|service| service.cluster.count as usize).sum();
        let (ports, frontends) = (state.services.len(), state.frontends.len());
        let counts = Counts { services: 0, ports, frontends, backends };
        let sockets = state.config.as_ref().map(|config| SocketsMode::of(config.flags));
        Self { services: None, ..Self::new(sockets, links, counts) }
    }
}

/// The kernel of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// `uname -r`.
    pub release: String,
    /// What weft would like and this kernel lacks, with the next step.
    pub missing: Vec<String>,
    /// Whether packets could go past `weft0` here; absent where nobody has tried: the setting says no, or the agent does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast_path: Option<FastPathSupport>,
}

/// Whether the kernel has what packets past `weft0` need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FastPathSupport {
    /// It has.
    pub supported: bool,
    /// What it lacks, with the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

impl FastPathSupport {
    /// What was found at the agent's start.
    pub fn of(fast_path: &FastPath) -> Option<Self> {
        match fast_path {
            FastPath::Allowed => Some(Self { supported: true, lacks: None }),
            FastPath::Unsupported(lacking) => Some(Self { supported: false, lacks: Some(lacking.clone()) }),
            FastPath::SwitchedOff => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_carry_their_units() {
        let status = ApiServerStatus {
            address: "https://192.0.2.1:6443".to_owned(),
            source: "--api-server".to_owned(),
            connected: false,
            last_error: Some("refused".to_owned()),
            sync_age_seconds: Some(1.5),
            list_age_seconds: None,
        };
        let json = serde_json::to_value(status).unwrap();
        assert_eq!((json["syncAgeSeconds"].as_f64(), json["lastError"].as_str()), (Some(1.5), Some("refused")));
    }
}
