//! A node with the real agent as a process, beside the API server's host.

use std::fs;
use std::path::Path;

use anyhow::Result;
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::{Namespace, veth};

use crate::agent::Agent;
use crate::objects::{node_address, node_name};

/// Where the API server listens.
pub(crate) const SERVER: &str = "172.16.255.254";

/// The node, and the API server's host.
pub(crate) struct Node {
    // First, so that it ends before its node does.
    pub(crate) agent: Agent,
    pub(crate) hub: Namespace,
    _namespace: Namespace,
    _group: ControlGroup,
}

impl Node {
    /// A node whose agent is not running yet.
    pub(crate) fn new(programs: &Path, folder: &Path, bpffs: &Path) -> Result<Self> {
        let (hub, namespace) = (Namespace::new("hub")?, Namespace::new("node")?);
        veth((&namespace, "eth0"), (&hub, "eth0"))?;
        hub.add_address("eth0", &format!("{SERVER}/16"))?;
        namespace.add_address("eth0", &format!("{}/16", node_address(0)))?;
        let (pins, folder, group) = (bpffs.join("node"), folder.join("node"), ControlGroup::new("node")?);
        fs::create_dir(&folder)?;
        let server = format!("http://{SERVER}:8080");
        let agent = Agent::new(node_name(0), server, (programs, &folder, &pins), &namespace, &group);
        Ok(Self { agent, hub, _namespace: namespace, _group: group })
    }
}
