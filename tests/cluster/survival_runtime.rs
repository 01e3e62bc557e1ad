//! What runs Pods is killed: kubelet, containerd, and the process that holds a Pod's namespaces. Other Pods' traffic does not
//! notice, and what was on its way comes up.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::echo::{self, Pod};
use weft_tests::node::Node;
use weft_tests::{pod_namespace, wait};

use crate::Case;
use crate::fixture::Fixture;
use crate::kubelet::{delete_pod, run_pod};
use crate::leavings::Leavings;
use crate::restart::{Killed, kill};
use crate::survival::{maps, undisturbed};

pub(crate) const CASES: &[Case] = &[
    ("killing_kubelet_and_containerd_stops_no_traffic_and_no_new_pod", runtime_killed),
    ("killing_a_pods_pause_process_frees_its_address_and_the_pod_returns_with_another", pause_killed),
];

const LIMIT: Duration = Duration::from_secs(90);

fn runtime_killed(fixture: &Fixture) -> Result<()> {
    undisturbed(fixture, |cluster| {
        let (before, began) = (Leavings::settled(cluster)?, Instant::now());
        for (round, programs) in [&["kubelet"][..], &["containerd"], &["containerd", "kubelet"]].iter().enumerate() {
            for node in cluster.nodes() {
                let killed = programs.iter().map(|program| kill(node, program)).collect::<Result<Vec<_>>>()?;
                // The Pod is wanted while nobody can make it.
                let name = format!("meanwhile-{round}-{}", node.name());
                let pod = std::thread::scope(|scope| {
                    let pod = scope.spawn(|| run_pod(cluster, &name, node.name(), &when_it_answers()));
                    killed.into_iter().try_for_each(Killed::start)?;
                    pod.join().map_err(|_| anyhow!("the thread that made a Pod panicked"))?
                })?;
                all_nodes_reach(cluster, &pod)?;
                delete_pod(cluster, &name)?;
            }
        }
        cluster.wait_for_nodes()?;
        eprintln!("survival: kubelet and containerd were killed in {:.1?}", began.elapsed());
        wait::until(LIMIT, "everything to be as it was", || Leavings::of(cluster)?.check_same_as(&before))
    })
}

/// A Pod with this is Ready when its server is, not as soon as the process runs.
fn when_it_answers() -> Value {
    json!({"readinessProbe": {"httpGet": {"path": "/hostname", "port": echo::PORT}, "periodSeconds": 1}})
}

fn all_nodes_reach(cluster: &Cluster, pod: &Pod) -> Result<()> {
    for node in cluster.nodes() {
        for address in &pod.addresses {
            let answer = node.run(echo::ask(*address, "hostname"))?;
            ensure!(answer == pod.name, "{address} answered {answer}, not {}", pod.name);
        }
    }
    Ok(())
}

const VICTIM: &str = "victim";

fn pause_killed(fixture: &Fixture) -> Result<()> {
    undisturbed(fixture, |cluster| {
        let before = Leavings::settled(cluster)?;
        let node = cluster.nodes().last().context("there are nodes")?;
        let mut pod = run_pod(cluster, VICTIM, node.name(), &when_it_answers())?;
        for _ in 0..2 {
            kill_pause(node, &pod)?;
            pod = returned(cluster, &pod)?;
            all_nodes_reach(cluster, &pod)?;
        }
        delete_pod(cluster, VICTIM)?;
        wait::until(LIMIT, "everything to be as it was", || Leavings::of(cluster)?.check_same_as(&before))
    })
}

/// Kills the process that holds the namespaces of a Pod.
fn kill_pause(node: &Node, pod: &Pod) -> Result<()> {
    let address = pod.addresses.first().context("the Pod has an address")?;
    let namespace = pod_namespace::of_address(node, *address)?;
    let inode = namespace.file().metadata().context("a namespace has an inode")?.ino();
    let found = format!(
        "for p in $(pgrep --exact busybox); do [ \"$(readlink /proc/$p/ns/net)\" = 'net:[{inode}]' ] && echo $p; done; true"
    );
    let pids = node.run(["sh", "-c", &found])?;
    let pids: Vec<&str> = pids.split_whitespace().collect();
    let [pid] = pids.as_slice() else { bail!("one process should hold the Pod's namespaces: {pids:?}") };
    node.run(["kill", "-KILL", pid]).map(drop)
}

/// Waits until a Pod is back with other addresses, and nothing stands for the old ones.
fn returned(cluster: &Cluster, earlier: &Pod) -> Result<Pod> {
    let node = cluster.node(&earlier.node)?;
    let is_old = |address: &IpAddr| earlier.addresses.contains(address);
    let pod = wait::until(LIMIT, "the Pod to come back", || {
        let objects = cluster.wait_for_pods("default", &format!("name={}", earlier.name), 1)?;
        let pod = Pod::from_object(objects.first().context("the Pod is there")?)?;
        ensure!(!pod.addresses.is_empty() && !pod.addresses.iter().any(is_old), "it has {:?}", pod.addresses);
        Ok(pod)
    })?;
    wait::until(LIMIT, "the old addresses to be free", || {
        let entries = maps(node)?.endpoints()?;
        ensure!(!entries.keys().any(is_old), "the map holds {:?}", entries.keys());
        let files = node.run(["ls", "/run/weft/addresses"])?;
        let routes = node.run(["ip", "-4", "route"])? + &node.run(["ip", "-6", "route"])?;
        for address in earlier.addresses.iter().map(ToString::to_string) {
            ensure!(!files.lines().any(|name| name == address), "{address} is allocated");
            ensure!(!routes.split_whitespace().any(|word| word == address), "{address} has a route:\n{routes}");
        }
        Ok(())
    })?;
    Ok(pod)
}
