//! The agent's end and return are not noticed by traffic; what it says of itself is true.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::wait;

use crate::Case;
use crate::fixture::Fixture;
use crate::kubelet::{delete_pod, run_pod};

/// What the agents say of themselves and leave behind, on any cluster.
pub(crate) const REPORTS: &[Case] = &[
    ("every_agent_says_that_it_is_healthy", healthy),
    ("every_agent_and_ip_route_agree_on_the_routes", routes_agree),
    ("a_deleted_pod_leaves_no_device_behind", no_device_left),
];

pub(crate) const CASES: &[Case] = &[
    ("killed_agents_lose_no_packet_and_change_no_route", killed),
    ("replaced_agents_lose_no_packet_and_change_no_route", replaced),
];

const LABEL: &str = "app=weft-agent";
const SYSTEM: &str = "kube-system";
const LIMIT: Duration = Duration::from_secs(60);

/// The agents' Pods.
pub(crate) fn agents(cluster: &Cluster) -> Result<Vec<Value>> {
    cluster.wait_for_pods(SYSTEM, LABEL, cluster.nodes().len())
}

/// Runs the operators' command in an agent's container.
pub(crate) fn weft(cluster: &Cluster, agent: &Value, question: &str) -> Result<Value> {
    let name = agent["metadata"]["name"].as_str().context("a Pod has a name")?;
    let text = cluster.kubectl(["exec", "--namespace", SYSTEM, name, "--", "/weft", question, "--output=json"])?;
    serde_json::from_str(&text).with_context(|| format!("`weft {question}` wrote no JSON"))
}

fn healthy(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    for agent in agents(&cluster)? {
        let status = weft(&cluster, &agent, "status")?;
        ensure!(status["healthy"] == true, "not healthy: {status}");
        let nodes = weft(&cluster, &agent, "nodes")?;
        let nodes = nodes["nodes"].as_array().context("there is a list of nodes")?;
        ensure!(nodes.len() == cluster.nodes().len(), "{} nodes are known", nodes.len());
        ensure!(nodes.iter().all(|node| node["inSync"] == true), "not in sync: {nodes:?}");
        // A Pod that comes or goes may look odd for a moment.
        wait::until(LIMIT, "`weft pods` and `weft drops` to have nothing to say", || {
            for question in ["pods", "drops"] {
                let answer = weft(&cluster, &agent, question)?;
                ensure!(answer["source"] == "agent" && answer["problems"] == json!([]), "`weft {question}`: {answer}");
                let mut pods = answer["pods"].as_array().into_iter().flatten();
                ensure!(pods.all(|pod| pod["healthy"] == true && pod["counters"]["rxPackets"].is_u64()), "{answer}");
            }
            Ok(())
        })?;
        let node = cluster.node(agent["spec"]["nodeName"].as_str().context("an agent has a node")?)?;
        let table = node.run(["/opt/cni/bin/weft", "status"])?;
        ensure!(table.lines().next().is_some_and(|line| line.ends_with(" healthy")), "on the node itself: {table}");
    }
    Ok(())
}

/// What `weft routes` says the kernel has, against what `ip route` says.
fn routes_agree(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    for agent in agents(&cluster)? {
        let node = cluster.node(agent["spec"]["nodeName"].as_str().context("an agent has a node")?)?;
        let kernel = node.run(["ip", "-4", "route"])? + &node.run(["ip", "-6", "route"])?;
        let report = weft(&cluster, &agent, "routes")?;
        let routes = report["routes"].as_array().context("there is a list of routes")?;
        // One a podCIDR of every node, its own ones included, and one a range of Services.
        let families = cluster.family().count();
        ensure!(routes.len() == families * (cluster.nodes().len() + 1), "{} routes are known", routes.len());
        for route in routes {
            let destination = route["destination"].as_str().context("a route has a destination")?;
            ensure!(route["state"] == "ok", "{} has a difference: {route}", node.name());
            let is_there = kernel.split_whitespace().any(|word| word == destination);
            ensure!(is_there, "`ip route` of {} does not show {destination}:\n{kernel}", node.name());
        }
    }
    Ok(())
}

