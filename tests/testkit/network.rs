//! Whose Pod network a cluster has: ours, or one that is not ours, which proves the test bed and is a peer: Debian's ptp plugin, a
//! static route for every node, and kube-proxy.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::owned_cluster::OwnedCluster;
use crate::{kubelet, weft_image};

/// Whose Pod network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Debian's ptp plugin and static routes, and kube-proxy for Services.
    Ptp,
    /// Ours, installed by its manifests.
    Weft,
}

impl Network {
    /// Ours, unless `WEFT_TEST_NETWORK` says `ptp`.
    pub fn from_environment() -> Self {
        if env::var("WEFT_TEST_NETWORK").is_ok_and(|name| name == "ptp") { Self::Ptp } else { Self::Weft }
    }

    /// Archives of the images that its nodes need. Ours is that of the tree at `top`.
    pub fn images(self, top: &Path) -> Result<Vec<PathBuf>> {
        if self == Self::Ptp {
            return Ok(Vec::new());
        }
        let archive = weft_image::archive(top)?;
        ensure!(archive.exists(), "there is no image of weft: run `cargo xtask image`");
        Ok(vec![archive])
    }

    /// Gives the cluster, or a node that joined it, this network.
    pub fn install(self, cluster: &mut OwnedCluster, top: &Path) -> Result<()> {
        match self {
            Self::Ptp => install_ptp(cluster).and_then(|()| cluster.start_kube_proxy()),
            Self::Weft => {
                let manifests = top.join("manifests/base");
                let words = ["apply".as_ref(), "-k".as_ref(), manifests.as_os_str()];
                cluster.kubectl(words).map(drop).context("cannot install weft")
            }
        }
    }
}

/// Where Debian's containernetworking-plugins lie.
const PLUGINS: &str = "/usr/lib/cni";

/// A node's part of the Pod network.
struct Part<'a> {
    node: &'a Node,
    ranges: Vec<String>,
    addresses: Vec<String>,
}

impl Part<'_> {
    /// Each range with the node's address of its family.
    fn ways(&self) -> Result<Vec<(&str, &str)>> {
        let way = |range: &'_ String| -> Result<_> {
            let mut of_family = self.addresses.iter().filter(|address| address.contains(':') == range.contains(':'));
            of_family.next().map(String::as_str).context("a range has an address of its family")
        };
        self.ranges.iter().map(|range| Ok((range.as_str(), way(range)?))).collect()
    }
}

/// Gives a cluster a Pod network made of ptp, host-local and static routes.
pub fn install_ptp(cluster: &Cluster) -> Result<()> {
    let parts = parts(cluster)?;
    for part in &parts {
        for other in parts.iter().filter(|other| other.node.name() != part.node.name()) {
            for (range, address) in other.ways()? {
                part.node.run(["ip", "route", "replace", range, "via", address])?;
            }
        }
        install_plugins(part)?;
    }
    // Nobody gives what Pods send to the API server the address of their node.
    route_to_pods(cluster)
}

/// Lets the control plane reach Pods, as where the API server runs on a node of the cluster: it is a proxy to Pods for its clients.
pub fn route_to_pods(cluster: &Cluster) -> Result<()> {
    for part in parts(cluster)? {
        for (range, address) in part.ways()? {
            cluster.control().run(["ip", "route", "replace", range, "via", address])?;
        }
    }
    Ok(())
}

fn parts(cluster: &Cluster) -> Result<Vec<Part<'_>>> {
    let nodes = cluster.get(["nodes"])?;
    let mut parts = Vec::new();
    for object in nodes["items"].as_array().into_iter().flatten() {
        let name = object["metadata"]["name"].as_str().context("a node has a name")?;
        let addresses = object["status"]["addresses"].as_array().into_iter().flatten();
        let internal = addresses.filter(|address| address["type"] == "InternalIP").map(|address| &address["address"]);
        parts.push(Part {
            node: cluster.node(name)?,
            ranges: texts(object["spec"]["podCIDRs"].as_array().into_iter().flatten()),
            addresses: texts(internal),
        });
    }
    Ok(parts)
}

fn texts<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<String> {
    values.filter_map(Value::as_str).map(String::from).collect()
}

fn install_plugins(part: &Part<'_>) -> Result<()> {
    for plugin in ["ptp", "host-local", "loopback"] {
        let from = Path::new(PLUGINS).join(plugin);
        let to = part.node.file(&format!("/opt/cni/bin/{plugin}"));
        fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    let ranges: Vec<Value> = part.ranges.iter().map(|range| json!([{"subnet": range}])).collect();
    let any = |range: &String| if range.contains(':') { "::/0" } else { "0.0.0.0/0" };
    let routes: Vec<Value> = part.ranges.iter().map(|range| json!({"dst": any(range)})).collect();
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "ptp",
        "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}}],
    });
    kubelet::put(part.node, "/etc/cni/net.d/10-ptp.conflist", &format!("{list:#}\n"))
}
