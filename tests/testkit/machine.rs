//! What the owner of a cluster holds of a node: its namespace, its wiring and the processes that were started on it.

use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::certificates::Authority;
use crate::containerd::Containerd;
use crate::instance::Instance;
use crate::netns::{Namespace, View};
use crate::node::Node;
use crate::plan::{self, API_PORT, Family};
use crate::wiring::Wiring;
use crate::{kube_proxy, kubeconfig, kubelet, underlay};

/// What the nodes of a cluster have in common.
pub(crate) struct Site<'a> {
    pub(crate) control: &'a View,
    pub(crate) family: Family,
    pub(crate) wiring: Wiring,
    pub(crate) authority: &'a Authority,
    /// Archives of images that every node gets.
    pub(crate) archives: &'a [PathBuf],
}

pub(crate) struct Machine {
    number: usize,
    node: Node,
    namespace: Namespace,
    children: Vec<Child>,
    has_kube_proxy: bool,
}

impl Machine {
    /// Connects a node to its networks and starts containerd, with its images. Everything is there for kubelet to start.
    pub(crate) fn start(
        instance: &Arc<Instance>,
        site: &Site<'_>,
        number: usize,
        containerd: Containerd,
    ) -> Result<Self> {
        let machine = Self::power_on(instance, site, number, containerd)?;
        for archive in site.archives {
            containerd.import_image(&machine.node, archive)?;
        }
        machine.put_kubeconfig(site.family, site.authority)?;
        Ok(machine)
    }

    /// Connects a node to its networks and starts containerd, with what is on the node's disk.
    pub(crate) fn power_on(
        instance: &Arc<Instance>,
        site: &Site<'_>,
        number: usize,
        containerd: Containerd,
    ) -> Result<Self> {
        let name = format!("node{number}");
        let namespace = Namespace::in_instance(instance, &name)?;
        underlay::wire_node(site.control, &namespace, &name, site.family, site.wiring, number)?;
        let (node, init) = Node::start(instance, &name, &namespace)?;
        let mut machine = Self { number, node, namespace, children: vec![init], has_kube_proxy: false };
        machine.children.push(containerd.start(&machine.node)?);
        Ok(machine)
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Starts kubelet; the API server should be ready.
    pub(crate) fn start_kubelet(&mut self, family: Family) -> Result<()> {
        let addresses = plan::node(family, self.number);
        self.children.push(kubelet::start_kubelet(&self.node, family, &addresses)?);
        Ok(())
    }

    /// Starts kube-proxy unless it was started before; the API server should be ready.
    pub(crate) fn start_kube_proxy(&mut self, family: Family, authority: &Authority) -> Result<()> {
        if !self.has_kube_proxy {
            self.children.push(kube_proxy::start(&self.node, family, authority)?);
            self.has_kube_proxy = true;
        }
        Ok(())
    }

    /// Ends the node at once.
    pub(crate) fn end(mut self) -> Result<()> {
        self.node.end(&self.namespace.path())?;
        for child in &mut self.children {
            child.wait().context("cannot collect a process of a node")?;
        }
        Ok(())
    }

    fn put_kubeconfig(&self, family: Family, authority: &Authority) -> Result<()> {
        let name = self.node.name();
        let pair = authority.issue(name, &format!("system:node:{name}"), Some("system:nodes"), &[])?;
        let server = format!("https://{}:{API_PORT}", plan::url_host(plan::control(family)[0].address));
        kubelet::make_folder(&self.node, folder_of(kubelet::KUBECONFIG))?;
        kubeconfig::write(&self.node.file(kubelet::KUBECONFIG), &server, authority.certificate(), &pair)?;
        let certificate =
            std::fs::read_to_string(authority.certificate()).context("cannot read the authority's certificate")?;
        kubelet::put(&self.node, kubelet::AUTHORITY, &certificate)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Whoever drops a machine has ended it before; a process that still runs is not waited for.
            let _ = child.try_wait();
        }
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(folder, _)| folder)
}
