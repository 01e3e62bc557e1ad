//! Two nodes of weft: programs and maps as the agent loads them, the node's state as the agent brings it, pods as the plugin wires them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::runtime::Builder;
use weft_agent::datapath::kernel::LinuxKernel;
use weft_agent::datapath::maps::Maps;
use weft_agent::datapath::{object::OBJECT, programs};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::overlay::pod_devices::StateDirectory;
use weft_agent::overlay::reconcile::Reconciler;
use weft_agent::overlay::way::FastPath;
use weft_common::layout::OVERLAY_DEVICE;
use weft_tests::netns::Namespace;

use super::addresses::Addresses;
use super::beds;
use super::measurement::Ends;
use crate::plugins::{self, Plugin};

/// Passes after which nothing may be left to do.
const PASSES: usize = 5;

/// Two nodes with two pods on the first and one on the second.
pub(crate) struct WeftNodes {
    pub(crate) same_node: Ends,
    pub(crate) cross_node: Ends,
    /// Where the programs of each node are pinned.
    pub(crate) pins: [PathBuf; 2],
    nodes: [Namespace; 2],
    fast: bool,
    _pods: Vec<Namespace>,
}

impl WeftNodes {
    /// Makes them below `folder`, with the fast path on or off. Programs and maps are pinned below `bpffs`.
    pub(crate) fn new(addresses: Addresses, fast: bool, weft: &Path, folder: &Path, bpffs: &Path) -> Result<Self> {
        let name = if fast { "weft" } else { "weft-by-device" };
        let nodes = beds::hosts(addresses)?;
        let pins = [1, 2].map(|number| bpffs.join(format!("{name}-{number}")));
        let mut pods = Vec::new();
        let mut addresses_of_pods = Vec::new();
        for (number, node) in (1..).zip(&nodes) {
            let (state, pins) = (folder.join(format!("{name}-{number}")), &pins[number - 1]);
            programs::load(pins, OBJECT)?;
            let pass = || converge(addresses, number, fast, &state, pins);
            let mtu = node.enter(pass)?.with_context(|| format!("cannot make node {number} of {name}"))?;
            plugins::write_facts(&state, &node_name(number), &[addresses.pod_cidr(number)], mtu)?;
            let plugin = Plugin::weft(weft, &state, pins);
            for id in ["one", "two"].iter().take(3 - number) {
                let pod = Namespace::new(&format!("{name}-pod"))?;
                addresses_of_pods.push(plugin.add(node, &pod, id)?);
                pods.push(pod);
            }
        }
        let ends = |server: usize| Ends {
            client: pods[0].clone(),
            server: pods[server].clone(),
            address: addresses_of_pods[server],
        };
        Ok(Self { same_node: ends(1), cross_node: ends(2), pins, nodes, fast, _pods: pods })
    }

    /// Packets that the nodes' VXLAN devices sent so far.
    pub(crate) fn by_device(&self) -> Result<u64> {
        self.nodes.iter().try_fold(0, |sum, node| {
            let text = node.run(["ip", "-j", "-s", "link", "show", OVERLAY_DEVICE])?;
            let links: Value = serde_json::from_str(&text)?;
            let sent = links[0]["stats64"]["tx"]["packets"].as_u64().context("the device counts no packets")?;
            Ok(sum + sent)
        })
    }

    /// Fails where packets went another way than this bed is for. `before` is what [`Self::by_device`] gave before they went.
    pub(crate) fn check_way(&self, before: u64, packets: u64) -> Result<()> {
        let sent = self.by_device()? - before;
        match self.fast {
            // The kernel's own neighbour messages go by the device, whatever pods do.
            true => ensure!(
                sent < packets / 100 + 10,
                "{sent} of {packets} packets left the fast path for {OVERLAY_DEVICE}"
            ),
            false => ensure!(sent >= packets, "only {sent} of {packets} packets went by {OVERLAY_DEVICE}"),
        }
        Ok(())
    }
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// Brings the state of a node, in whose namespace this must run, to where it belongs. Gives the pods' MTU.
fn converge(addresses: Addresses, number: usize, fast: bool, state: &Path, pins: &Path) -> Result<u32> {
    let node = |number| Node {
        name: node_name(number),
        internal_ips: vec![addresses.host(number).ip()],
        pod_cidrs: vec![addresses.pod_cidr(number)],
        ..Node::default()
    };
    let nodes = BTreeMap::from([1, 2].map(|number| (node_name(number), node(number))));
    let cluster = Cluster { nodes, problems: Vec::new(), ..Cluster::default() };
    std::fs::create_dir_all(state)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let fast_path = if fast { FastPath::Allowed } else { FastPath::SwitchedOff };
    runtime.block_on(async {
        // No agent follows the routes here, and nobody changes them.
        Maps::open(pins)?.lease_fast_path(Duration::MAX)?;
        let kernel = LinuxKernel::open(pins, Path::new("/proc/sys"))?;
        let mut agent = Reconciler::new(&kernel, StateDirectory(state.to_owned()), node_name(number), fast_path);
        for _ in 0..PASSES {
            let pass = agent.pass(&cluster).await;
            let comparison = match pass.comparison {
                Ok(comparison) => comparison,
                Err(blocked) => bail!("{:?}", blocked.reasons),
            };
            ensure!(pass.failures.is_empty(), "{:?}", pass.failures);
            if pass.applied.is_empty() {
                let device = comparison.desired.device.as_ref();
                return device.map(|device| device.mtu).context("the agent wants no device");
            }
        }
        bail!("after {PASSES} passes there is still something to do")
    })
}
