//! Traffic in every direction that must not notice what is done to the parts around it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use weft_agent::datapath::maps::Maps;
use weft_common::layout::PIN_DIRECTORY;
use weft_common::reason::DropReason;
use weft_tests::cluster::Cluster;
use weft_tests::echo::Pod;
use weft_tests::netns::View;
use weft_tests::node::Node;
use weft_tests::traffic::{Traffic, Way};
use weft_tests::{plan, pod_namespace};

use crate::fixture::Fixture;
use crate::kubelet::{delete_pod, run_pod};

/// How often each flow sends.
const PERIOD: Duration = Duration::from_millis(10);
/// How long the traffic is measured with nothing done to it.
const QUIET: Duration = Duration::from_secs(1);
/// A second Pod on the first node, so that there is traffic within it.
const NEIGHBOUR: &str = "neighbour";

/// Lets streams and packets flow between Pods of one node and of two, from nodes to Pods and from Pods to the world, while
/// something is done. Not a packet is lost, not a stream is reset, nothing is dropped by our programs or by a device.
pub(crate) fn undisturbed<T>(fixture: &Fixture, disturb: impl FnOnce(&Cluster) -> Result<T>) -> Result<T> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let near = pods.first().context("there are Pods")?;
    let neighbour = run_pod(&cluster, NEIGHBOUR, &near.node, &serde_json::json!({}))?;
    let measured = measure(&cluster, &pods, &neighbour, disturb);
    delete_pod(&cluster, NEIGHBOUR)?;
    measured
}

fn measure<T>(
    cluster: &Cluster,
    pods: &[Pod],
    neighbour: &Pod,
    disturb: impl FnOnce(&Cluster) -> Result<T>,
) -> Result<T> {
    let ways = ways(cluster, pods, neighbour)?;
    // What is lost with nothing going on would be lost by the machine or by the test.
    let quiet = Traffic::start(&ways, PERIOD)?;
    std::thread::sleep(QUIET);
    quiet.stop().whole().context("while nothing was done")?;

    let before = lost_by_nodes(cluster)?;
    let traffic = Traffic::start(&ways, PERIOD)?;
    let disturbed = disturb(cluster);
    let report = traffic.stop();
    let done = disturbed?;
    let sent = report.whole()?;
    let after = lost_by_nodes(cluster)?;
    ensure!(before == after, "something was dropped: {before:?} is now {after:?}");
    eprintln!("traffic: {sent} packets and blocks came back, the longest pause was {:.0?}", report.longest_pause());
    Ok(done)
}

/// Every kind of way that a packet can take.
fn ways(cluster: &Cluster, pods: &[Pod], neighbour: &Pod) -> Result<Vec<Way>> {
    let [one, two, ..] = pods else { bail!("there are two Pods") };
    let namespace = |pod: &Pod| -> Result<View> {
        let address = pod.addresses.first().context("a Pod has an address")?;
        pod_namespace::of_address(cluster.node(&pod.node)?, *address)
    };
    let node = |pod: &Pod| pod_namespace::of_node(cluster, cluster.node(&pod.node)?);
    let (first, second, third) = (namespace(one)?, namespace(two)?, namespace(neighbour)?);
    let world: Vec<IpAddr> = plan::world(cluster.family()).iter().map(|interface| interface.address).collect();
    let ends = [
        ("Pod to Pod on one node", third, first.clone(), &one.addresses),
        ("Pod to Pod on the second node", first.clone(), second.clone(), &two.addresses),
        ("Pod to Pod on the first node", second.clone(), first.clone(), &one.addresses),
        ("Pod to the world", first.clone(), cluster.world()?, &world),
        ("node to its own Pod", node(one)?, first, &one.addresses),
        ("node to a Pod of the other", node(one)?, second, &two.addresses),
    ];
    let ways = ends.iter().flat_map(|(name, from, to, addresses)| {
        addresses.iter().map(|address| Way {
            name: (*name).to_owned(),
            from: from.clone(),
            to: to.clone(),
            address: *address,
        })
    });
    Ok(ways.collect())
}

/// Packets that our programs dropped, and that devices dropped or found broken, by node and place.
fn lost_by_nodes(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut lost = BTreeMap::new();
    for node in cluster.nodes() {
        for (program, reason, count) in maps(node)?.drops()? {
            // Pods greet their routers and neighbours now and then.
            if reason != DropReason::LinkLocalIgnored {
                lost.insert(format!("{} {} {}", node.name(), program.name(), reason.name()), count);
            }
        }
        let namespace = pod_namespace::of_node(cluster, node)?;
        let devices = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        for line in devices.context("cannot read the counters of devices")?.lines() {
            let Some((device, numbers)) = line.split_once(':') else { continue };
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            // Errors and drops of what was received, then of what was sent.
            let sum = [2, 3, 10, 11].iter().filter_map(|place| numbers.get(*place)).sum();
            lost.insert(format!("{} {}", node.name(), device.trim()), sum);
        }
    }
    Ok(lost)
}

/// The pinned maps of a node.
pub(crate) fn maps(node: &Node) -> Result<Maps> {
    let pins = node.file(PIN_DIRECTORY);
    Maps::open(Path::new(&pins)).with_context(|| format!("on {}", node.name()))
}
