//! Which way the packets between Pods of different nodes take on a real cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use weft_common::layout::OVERLAY_DEVICE;
use weft_tests::cluster::Cluster;
use weft_tests::echo::Pod;
use weft_tests::netns::View;
use weft_tests::pod_namespace;
use weft_tests::traffic::{Traffic, Way};
use weft_tests::wait;

use crate::Case;
use crate::fixture::Fixture;

pub(crate) const CASES: &[Case] = &[("pods_of_two_nodes_talk_past_the_vxlan_device", past_the_device)];

/// How often each flow sends, and for how long.
const PERIOD: Duration = Duration::from_millis(5);
const SPAN: Duration = Duration::from_secs(1);
/// What agents have until they have looked at the routes of a node that has just come.
const LIMIT: Duration = Duration::from_secs(10);

/// Packets that the VXLAN devices of all nodes carried. Those of the fast path never meet them.
fn carried(cluster: &Cluster) -> Result<u64> {
    let mut packets = 0;
    for node in cluster.nodes() {
        let links: serde_json::Value =
            serde_json::from_str(&node.run(["ip", "-j", "-s", "link", "show", OVERLAY_DEVICE])?)?;
        for direction in ["rx", "tx"] {
            let counter = &links[0]["stats64"][direction]["packets"];
            packets += counter.as_u64().with_context(|| format!("{OVERLAY_DEVICE} of {}: {links}", node.name()))?;
        }
    }
    Ok(packets)
}

fn past_the_device(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let [one, two, ..] = pods.as_slice() else { bail!("there are two Pods") };
    let namespace = |pod: &Pod| -> Result<View> {
        let address = pod.addresses.first().context("a Pod has an address")?;
        pod_namespace::of_address(cluster.node(&pod.node)?, *address)
    };
    let ends = [(namespace(one)?, namespace(two)?, two), (namespace(two)?, namespace(one)?, one)];
    let ways: Vec<Way> = ends
        .iter()
        .flat_map(|(from, to, pod)| {
            let name = format!("to {} of {}", pod.name, pod.node);
            pod.addresses.iter().map(move |address| Way {
                name: name.clone(),
                from: from.clone(),
                to: to.clone(),
                address: *address,
            })
        })
        .collect();
    wait::until(LIMIT, "Pods to talk past the VXLAN device", || {
        let before = carried(&cluster)?;
        let traffic = Traffic::start(&ways, PERIOD)?;
        std::thread::sleep(SPAN);
        let sent = traffic.stop().whole()?;
        let carried = carried(&cluster)? - before;
        // A node's own processes may talk to Pods of the other meanwhile; each packet here would be seen at both ends, and back.
        ensure!(carried * 10 < sent, "of {sent} packets and blocks, {OVERLAY_DEVICE} carried {carried}");
        Ok(())
    })
}
