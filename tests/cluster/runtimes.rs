//! Nodes of one cluster run containerd 1.6 and containerd 2: what they ask of a Pod network.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::containerd::Containerd;
use weft_tests::node::Node;
use weft_tests::{echo, wait};

use crate::Case;
use crate::fixture::Fixture;
use crate::kubelet::{delete_pod, run_pod};
use crate::leavings::Leavings;

pub(crate) const CASES: &[Case] = &[
    ("one_node_runs_debians_containerd_and_the_others_containerd_2", versions),
    ("a_pods_loopback_works_whoever_sets_it_up", loopback),
    ("many_pods_are_made_and_deleted_at_once_and_leave_nothing", many),
    ("containerd_2_says_in_our_words_why_a_node_without_its_agent_is_not_ready", no_agent),
    ("a_removed_or_renamed_configuration_comes_back_and_pods_start", configuration),
];

const LIMIT: Duration = Duration::from_secs(60);
const CONFLIST: &str = "/etc/cni/net.d/10-weft.conflist";
/// Pods that are made at once on every node.
const MANY: usize = 4;

fn version(cluster: &Cluster, name: &str) -> Result<String> {
    let node = cluster.get(["node", name])?;
    let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str();
    version.map(String::from).with_context(|| format!("{name} does not say what runs its containers"))
}

fn versions(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let two = format!("containerd://{}", Containerd::two_version());
    for (position, node) in cluster.nodes().iter().enumerate() {
        let version = version(&cluster, node.name())?;
        let is_right = if position == 0 { version.starts_with("containerd://1.6.") } else { version == two };
        ensure!(is_right, "{} runs {version}", node.name());
    }
    Ok(())
}

fn loopback(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    for pod in fixture.pods()? {
        for address in ["127.0.0.1", "::1"] {
            let question = cluster.exec(&pod.name, ["ping", "-c", "1", "-W", "5", address]);
            question.with_context(|| format!("the loopback of {} on {}", pod.name, pod.node))?;
        }
    }
    Ok(())
}

fn many(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let before = Leavings::settled(&cluster)?;
    let names: Vec<(String, &Node)> = cluster
        .nodes()
        .iter()
        .flat_map(|node| (0..MANY).map(move |number| (format!("one-of-many-{}-{number}", node.name()), node)))
        .collect();
    let objects = names.iter().map(|(name, node)| small_pod(name, node.name())).collect();
    cluster.apply(&Value::Array(objects))?;
    let made = cluster.wait_for_pods("default", "app=one-of-many", names.len())?;
    let asker = pods.first().context("there are Pods")?;
    for object in &made {
        for address in &echo::Pod::from_object(object)?.addresses {
            cluster.exec(&asker.name, ["ping", "-q", "-c", "1", "-W", "5", &address.to_string()])?;
        }
    }
    cluster.kubectl(["delete", "pods", "--selector=app=one-of-many", "--wait=true", "--timeout=60s"])?;
    wait::until(LIMIT, "what the Pods had to go", || Leavings::of(&cluster)?.check_same_as(&before))
}

fn small_pod(name: &str, node: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "one-of-many"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": weft_tests::images::AGNHOST, "imagePullPolicy": "Never", "args": ["pause"],
        }]},
    })
}

/// Whether a node is Ready, and what it says.
fn ready(cluster: &Cluster, name: &str) -> Result<(bool, String)> {
    let node = cluster.get(["node", name])?;
    let conditions = node["status"]["conditions"].as_array().context("a node has conditions")?;
    let ready =
        conditions.iter().find(|condition| condition["type"] == "Ready").context("a node says if it is Ready")?;
    Ok((ready["status"] == "True", ready["message"].as_str().unwrap_or_default().to_owned()))
}

/// As after a reboot: the configuration is there, and nothing of what the agent writes into /run.
fn no_agent(fixture: &Fixture) -> Result<()> {
    const FACTS: &str = "/run/weft/node.json";
    let cluster = fixture.cluster()?;
    let (one, two) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    for node in [one, two] {
        // It cannot write the file anew.
        node.run(["pkill", "--signal", "STOP", "--exact", "weft-agent"])?;
        node.run(["rm", FACTS])?;
    }
    let told = wait::until(LIMIT, "the node to be not ready", || {
        let (ready, message) = ready(&cluster, two.name())?;
        ensure!(!ready, "{} is Ready: {message}", two.name());
        Ok(message)
    });
    let (one_is_ready, _) = ready(&cluster, one.name())?;
    for node in [one, two] {
        node.run(["pkill", "--signal", "KILL", "--exact", "weft-agent"])?;
    }
    let told = told?;
    for part in ["weft is not ready on this node", FACTS, "kubectl -n kube-system get pods -l app=weft-agent"] {
        ensure!(told.contains(part), "the node does not say `{part}`: {told}");
    }
    ensure!(one_is_ready, "containerd 1.6 never asks");
    cluster.wait_for_nodes()?;
    run_pod(&cluster, "after-the-agent", two.name(), &Value::Null)?;
    delete_pod(&cluster, "after-the-agent")
}

/// containerd 1.6 and 2 load it again by themselves.
fn configuration(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let [one, two, three] = cluster.nodes() else { anyhow::bail!("there are three nodes") };
    one.run(["rm", CONFLIST])?;
    two.run(["rm", CONFLIST])?;
    let renamed = "/etc/cni/net.d/99-renamed.conflist";
    three.run(["mv", CONFLIST, renamed])?;
    for node in cluster.nodes() {
        wait::until(LIMIT, "the agent to write the configuration anew", || node.run(["test", "-e", CONFLIST]))?;
    }
    three.run(["rm", renamed])?;
    cluster.wait_for_nodes()?;
    for node in cluster.nodes() {
        let name = format!("after-the-configuration-{}", node.name());
        run_pod(&cluster, &name, node.name(), &Value::Null)?;
        delete_pod(&cluster, &name)?;
    }
    Ok(())
}
