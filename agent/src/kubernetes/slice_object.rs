//! An EndpointSlice object with only the fields that we use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use super::metadata;

/// `discovery.k8s.io/v1/EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::discovery::v1::EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub struct SliceObject {
    /// `metadata`.
    #[serde(deserialize_with = "metadata::slim")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// Endpoints.
    #[serde(default)]
    pub endpoints: Option<Vec<EndpointObject>>,
    /// Ports of all of them.
    #[serde(default)]
    pub ports: Option<Vec<EndpointPort>>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EndpointPort {
    /// The name of the Service's port; absent: empty.
    #[serde(default)]
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; absent: `TCP`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Absent: all ports, which means nothing to a Service.
    #[serde(default)]
    pub port: Option<i64>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointObject {
    /// Addresses, of which only the first means something.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// How it is doing.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// The node that it is on.
    #[serde(default)]
    pub node_name: Option<String>,
    /// What it stands for.
    #[serde(default)]
    pub target_ref: Option<TargetReference>,
    /// For whom it is.
    #[serde(default)]
    pub hints: Option<EndpointHints>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EndpointConditions {
    /// Absent: true.
    #[serde(default)]
    pub ready: Option<bool>,
    /// Absent: true.
    #[serde(default)]
    pub serving: Option<bool>,
    /// Absent: false.
    #[serde(default)]
    pub terminating: Option<bool>,
}

/// `targetRef` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TargetReference {
    /// Its kind, nearly always Pod.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHints {
    /// Zones whose clients should take it.
    #[serde(default)]
    pub for_zones: Option<Vec<Hint>>,
    /// Nodes whose clients should take it.
    #[serde(default)]
    pub for_nodes: Option<Vec<Hint>>,
}

/// A zone or a node of a hint.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Hint {
    /// Its name.
    #[serde(default)]
    pub name: String,
}
