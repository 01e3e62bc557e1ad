//! A cluster of a given size as the API server writes it: every field that a real object of the kind has, also those that the agent passes
//! over.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) services: u32,
    /// Of each Service.
    pub(crate) endpoints: u32,
    pub(crate) nodes: u32,
    /// Endpoints of one Service more, in slices of a hundred; 0 for none.
    pub(crate) large: u32,
}

/// The namespace of all Services.
pub(crate) const NAMESPACE: &str = "benchmark";
/// The name of the port of all Services.
pub(crate) const PORT_NAME: &str = "http";
/// The port that clients dial.
pub(crate) const PORT: u16 = 80;
/// The range of the Services' addresses.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/12";
/// Endpoints a slice, as the controller fills them.
const SLICE: u32 = 100;

impl Size {
    /// Endpoints of all Services.
    pub(crate) const fn all_endpoints(&self) -> u32 {
        self.services * self.endpoints + self.large
    }

    /// Services, the large one included.
    pub(crate) const fn all_services(&self) -> u32 {
        self.services + if self.large > 0 { 1 } else { 0 }
    }

    /// How many endpoints a Service has; the one behind the last of the others is the large one.
    pub(crate) const fn endpoints_of(&self, service: u32) -> u32 {
        if service < self.services { self.endpoints } else { self.large }
    }

    /// How many slices a Service has.
    pub(crate) const fn slices_of(&self, service: u32) -> u32 {
        self.endpoints_of(service).div_ceil(SLICE)
    }

    /// The address of a Service's endpoint: pods are dealt out to the nodes in turn.
    fn endpoint(&self, service: u32, index: u32) -> (Ipv4Addr, u32) {
        let number = service.min(self.services) * self.endpoints + index;
        let (node, place) = (number % self.nodes, number / self.nodes);
        (Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 2).to_bits() + node * 256 + place), node)
    }
}

/// The name of a Service.
pub(crate) fn service_name(number: u32) -> String {
    format!("application-{number:05}")
}

/// The name of a Node.
pub(crate) fn node_name(number: u32) -> String {
    format!("ip-172-16-{}-{}.eu-west-1.compute.internal", number / 256, number % 256)
}

/// The address of a Service.
pub(crate) fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 10).to_bits() + number)
}

/// The InternalIP of a Node.
pub(crate) fn node_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 16).to_bits() + number)
}

fn uid(number: u32) -> String {
    format!("0b1f8d3e-5a74-4c19-9d02-{number:012x}")
}

fn managed(manager: &str, fields: &Value) -> Value {
    json!([{
        "manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-11-02T09:14:51Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    }])
}

pub(crate) fn node(number: u32, version: u64) -> Value {
    let name = node_name(number);
    let pod_cidr = format!("{}/24", Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number * 256));
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "kubelet is posting ready status",
            "lastHeartbeatTime": "2026-11-23T08:00:00Z", "lastTransitionTime": "2026-11-02T09:14:51Z",
        })
    };
    let image = |n: u32| {
        json!({
            "names": [format!("registry.example.org/platform/image-{n}@sha256:{n:064x}"), format!("registry.example.org/platform/image-{n}:v1.{n}.0")],
            "sizeBytes": 40_000_000 + n,
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name, "uid": uid(number), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-11-02T09:14:51Z",
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/region": "eu-west-1", "topology.kubernetes.io/zone": format!("eu-west-1{}", ["a", "b", "c"][number as usize % 3]),
                "node.kubernetes.io/instance-type": "m7.2xlarge",
            },
            "annotations": {"node.alpha.kubernetes.io/ttl": "300", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "managedFields": managed("kubelet", &json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}}}, "f:images": {}}})),
        },
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr], "providerID": format!("aws:///eu-west-1a/i-{number:017x}")},
        "status": {
            "capacity": {"cpu": "8", "memory": "32386516Ki", "pods": "110"},
            "allocatable": {"cpu": "7910m", "memory": "31369684Ki", "pods": "110"},
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "addresses": [{"type": "InternalIP", "address": node_address(number)}, {"type": "Hostname", "address": name}],
            "images": (0..30).map(image).collect::<Vec<_>>(),
            "nodeInfo": {"kernelVersion": "6.18.0", "osImage": "Debian GNU/Linux 13", "kubeletVersion": "v1.36.0", "containerRuntimeVersion": "containerd://2.2.0"},
        },
    })
}

pub(crate) fn service(number: u32, version: u64) -> Value {
    let name = service_name(number);
    let ip = cluster_ip(number);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": uid(number), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-11-02T09:14:51Z",
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": NAMESPACE},
            "managedFields": managed("helm", &json!({"f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/name": {}}}, "f:spec": {"f:ports": {}, "f:selector": {}, "f:type": {}}})),
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": PORT_NAME, "protocol": "TCP", "port": PORT, "targetPort": "web"}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// Slice `index` of a Service. Only with `all` its first endpoint is ready; and `triggered` is when the change happened.
pub(crate) fn slice(size: &Size, number: u32, index: u32, all: bool, version: u64, triggered: &str) -> Value {
    let service = service_name(number);
    let range = index * SLICE..size.endpoints_of(number).min((index + 1) * SLICE);
    let endpoints = range.map(|place| {
        let (address, node) = size.endpoint(number, place);
        let is_ready = all || place % SLICE > 0;
        json!({
            "addresses": [address],
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
            "nodeName": node_name(node), "zone": format!("eu-west-1{}", ["a", "b", "c"][node as usize % 3]),
            "targetRef": {
                "kind": "Pod", "namespace": NAMESPACE, "name": format!("{service}-6f7c9d8b5d-{place:05x}"), "uid": uid(number * 1000 + place),
            },
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(number, index), "generateName": format!("{service}-"), "namespace": NAMESPACE, "uid": uid(number),
            "resourceVersion": version.to_string(), "generation": 3, "creationTimestamp": "2026-11-02T09:14:51Z",
            "labels": {
                "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "app.kubernetes.io/name": service, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/managed-by": "Helm",
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": triggered},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service, "uid": uid(number), "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": managed("kube-controller-manager", &json!({"f:addressType": {}, "f:endpoints": {}, "f:metadata": {"f:annotations": {}, "f:labels": {}}, "f:ports": {}})),
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": PORT_NAME, "port": 8080, "protocol": "TCP"}],
    })
}

pub(crate) fn slice_name(number: u32, index: u32) -> String {
    format!("{}-{index:05}", service_name(number))
}

pub(crate) fn service_cidr(version: u64) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "uid": uid(0), "resourceVersion": version.to_string(), "creationTimestamp": "2026-11-02T09:00:00Z"},
        "spec": {"cidrs": [SERVICE_CIDR]},
    })
}
