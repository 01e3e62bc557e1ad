//! The record of an attachment: what ADD made for one interface of one pod, kept until DEL.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::mac_address::MacAddress;

/// What names an attachment: the runtime's container ID and the interface's name inside the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`: the sandbox's id at the runtime.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface inside the pod, nearly always `eth0`.
    pub ifname: String,
}

impl std::fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "container {} interface {}", self.container_id, self.ifname)
    }
}

/// One interface of one pod, as ADD made it. Stored as `<state directory>/attachments/<containerID>@<ifname>.json`.
///
/// It holds all that the answer of a repeated ADD, CHECK and DEL need, so that they do not depend on what the agent says of
/// the node by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Name of the CNI network that it belongs to. GC looks at its own network's attachments only.
    pub network: String,
    /// Path of the pod's network namespace at the time of ADD.
    pub netns: PathBuf,
    /// Name of the host side of the veth.
    pub host_device: String,
    /// Index of the host side of the veth.
    pub host_ifindex: u32,
    /// Ethernet address of the pod side.
    pub pod_mac: MacAddress,
    /// Ethernet address of the host side: the pod sends everything to it.
    pub host_mac: MacAddress,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The pod's gateways, one for each of `addresses`, in the same order.
    pub gateways: Vec<IpAddr>,
    /// MTU of both sides, in bytes.
    pub mtu: u32,
    /// The routing table of a pod's second, third ... interface, and that there are rules for its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// `K8S_POD_NAMESPACE` of `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME` of `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// `K8S_POD_UID` of `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

impl Attachment {
    /// What names it.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// Each address with its gateway.
    pub fn addresses_and_gateways(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.addresses.iter().copied().zip(self.gateways.iter().copied())
    }
}
