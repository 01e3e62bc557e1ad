//! A ServiceCIDR object with only the fields that we use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use super::metadata;

/// `networking.k8s.io/v1/ServiceCIDR`.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::networking::v1::ServiceCIDR")]
pub struct ServiceCidrObject {
    /// `metadata`.
    #[serde(deserialize_with = "metadata::slim")]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: ServiceCidrSpec,
}

/// `spec` of a ServiceCIDR.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServiceCidrSpec {
    /// One range, or one of each family.
    #[serde(default)]
    pub cidrs: Option<Vec<String>>,
}
