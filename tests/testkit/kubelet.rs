//! kubelet on a node, with its configuration.

use std::fs;
use std::process::Child;

use anyhow::{Context, Result};
use serde_json::json;

use crate::node::Node;
use crate::plan::{DOMAIN, Family, Interface};
use crate::{containerd, tools};

/// Where kubeadm puts the kubelet's kubeconfig, and so do we: the agent finds the API server in it.
pub(crate) const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// The certificate of the cluster's authority, for the clients of the kubelet.
pub(crate) const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";

/// Starts kubelet. Its kubeconfig must be there.
pub(crate) fn start_kubelet(node: &Node, family: Family, addresses: &[Interface]) -> Result<Child> {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": AUTHORITY}, "anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": family.dns_service(),
        "clusterDomain": DOMAIN,
        // Of the machine's own names and servers Pods hear nothing.
        "resolvConf": "",
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        // Machines of this kind have control groups of both versions.
        "failCgroupV1": false,
        "failSwapOn": false,
        "healthzBindAddress": family.loopback(),
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": false,
        "registerNode": true,
        // The disk is the host's: how full it is says nothing about the node.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMinimumGCAge": "24h",
        // Tests kill processes often, and must not wait for five minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    });
    put(node, "/var/lib/kubelet/config.json", &format!("{config:#}\n"))?;
    let addresses: Vec<String> = addresses.iter().map(|interface| interface.address.to_string()).collect();
    let kubelet = tools::path("kubelet")?;
    node.spawn(
        "kubelet",
        [
            kubelet.to_string_lossy().as_ref(),
            "--config=/var/lib/kubelet/config.json",
            &format!("--kubeconfig={KUBECONFIG}"),
            &format!("--hostname-override={}", node.name()),
            &format!("--node-ip={}", addresses.join(",")),
        ],
    )
}

/// Writes a file on a node.
pub(crate) fn put(node: &Node, path: &str, text: &str) -> Result<()> {
    if let Some((folder, _)) = path.rsplit_once('/') {
        make_folder(node, folder)?;
    }
    let file = node.file(path);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

pub(crate) fn make_folder(node: &Node, path: &str) -> Result<()> {
    let folder = node.file(path);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))
}
