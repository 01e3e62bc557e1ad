//! `/run/weft/node.json`: what the plugin must know of its node. The agent writes it, whole, by rename.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// File name below the state directory.
pub const FILE: &str = "node.json";

/// What the agent tells the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// `weft_common::layout::LAYOUT_VERSION` of the agent that wrote the file.
    pub layout: u32,
    /// `/proc/sys/kernel/random/boot_id`: facts of an earlier boot do not count.
    pub boot_id: String,
    /// The Node object's name.
    pub node: String,
    /// The node's podCIDRs, at most one of each family; pods get an address of each.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// The first address of each podCIDR, in the same order: an address of the overlay device, the pods' gateway.
    pub gateways: Vec<IpAddr>,
    /// MTU of pod interfaces, in bytes.
    pub mtu: u32,
}
