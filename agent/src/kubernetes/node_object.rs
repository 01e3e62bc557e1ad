//! A Node object with only the fields that we use: the list of images alone is most of a real one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use super::metadata;

/// `v1/Node`.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Node")]
pub struct NodeObject {
    /// `metadata`.
    #[serde(deserialize_with = "metadata::slim")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: NodeSpec,
    /// `status`.
    #[serde(default)]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The first podCIDR, where only the old field is set.
    #[serde(default, rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// All podCIDRs.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    /// Taints.
    #[serde(default)]
    pub taints: Option<Vec<Taint>>,
}

/// A taint of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Taint {
    /// Its key.
    #[serde(default)]
    pub key: String,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Addresses of all types.
    #[serde(default)]
    pub addresses: Option<Vec<NodeAddress>>,
    /// Conditions.
    #[serde(default)]
    pub conditions: Option<Vec<NodeCondition>>,
}

/// One address of a Node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` and more.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address as text.
    pub address: String,
}

/// One condition of a Node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeCondition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// For people.
    #[serde(default)]
    pub message: Option<String>,
}
