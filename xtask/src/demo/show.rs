//! What the demo shows: Pods, requests between them and to their Service, routes, what weft says of itself, times, and how to look around.

use std::io::IsTerminal;
use std::net::IpAddr;

use anyhow::{Context, Result};
use weft_tests::cluster::Cluster;
use weft_tests::command::output;
use weft_tests::echo::{self, Pod};
use weft_tests::plan;

use super::services;
use crate::progress::Progress;

/// Where the agent and its DaemonSet live.
const SYSTEM: &str = "kube-system";

/// Everything that is seen of the cluster.
pub(crate) fn everything(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    title("Nodes and Pods");
    print!("{}", cluster.kubectl(["get", "nodes", "--output=custom-columns=NODE:.metadata.name,ADDRESSES:.status.addresses[?(@.type==\"InternalIP\")].address,POD RANGES:.spec.podCIDRs[*],RUNTIME:.status.nodeInfo.containerRuntimeVersion"])?);
    println!();
    print!("{}", cluster.kubectl(["get", "pods", "--all-namespaces", "--output=custom-columns=NAMESPACE:.metadata.namespace,POD:.metadata.name,NODE:.spec.nodeName,STATUS:.status.phase,ADDRESSES:.status.podIPs[*].ip"])?);
    title("Requests");
    for (from, to) in pairs(pods) {
        for address in &to.addresses {
            request(cluster, from, &format!("{} on {}", to.name, to.node), *address, "hostname")?;
        }
    }
    if let Some(from) = pods.first() {
        for interface in plan::world(cluster.family()) {
            request(cluster, from, "a host in the world, which sees", interface.address, "clientip")?;
        }
    }
    services::show(cluster, pods)?;
    let node = cluster.nodes().first().context("a cluster has nodes")?;
    title(&format!("Routes of {}", node.name()));
    for family in cluster.family().choose("-4", "-6") {
        print!("{}", routes(&node.run(["ip", family, "route", "show"])?));
    }
    title(&format!("weft status on {}", node.name()));
    let agents = cluster.wait_for_pods(SYSTEM, "app=weft-agent", cluster.nodes().len())?;
    let agent = agents.iter().find(|agent| agent["spec"]["nodeName"] == node.name());
    let agent = agent.and_then(|agent| agent["metadata"]["name"].as_str()).context("every node has an agent")?;
    print!("{}", cluster.kubectl(["exec", "--namespace", SYSTEM, agent, "--", "/weft", "status"])?);
    Ok(())
}

/// Every Pod asks every other one.
fn pairs(pods: &[Pod]) -> impl Iterator<Item = (&Pod, &Pod)> {
    pods.iter().flat_map(move |from| pods.iter().filter(move |to| *to != from).map(move |to| (from, to)))
}

/// What a person wants to see of the routes: not every address that the kernel's own tables hold.
fn routes(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with("fe80::/64") && !line.starts_with("multicast"));
    kept.map(|line| format!("{}\n", line.trim_end())).collect()
}

fn request(cluster: &Cluster, from: &Pod, to: &str, address: IpAddr, path: &str) -> Result<()> {
    let mut command = cluster.kubectl_command(["exec", &from.name, "--"])?;
    command.args(echo::ask(address, path)).args(["--write-out", "\n%{time_total}"]);
    let text = output(&mut command).with_context(|| format!("{} cannot reach {to} at {address}", from.name))?;
    let (answer, seconds) = text.trim().rsplit_once('\n').unwrap_or((&text, ""));
    let milliseconds = seconds.parse::<f64>().unwrap_or_default() * 1000.0;
    println!("{} on {} -> {to} ({address}): answers \"{answer}\" in {milliseconds:.1} ms", from.name, from.node);
    Ok(())
}

/// The end of the demo: times, and what to do next.
pub(crate) fn how_to_go_on(progress: &Progress) {
    title("How long it took");
    for (name, took) in progress.stages() {
        println!("{:>7.1} s  {name}", took.as_secs_f64());
    }
    println!("{:>7.1} s  all of it", progress.elapsed().as_secs_f64());
    title("The cluster stays up. Look around:");
    println!("cargo xtask kubectl get pods -A -o wide");
    println!("cargo xtask kubectl exec -n {SYSTEM} daemonset/weft-agent -- /weft nodes");
    println!("cargo xtask node 1 -- ip route");
    println!("cargo xtask node 1                      a shell on a node");
    println!("cargo xtask logs                        the logs of everything, by name");
    title("End it:");
    println!("cargo xtask demo --down");
}

/// A headline.
pub(super) fn title(text: &str) {
    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}{text}{plain}");
}
