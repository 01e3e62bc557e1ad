//! Pods come and go by the hundred while the agents are killed and replaced: nothing is left behind.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::echo::Pod;
use weft_tests::images::PAUSE;
use weft_tests::wait;

use crate::Case;
use crate::agent::agents;
use crate::fixture::Fixture;
use crate::leavings::Leavings;
use crate::survival_agent::agent_process;

pub(crate) const CASES: &[Case] =
    &[("two_hundred_pods_come_and_go_while_agents_are_killed_and_nothing_is_left", come_and_go)];

/// Pods are made in waves; the next one begins while the last one still goes.
const WAVES: usize = 5;
const PODS_A_WAVE: usize = 40;
/// Wait between two kills of an agent.
const KILL_EVERY: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(90);

fn come_and_go(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    agents(&cluster)?;
    let (before, began) = (Leavings::settled(&cluster)?, Instant::now());
    let ended = AtomicBool::new(false);
    let (churned, killed) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_until(&cluster, &ended));
        let churned = churn(&cluster);
        ended.store(true, Ordering::Relaxed);
        (churned, killer.join())
    });
    churned?;
    let kills = killed.map_err(|_| anyhow!("the killer panicked"))??;
    agents(&cluster)?;
    eprintln!("churn: {} Pods and {kills} kills in {:.1?}", WAVES * PODS_A_WAVE, began.elapsed());
    ensure!(kills > 2 * WAVES, "only {kills} agents were killed");
    // Kubelet may still be about the last Pods.
    wait::until(LIMIT, "everything to be as it was", || Leavings::of(&cluster)?.check_same_as(&before))
}

/// Kills the agents of all nodes now and then. Gives the number of those that it killed.
fn kill_until(cluster: &Cluster, ended: &AtomicBool) -> Result<usize> {
    let mut kills = 0;
    while !ended.load(Ordering::Relaxed) {
        for node in cluster.nodes() {
            // Kubelet may be about to start it.
            if let Ok(pid) = agent_process(node) {
                kills += usize::from(node.run(["kill", "-KILL", &pid]).is_ok());
            }
        }
        std::thread::sleep(KILL_EVERY);
    }
    Ok(kills)
}

fn churn(cluster: &Cluster) -> Result<()> {
    for wave in 0..WAVES {
        let pods = cluster.nodes().iter().cycle().zip(0..PODS_A_WAVE);
        let pods: Vec<Value> = pods.map(|(node, number)| pod(wave, number, node.name())).collect();
        cluster.apply(&Value::Array(pods))?;
        if wave == WAVES / 2 {
            cluster.kubectl(["rollout", "restart", "--namespace=kube-system", "daemonset/weft-agent"])?;
        }
        let label = format!("wave={wave}");
        let ready = cluster.wait_for_pods("default", &label, PODS_A_WAVE)?;
        own_addresses(cluster, &ready)?;
        cluster.kubectl(["delete", "pods", "--selector", &label, "--wait=false"])?;
    }
    wait::until(LIMIT, "the Pods to go", || {
        let pods = cluster.get(["pods", "--selector=wave"])?;
        let left = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(left == 0, "{left} are still there");
        Ok(())
    })
}

/// Fails when two Pods have one address, or one has not an address of each family.
fn own_addresses(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    let pods = objects.iter().map(Pod::from_object).collect::<Result<Vec<Pod>>>()?;
    let all: Vec<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
    let families = cluster.family().choose("IPv4", "IPv6").len();
    ensure!(all.len() == pods.len() * families, "{} Pods have {} addresses", pods.len(), all.len());
    let different: BTreeSet<&IpAddr> = all.iter().collect();
    ensure!(different.len() == all.len(), "an address is used twice: {all:?}");
    Ok(())
}

fn pod(wave: usize, number: usize, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("churn-{wave}-{number}"),
            "namespace": "default",
            "labels": {"wave": wave.to_string()},
        },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{"name": "pause", "image": PAUSE, "imagePullPolicy": "Never"}],
        },
    })
}
