//! kube-proxy as a process of each node: Services of a network that is not ours.

use std::process::Child;

use anyhow::{Context, Result};

use crate::certificates::Authority;
use crate::node::Node;
use crate::plan::{self, API_PORT, Family};
use crate::{kubeconfig, tools};

/// Where its kubeconfig lies on a node.
const KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.conf";

/// Starts kube-proxy in its mode for nftables. It serves neither health nor metrics: a network's agent may have its ports.
pub(crate) fn start(node: &Node, family: Family, authority: &Authority) -> Result<Child> {
    let pair = authority.issue(&format!("kube-proxy-{}", node.name()), "system:kube-proxy", None, &[])?;
    let address = plan::control(family).first().context("a cluster has a family")?.address;
    let server = format!("https://{}:{API_PORT}", plan::url_host(address));
    kubeconfig::write(&node.file(KUBECONFIG), &server, authority.certificate(), &pair)?;
    let program = tools::path("kube-proxy")?;
    node.spawn(
        "kube-proxy",
        [
            program.to_string_lossy().as_ref(),
            "--proxy-mode=nftables",
            &format!("--kubeconfig={KUBECONFIG}"),
            &format!("--hostname-override={}", node.name()),
            &format!("--cluster-cidr={}", family.pod_ranges()),
            "--healthz-bind-address=",
            "--metrics-bind-address=",
            // Settings of the whole machine, which a node cannot change.
            "--conntrack-max-per-core=0",
        ],
    )
}
