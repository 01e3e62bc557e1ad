//! What runs on a node: containerd and kubelet, with their configurations.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::node::Node;
use crate::plan::{Family, Interface};
use crate::{images, tools, wait};

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const LIMIT: Duration = Duration::from_secs(60);

/// Where kubeadm puts the kubelet's kubeconfig, and so do we: the agent finds the API server in it.
pub(crate) const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// The certificate of the cluster's authority, for the clients of the kubelet.
pub(crate) const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";

/// Starts containerd and waits until it takes calls.
pub(crate) fn start_containerd(node: &Node) -> Result<Child> {
    let config = format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
# Without CAP_SYS_RESOURCE a score cannot be lowered, and runc would give up.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        pause = images::PAUSE
    );
    put(node, "/etc/containerd/config.toml", &config)?;
    for folder in ["/etc/cni/net.d", "/opt/cni/bin"] {
        make_folder(node, folder)?;
    }
    let child = node.spawn("containerd", ["containerd", "--config", "/etc/containerd/config.toml"])?;
    let socket = node.file(CONTAINERD_SOCKET);
    wait::until(LIMIT, "containerd to take calls", || Ok(UnixStream::connect(&socket).map(drop)?))
        .with_context(|| format!("on {}", node.name()))?;
    Ok(child)
}

/// Imports the archive of an image.
pub(crate) fn import_image(node: &Node, archive: &Path) -> Result<()> {
    let archive = archive.to_string_lossy();
    node.run(["ctr", "--namespace", "k8s.io", "images", "import", archive.as_ref()]).map(drop)
}

/// Starts kubelet. Its kubeconfig must be there.
pub(crate) fn start_kubelet(node: &Node, family: Family, addresses: &[Interface]) -> Result<Child> {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": AUTHORITY}, "anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": family.dns_service(),
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        // Machines of this kind have control groups of both versions.
        "failCgroupV1": false,
        "failSwapOn": false,
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