fn no_device_left(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let node = cluster.nodes().first().context("there are nodes")?;
    let devices = || node.run(["ip", "-brief", "link", "show", "type", "veth"]);
    let count = |text: &str| text.lines().filter(|line| line.starts_with("weft")).count();
    let before = count(&devices()?);
    run_pod(&cluster, "short-lived", node.name(), &serde_json::json!({}))?;
    ensure!(count(&devices()?) == before + 1, "a Pod has one device");
    delete_pod(&cluster, "short-lived")?;
    wait::until(LIMIT, "the Pod's device to go", || {
        let now = devices()?;
        ensure!(count(&now) == before, "still there:\n{now}");
        Ok(())
    })
}

/// What operators see of a node's network, which must not change.
pub(crate) fn picture(cluster: &Cluster) -> Result<Vec<String>> {
    let see = |words: &[&str]| -> Result<Vec<String>> { cluster.nodes().iter().map(|node| node.run(words)).collect() };
    let mut all = see(&["ip", "-4", "route"])?;
    all.extend(see(&["ip", "-6", "route"])?);
    all.extend(see(&["ip", "-brief", "link"])?);
    all.extend(see(&["nft", "--stateless", "list", "ruleset"])?);
    Ok(all)
}

fn restarts(agents: &[Value]) -> u64 {
    agents.iter().filter_map(|agent| agent["status"]["containerStatuses"][0]["restartCount"].as_u64()).sum()
}

/// The agents' processes are killed on every node; kubelet starts them again.
fn killed(fixture: &Fixture) -> Result<()> {
    undisturbed(fixture, |cluster| {
        let earlier = restarts(&agents(cluster)?);
        for node in cluster.nodes() {
            node.run(["pkill", "--signal", "KILL", "--exact", "weft-agent"])?;
        }
        wait::until(LIMIT, "kubelet to restart the agents", || {
            let now = restarts(&agents(cluster)?);
            ensure!(now >= earlier + cluster.nodes().len() as u64, "{} restarts", now - earlier);
            Ok(())
        })
    })
}

/// The agents' Pods are replaced one after the other, as in an upgrade.
fn replaced(fixture: &Fixture) -> Result<()> {
    undisturbed(fixture, |cluster| {
        cluster.kubectl(["rollout", "restart", "--namespace", SYSTEM, "daemonset/weft-agent"])?;
        let status = ["rollout", "status", "--namespace", SYSTEM, "daemonset/weft-agent", "--timeout=90s"];
        cluster.kubectl(status).map(drop)
    })
}

/// Lets Pods ping each other across nodes while something is done to the agents: no packet is lost, and nothing that operators
/// see of the nodes' network is another afterwards.
fn undisturbed(fixture: &Fixture, disturb: impl Fn(&Cluster) -> Result<()>) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let [from, to, ..] = pods.as_slice() else { bail!("there are two Pods") };
    let before = picture(&cluster)?;
    let mut pings = Vec::new();
    for address in &to.addresses {
        let mut command = cluster.kubectl_command(["exec", &from.name, "--"])?;
        command.args(["ping", "-q", "-i", "0.02", "-w", "180", &address.to_string()]);
        pings.push(command.stdout(Stdio::piped()).spawn().context("cannot start a ping")?);
    }
    let running = wait::until(LIMIT, "the pings to run", || {
        let text = cluster.exec(&from.name, ["sh", "-c", "pidof ping | wc -w"])?;
        ensure!(text.trim() == pings.len().to_string(), "{} run", text.trim());
        Ok(())
    });
    let disturbed = running.and_then(|()| disturb(&cluster));
    // Their closing lines come when they are interrupted.
    cluster.exec(&from.name, ["sh", "-c", "kill -INT $(pidof ping)"])?;
    for ping in pings {
        let answer = ping.wait_with_output().context("cannot wait for a ping")?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        // The last one may still be under way when the ping is interrupted.
        ensure!(lost(&text)? <= 1, "packets were lost:\n{text}");
    }
    disturbed?;
    let after = picture(&cluster)?;
    ensure!(before == after, "the network of a node changed:\n{}\nis now\n{}", before.join("\n"), after.join("\n"));
    Ok(())
}

/// Reads `1234 packets transmitted, 1233 received, ...`.
fn lost(text: &str) -> Result<u64> {
    let line =
        text.lines().find(|line| line.contains("packets transmitted")).context("the ping has no closing line")?;
    let mut numbers = line.split(", ").map(|part| part.split(' ').next().unwrap_or_default().parse::<u64>());
    let (Some(Ok(sent)), Some(Ok(received))) = (numbers.next(), numbers.next()) else {
        bail!("`{line}` does not count packets");
    };
    ensure!(sent > 0, "nothing was sent: {line}");
    Ok(sent.saturating_sub(received))
}
