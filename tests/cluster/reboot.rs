//! A node loses power and starts again, with its disk and without its memory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::{pod_namespace, wait};

use crate::Case;
use crate::agent::{agents, weft};
use crate::fixture::Fixture;
use crate::kubelet::{delete_pod, run_pod};
use crate::leavings::Leavings;
use crate::pods::each_way;
use crate::survival::maps;

pub(crate) const CASES: &[Case] =
    &[("the_pods_of_a_node_that_was_rebooted_come_back_and_nothing_of_the_old_ones", rebooted)];

const LIMIT: Duration = Duration::from_secs(90);
/// More Pods on the node, so that it comes back with fewer addresses than it had given away.
const GUESTS: [&str; 2] = ["guest-1", "guest-2"];

fn rebooted(fixture: &Fixture) -> Result<()> {
    let (name, before) = {
        let cluster = fixture.cluster()?;
        agents(&cluster)?;
        fixture.pods()?;
        let node = cluster.nodes().last().context("there are nodes")?.name().to_owned();
        for guest in GUESTS {
            run_pod(&cluster, guest, &node, &json!({}))?;
        }
        (node, Leavings::settled(&cluster)?)
    };
    fixture.change()?.reboot(&name)?;
    let cluster = fixture.cluster()?;
    wait::until(LIMIT, "the Pods of the rebooted node to come back", || back(&cluster, &name))?;
    agents(&cluster)?;
    wait::until(LIMIT, "the agents to be in sync", || in_sync(&cluster))?;
    only_what_lives(&cluster, &name)?;
    // What the other node knew of this one is true again, without having been written anew.
    Leavings::of(&cluster)?.check_same_except(&before, &name)?;
    for guest in GUESTS {
        delete_pod(&cluster, guest)?;
    }
    only_what_lives(&cluster, &name)
}

/// All Pods that the API server knows, with the addresses that it tells others.
fn all_pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let objects = cluster.get(["pods", "--namespace=default"])?;
    objects["items"].as_array().into_iter().flatten().map(Pod::from_object).collect()
}

/// Fails unless every Pod of the node is there, under the addresses that the API server knows, and reaches and is reached by all.
fn back(cluster: &Cluster, name: &str) -> Result<()> {
    let pods = all_pods(cluster)?;
    let node = cluster.node(name)?;
    for pod in pods.iter().filter(|pod| pod.node == name) {
        for address in &pod.addresses {
            pod_namespace::of_address(node, *address)?;
        }
    }
    for (from, to, address) in each_way(&pods).filter(|(from, to, _)| from.node == name || to.node == name) {
        let answer = cluster.exec(&from.name, echo::ask(address, "hostname"))?;
        ensure!(answer == to.name, "{address} answered {answer}, not {}", to.name);
    }
    Ok(())
}

fn in_sync(cluster: &Cluster) -> Result<()> {
    for agent in agents(cluster)? {
        let nodes = weft(cluster, &agent, "nodes")?;
        let nodes = nodes["nodes"].as_array().context("there is a list of nodes")?;
        ensure!(nodes.iter().all(|node| node["inSync"] == true), "not in sync: {nodes:?}");
    }
    Ok(())
}

/// Fails unless what the node holds for Pods is there for those that live, and for no other.
fn only_what_lives(cluster: &Cluster, name: &str) -> Result<()> {
    let node = cluster.node(name)?;
    wait::until(LIMIT, "the rebooted node to hold what its Pods need and nothing else", || {
        let pods: Vec<Pod> = all_pods(cluster)?.into_iter().filter(|pod| pod.node == name).collect();
        let living: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let entries: BTreeSet<IpAddr> = maps(node)?.endpoints()?.into_keys().collect();
        ensure!(entries == living, "Pods have {living:?}, the map holds {entries:?}");
        let parsed =
            |text: &str| text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<BTreeSet<IpAddr>>();
        let files = parsed(&node.run(["ls", "/run/weft/addresses"])?);
        ensure!(files == living, "Pods have {living:?}, the plugin has given away {files:?}");
        let routes = "(ip -4 route; ip -6 route) | grep ' dev weft[0-9a-f]\\{11\\} ' | cut -d' ' -f1";
        let routes = parsed(&node.run(["sh", "-c", routes])?);
        ensure!(routes == living, "Pods have {living:?}, there are routes for {routes:?}");
        let count = |command: &str| -> Result<usize> { Ok(node.run(["sh", "-c", command])?.lines().count()) };
        for command in [
            "ls /run/weft/attachments/*.json",
            "ip -o link | grep ' weft[0-9a-f]\\{11\\}@'",
            "ls /var/lib/cni/results/weft-*",
        ] {
            ensure!(count(command)? == pods.len(), "{} Pods, but `{command}` shows {}", pods.len(), count(command)?);
        }
        Ok(())
    })
}
