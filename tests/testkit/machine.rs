//! What the owner of a cluster holds of a node: its namespace, its wiring and the processes that were started on it.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::certificates::Authority;
use crate::instance::Instance;
use crate::netns::{Namespace, View, veth};
use crate::node::Node;
use crate::plan::{self, API_PORT, Family, UNDERLAY_MTU};
use crate::{kubeconfig, kubelet};

/// The nodes' network device.
const DEVICE: &str = "eth0";

pub(crate) struct Machine {
    number: usize,
    node: Node,
    namespace: Namespace,
    children: Vec<Child>,
}

impl Machine {
    /// Wires a node to the bridge and starts containerd, with its images. Everything is there for kubelet to start.
    pub(crate) fn start(
        instance: &Arc<Instance>,
        control: &View,
        bridge: &str,
        family: Family,
        authority: &Authority,
        archives: &[PathBuf],
        number: usize,
    ) -> Result<Self> {
        let name = format!("node{number}");
        let namespace = Namespace::in_instance(instance, &name)?;
        wire(control, bridge, &namespace, family, number)?;
        let (node, init) = Node::start(instance, &name, &namespace)?;
        let mut machine = Self { number, node, namespace, children: vec![init] };
        machine.children.push(kubelet::start_containerd(&machine.node)?);
        for archive in archives {
            kubelet::import_image(&machine.node, archive)?;
        }
        machine.put_kubeconfig(family, authority)?;
        Ok(machine)
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

fn wire(control: &View, bridge: &str, namespace: &Namespace, family: Family, number: usize) -> Result<()> {
    let port = Path::new(namespace.name()).to_string_lossy();
    let port = port.rsplit_once('-').map_or(port.as_ref(), |(_, name)| name);
    veth((control, port), (namespace, DEVICE))?;
    control.run(["ip", "link", "set", port, "master", bridge])?;
    namespace.run(["ip", "link", "set", DEVICE, "mtu", &UNDERLAY_MTU.to_string()])?;
    for interface in plan::node(family, number) {
        namespace.add_address(DEVICE, &interface.to_string())?;
    }
    for gateway in plan::control(family) {
        namespace.run(["ip", "route", "add", "default", "via", &gateway.address.to_string()])?;
    }
    Ok(())
}
