//! A Service object with only the fields that we use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use super::metadata;

/// `v1/Service`.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Service")]
pub struct ServiceObject {
    /// `metadata`.
    #[serde(deserialize_with = "metadata::slim")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: ServiceSpec,
    /// `status`.
    #[serde(default)]
    pub status: ServiceStatus,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`; absent: `ClusterIP`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// The first cluster IP, or `None`.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// All cluster IPs, the first one too.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// Addresses that somebody else leads to the nodes.
    #[serde(default, rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// Who may dial the load balancer's addresses.
    #[serde(default)]
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// Its ports.
    #[serde(default)]
    pub ports: Option<Vec<ServicePortObject>>,
    /// `Cluster` or `Local`.
    #[serde(default)]
    pub internal_traffic_policy: Option<String>,
    /// `Cluster` or `Local`.
    #[serde(default)]
    pub external_traffic_policy: Option<String>,
    /// `None` or `ClientIP`.
    #[serde(default)]
    pub session_affinity: Option<String>,
    /// What belongs to the affinity.
    #[serde(default)]
    pub session_affinity_config: Option<SessionAffinityConfig>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortObject {
    /// Absent where the only port has none.
    #[serde(default)]
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; absent: `TCP`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What clients dial.
    #[serde(default)]
    pub port: i64,
    /// The port of nodes; absent or 0: none.
    #[serde(default)]
    pub node_port: Option<i64>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    /// Of the affinity `ClientIP`.
    #[serde(default, rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds after the last new connection.
    #[serde(default)]
    pub timeout_seconds: Option<i64>,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// What the load balancer's controller wrote.
    #[serde(default)]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct LoadBalancerStatus {
    /// Its ways in.
    #[serde(default)]
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// A way into a load balancer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// Its address; absent where it has only a name.
    #[serde(default)]
    pub ip: Option<String>,
    /// `VIP` or `Proxy`; absent: `VIP`.
    #[serde(default)]
    pub ip_mode: Option<String>,
}
