//! A small application: a Pod on every node that answers who it is and who asks, and that can ask others. It can have a Service.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::images::AGNHOST;
use crate::plan::url_host;

/// TCP port of the Pods' HTTP server: `/hostname`, `/clientip`, `/echo?msg=...`.
pub const PORT: u16 = 8080;
/// UDP port that understands the same words, without the slash.
pub const UDP_PORT: u16 = 8081;
/// What selects the Pods.
pub const LABEL: &str = "app=echo";
/// The name of what makes the Pods, and of their Service: a host name in the Pods of its namespace.
pub const NAME: &str = "echo";

/// A Pod, as far as the network is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name, which is its host name too.
    pub name: String,
    /// The node that it runs on.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// Reads a Pod from its object.
    pub fn from_object(object: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(String::from);
        let addresses = object["status"]["podIPs"].as_array().into_iter().flatten();
        Ok(Self {
            name: text(&object["metadata"]["name"]).context("a Pod has a name")?,
            node: text(&object["spec"]["nodeName"]).context("the Pod has no node yet")?,
            addresses: addresses.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect(),
        })
    }
}

/// Creates the application as a DaemonSet and waits until a Pod is Ready on every node.
pub fn deploy(cluster: &Cluster) -> Result<Vec<Pod>> {
    cluster.apply(&daemon_set())?;
    pods(cluster)
}

/// Creates the application as a Deployment with a Service, which answers at port 80, and waits until a Pod is Ready on every node.
pub fn deploy_with_service(cluster: &Cluster) -> Result<Vec<Pod>> {
    cluster.apply(&json!([deployment(cluster.nodes().len()), service()]))?;
    pods(cluster)
}

/// Waits until a Pod of the application is Ready on every node. They come in the order of their nodes.
pub fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let objects = cluster.wait_for_pods("default", LABEL, cluster.nodes().len())?;
    let mut pods: Vec<Pod> = objects.iter().map(Pod::from_object).collect::<Result<_>>()?;
    pods.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(pods)
}

fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels()}, "template": {"metadata": {"labels": labels()}, "spec": pod()}},
    })
}

/// As many Pods as there are nodes, of which no two run on the same one.
fn deployment(nodes: usize) -> Value {
    let mut pod = pod();
    pod["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels()},
    }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "replicas": nodes,
            "selector": {"matchLabels": labels()},
            "template": {"metadata": {"labels": labels()}, "spec": pod},
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "selector": labels(),
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": "http", "port": 80, "targetPort": PORT},
                {"name": "udp", "port": 80, "targetPort": UDP_PORT, "protocol": "UDP"},
            ],
        },
    })
}

fn labels() -> Value {
    json!({"app": "echo"})
}

fn pod() -> Value {
    json!({"terminationGracePeriodSeconds": 0, "containers": [container()]})
}

/// The container of its Pods. They are Ready when the server answers.
pub fn container() -> Value {
    json!({
        "name": "echo",
        "image": AGNHOST,
        "imagePullPolicy": "Never",
        "args": ["netexec", format!("--http-port={PORT}"), format!("--udp-port={UDP_PORT}")],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1},
    })
}

/// The words of a curl command that asks the server at an address.
pub fn ask(address: IpAddr, path: &str) -> Vec<String> {
    let url = format!("http://{}:{PORT}/{path}", url_host(address));
    ["curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "10"]
        .map(String::from)
        .into_iter()
        .chain([url])
        .collect()
}
