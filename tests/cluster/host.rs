//! Pods, the nodes themselves, and the world.

use std::net::IpAddr;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::command::output;
use weft_tests::echo::{self, Pod};
use weft_tests::node::Node;
use weft_tests::plan::{self, url_host};
use weft_tests::{tools, wait};

use crate::Case;
use crate::fixture::{Fixture, Network};
use crate::pods::{ask_by_udp, client};

pub(crate) const CASES: &[Case] = &[
    ("a_node_reaches_its_own_pods_and_those_of_others", node_to_pods),
    ("a_pod_reaches_its_own_node_and_others", pods_to_nodes),
    ("a_pod_reaches_the_world_with_its_nodes_address", pods_to_world),
    ("the_world_knows_no_pods", world_to_pods),
];

/// Port of the server that runs on the nodes themselves.
const NODE_PORT: u16 = 8090;

fn node_to_pods(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for node in cluster.nodes() {
        for pod in &pods {
            for address in &pod.addresses {
                let answer = node.run(echo::ask(*address, "hostname"))?;
                ensure!(answer == pod.name, "{address} answered {answer}, not {}", pod.name);
                node.run(["ping", "-c", "1", "-W", "5", &address.to_string()])?;
            }
        }
    }
    Ok(())
}

/// A server on a node, in the node's own network.
fn serve(node: &Node) -> Result<Child> {
    let agnhost = tools::path("agnhost")?;
    let ports = (format!("--http-port={NODE_PORT}"), format!("--udp-port={}", NODE_PORT + 1));
    let child = node.spawn("netexec", [agnhost.as_os_str(), "netexec".as_ref(), ports.0.as_ref(), ports.1.as_ref()])?;
    let url = format!("http://localhost:{NODE_PORT}/hostname");
    wait::until(Duration::from_secs(20), "the server on the node", || node.run(["curl", "--silent", "--fail", &url]))?;
    Ok(child)
}

fn pods_to_nodes(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let mut servers = cluster.nodes().iter().map(serve).collect::<Result<Vec<_>>>()?;
    let result = ask_nodes(&cluster, &pods);
    for (node, server) in cluster.nodes().iter().zip(&mut servers) {
        node.run(["pkill", "--full", &format!("http-port={NODE_PORT}")])?;
        server.wait().context("cannot collect the server on a node")?;
    }
    result
}

/// Every Pod asks and pings every address of every node.
fn ask_nodes(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    for pod in pods {
        for (position, node) in cluster.nodes().iter().enumerate() {
            let devices = cluster.wiring().devices(cluster.family(), position + 1);
            let addresses = devices.iter().flat_map(|device| &device.addresses).map(|interface| interface.address);
            let ask = |address: IpAddr| {
                let url = format!("http://{}:{NODE_PORT}/hostname", url_host(address));
                format!(
                    "curl --silent --show-error --fail --globoff --max-time 10 '{url}' || echo {address} does not answer; echo; \
                     ping -q -c 1 -W 5 {address} > /tmp/ping || cat /tmp/ping;"
                )
            };
            let script: String = addresses.map(ask).collect();
            let answers = cluster.exec(&pod.name, ["sh", "-c", &script])?;
            let all_right = answers.lines().all(|answer| answer == node.name());
            ensure!(all_right && !answers.is_empty(), "{} on {} got: {answers}", pod.name, pod.node);
        }
    }
    Ok(())
}

/// Addresses with which what a Pod sends to the world may leave its node.
fn node_addresses(cluster: &Cluster, pod: &Pod) -> Result<Vec<IpAddr>> {
    let position = cluster.nodes().iter().position(|node| node.name() == pod.node);
    let number = position.with_context(|| format!("there is no {}", pod.node))? + 1;
    Ok(cluster.wiring().seen_by_world(cluster.family(), number))
}

fn pods_to_world(fixture: &Fixture) -> Result<()> {
    if fixture.network == Network::Ptp {
        // The test bed's ptp network has no masquerade: the world cannot answer.
        return Ok(());
    }
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for pod in &pods {
        let own = node_addresses(&cluster, pod)?;
        for interface in plan::world(cluster.family()) {
            let by_tcp = cluster.exec(&pod.name, echo::ask(interface.address, "clientip"))?;
            let by_udp = ask_by_udp(&cluster, pod, interface.address, "clientip")?;
            for seen in [by_tcp, by_udp] {
                ensure!(own.contains(&client(&seen)?), "the world sees {seen} instead of {own:?}");
                let port = seen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                ensure!(port.is_some_and(|port| port >= 32768), "{seen}: the port is one of NodePorts");
            }
            cluster.exec(&pod.name, ["ping", "-c", "1", "-W", "5", &interface.address.to_string()])?;
        }
    }
    Ok(())
}

fn world_to_pods(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let pod = pods.first().context("there are Pods")?;
    for address in &pod.addresses {
        let answer = output(&mut cluster.world()?.command(echo::ask(*address, "hostname")));
        ensure!(answer.is_err(), "the world reaches {address}, so the other cases prove nothing");
    }
    Ok(())
}
