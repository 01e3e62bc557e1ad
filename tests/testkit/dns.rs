//! Cluster DNS as clusters run it: CoreDNS in a Deployment, found at the address that every kubelet tells its Pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::images::COREDNS;
use crate::plan::{DOMAIN, Family};
use crate::wait;

/// Where it lives.
const NAMESPACE: &str = "kube-system";
/// What selects its Pods, for its Service and for the conformance suite.
const LABEL: &str = "k8s-app=kube-dns";
/// How many Pods answer.
const PODS: usize = 2;
/// Seconds for which an answer may be used again. Tests look for names that were just given.
const SECONDS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(90);

/// Creates CoreDNS and its Service. The nodes must have its image, [`images::coredns`](crate::images::coredns).
pub fn deploy(cluster: &Cluster) -> Result<()> {
    let mut objects = rights();
    objects.extend([configuration(), deployment(), service(cluster.family())]);
    cluster.apply(&Value::Array(objects)).context("cannot create cluster DNS")
}

/// Waits until all Pods of CoreDNS are Ready: they have heard of every Service and answer. They learn of Services through the
/// Service `kubernetes`, so that this one works by then.
pub fn wait(cluster: &Cluster) -> Result<()> {
    cluster.wait_for_pods(NAMESPACE, LABEL, PODS)?;
    wait::until(LIMIT, "endpoints of cluster DNS", || {
        let slices = cluster.get([
            "endpointslices",
            "--namespace",
            NAMESPACE,
            "--selector",
            "kubernetes.io/service-name=kube-dns",
        ])?;
        let slices = slices["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array()).flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
        let wanted = PODS * cluster.family().count();
        ensure!(ready >= wanted, "{ready} of {wanted} endpoints are ready");
        Ok(())
    })
}

/// Removes CoreDNS and its Service, and waits until its Pods have gone.
pub fn remove(cluster: &Cluster) -> Result<()> {
    cluster.kubectl([
        "delete",
        "service,deployment",
        "--namespace",
        NAMESPACE,
        "kube-dns",
        "coredns",
        "--ignore-not-found",
    ])?;
    cluster
        .kubectl(["wait", "--for=delete", "pods", "--namespace", NAMESPACE, "--selector", LABEL, "--timeout=60s"])
        .map(drop)
}

/// Nothing lies beyond the cluster's own names: whatever is no name of the cluster does not exist.
fn configuration() -> Value {
    let lines = format!(
        "{DOMAIN}:53 in-addr.arpa:53 ip6.arpa:53 {{
    errors
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        ttl {SECONDS}
    }}
    cache {SECONDS}
    loadbalance
}}
.:53 {{
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"
    );
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "coredns", "namespace": NAMESPACE},
        "data": {"Corefile": lines},
    })
}

fn rights() -> Vec<Value> {
    let watch = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]});
    let role = "system:coredns";
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": NAMESPACE}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role},
            "rules": [watch("", &["services", "pods", "namespaces"]), watch("discovery.k8s.io", &["endpointslices"])],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}],
        }),
    ]
}

fn deployment() -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "coredns",
                    "dnsPolicy": "Default",
                    "priorityClassName": "system-cluster-critical",
                    "topologySpreadConstraints": [{
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": labels},
                    }],
                    "volumes": [{"name": "configuration", "configMap": {"name": "coredns"}}],
                    "containers": [{
                        "name": "coredns",
                        "image": COREDNS,
                        "imagePullPolicy": "Never",
                        "args": ["-conf", "/etc/coredns/Corefile"],
                        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/coredns", "readOnly": true}],
                        "ports": [
                            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                        ],
                        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 30},
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                            "readOnlyRootFilesystem": true,
                        },
                    }],
                },
            },
        },
    })
}

fn service(family: Family) -> Value {
    let addresses = family.dns_service();
    let policy = if family.count() == 1 { "SingleStack" } else { "RequireDualStack" };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "selector": {"k8s-app": "kube-dns"},
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilyPolicy": policy,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}
