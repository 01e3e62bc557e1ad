//! The API server is killed and comes back. Traffic does not notice, and the agents are up to date at once. Its address is cut off:
//! the agent goes on by another one.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::control_process::Killed;
use weft_tests::node::Node;
use weft_tests::plan::{self, API_PORT, Family};
use weft_tests::wait;

use crate::Case;
use crate::agent::{agents, picture};
use crate::fixture::Fixture;
use crate::survival::undisturbed;
use crate::survival_agent::agent_process;

pub(crate) const CASES: &[Case] = &[
    ("a_killed_api_server_is_not_noticed_by_traffic_and_its_return_is_within_seconds", killed),
    ("an_agent_cut_off_from_its_api_server_goes_on_by_another_address_and_so_does_the_next_agent", cut_off),
];

const LIMIT: Duration = Duration::from_secs(90);
/// How long it is away at least.
const AWAY: Duration = Duration::from_secs(12);
const PROMISED: Duration = Duration::from_secs(5);
/// A Node without a machine, made as soon as somebody can be asked.
const GHOST: &str = "weft-ghost";
const GHOST_RANGE: &str = "198.18.77.0/24";

fn killed(fixture: &Fixture) -> Result<()> {
    undisturbed(fixture, |cluster| {
        let before = picture(cluster)?;
        let told = told(cluster)?;
        let killed = Killed::kill(cluster, "kube-apiserver")?;
        let outage = Instant::now();
        let noticed = cluster.nodes().iter().try_for_each(notices).and_then(|()| {
            sleep(AWAY.saturating_sub(outage.elapsed()));
            let now = picture(cluster)?;
            ensure!(before == now, "the network of a node changed:\n{}\nis now\n{}", before.join("\n"), now.join("\n"));
            Ok(())
        });
        killed.start(cluster)?;
        noticed?;
        converges(cluster)?;
        agents(cluster)?;
        let (gone, back) = self::told(cluster)?;
        let nodes = cluster.nodes().len();
        ensure!(
            (gone, back) == (told.0 + nodes, told.1 + nodes),
            "one line each a node, not {told:?} and then {gone}, {back}"
        );
        Ok(())
    })
}

/// A slice with another address of the API server, as a second server would have one.
const OTHER: &str = "weft-other-api-server";
/// Table of the node's that cuts the usual address off.
const CUT: &str = "weft_cut_off";
const LEARNED: &str = "/run/weft/api-servers.json";

fn cut_off(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let node = cluster.nodes().first().context("there are nodes")?;
    let done = by_another_address(&cluster, node);
    // As it was, whatever came of it: what was learned is forgotten by agents that start.
    let _ = node.run(["nft", "delete", "table", "inet", CUT]);
    let _ = cluster.kubectl(["delete", "endpointslice", OTHER, "--namespace", "default", "--ignore-not-found"]);
    for node in cluster.nodes() {
        node.run(["rm", "--force", LEARNED])?;
        start_anew(node)?;
    }
    done?;
    agents(&cluster)?;
    Ok(())
}

fn by_another_address(cluster: &Cluster, node: &Node) -> Result<()> {
    let usual = asked(node)?;
    let of_control = plan::control(cluster.family());
    let urls = of_control
        .iter()
        .map(|interface| (interface.address, format!("https://{}:{API_PORT}", plan::url_host(interface.address))));
    let (known, others): (Vec<_>, Vec<_>) = urls.partition(|(_, url)| *url == usual);
    let ([(address, _)], [(other, other_url)]) = (known.as_slice(), others.as_slice()) else {
        bail!("the agent asks {usual}, and the control plane has {of_control:?}");
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": OTHER,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes", "endpointslice.kubernetes.io/managed-by": "weft-tests"},
        },
        "addressType": if other.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [other.to_string()]}],
        "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
    });
    let file = cluster.folder().join("other-api-server.json");
    std::fs::write(&file, slice.to_string()).context("cannot write a slice")?;
    cluster.kubectl(["create", "--filename", &file.to_string_lossy()])?;
    wait::until(LIMIT, "the agent to learn the address", || {
        let learned = node.run(["cat", LEARNED])?;
        ensure!(learned.contains(&format!("{}:{API_PORT}", plan::url_host(*other))), "{learned}");
        Ok(())
    })?;
    ensure!(asked(node)? == usual, "the usual address still answers");

    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let cut = format!(
        "add table inet {CUT}; add chain inet {CUT} out {{ type filter hook output priority 0; }}; \
         add rule inet {CUT} out {family} daddr {address} tcp dport {API_PORT} reject with tcp reset"
    );
    node.run(["nft", &cut])?;
    let began = Instant::now();
    wait::until(LIMIT, "the agent to ask the other address", || asks(node, other_url))?;
    eprintln!("api server: the other address was asked {:.1?} after the usual one was cut off", began.elapsed());
    converges(cluster)?;
    start_anew(node)?;
    wait::until(LIMIT, "the next agent to ask the other address", || asks(node, other_url))?;
    converges(cluster)
}

/// Kills the agent of a node and waits for the next one to know what it must.
fn start_anew(node: &Node) -> Result<()> {
    let pid = agent_process(node)?;
    node.run(["kill", "-KILL", &pid])?;
    wait::until(LIMIT, "the next agent to be connected", || {
        ensure!(agent_process(node)? != pid, "the last one is still there");
        asked(node)
    })?;
    Ok(())
}

/// The address that the agent of a node is connected to.
fn asked(node: &Node) -> Result<String> {
    let status: Value = serde_json::from_str(&node.run(["/opt/cni/bin/weft", "status", "--output=json"])?)?;
    ensure!(status["apiServer"]["connected"] == true, "{status}");
    Ok(status["apiServer"]["address"].as_str().context("a server has an address")?.to_owned())
}

fn asks(node: &Node, url: &str) -> Result<()> {
    let asked = asked(node)?;
    ensure!(asked == url, "{asked}, not {url}");
    Ok(())
}

/// The agent of a node says that the API server is away, and that the node is as healthy as before.
fn notices(node: &Node) -> Result<()> {
    wait::until(LIMIT, "the agent to notice", || {
        let status: Value = serde_json::from_str(&node.run(["/opt/cni/bin/weft", "status", "--output=json"])?)?;
        ensure!(status["apiServer"]["connected"] == false, "{status}");
        ensure!(status["healthy"] == true, "not healthy: {status}");
        Ok(())
    })?;
    for path in ["livez", "readyz", "healthz"] {
        let answer = node.run(["curl", "--silent", "--fail", &format!("http://127.0.0.1:10256/{path}")])?;
        ensure!(answer.contains("\"connected\":false"), "{path}: {answer}");
    }
    Ok(())
}

/// Waits for the API server, changes something, and sees every node follow in time. Puts it back.
fn converges(cluster: &Cluster) -> Result<()> {
    let address = if cluster.family() == Family::Ipv6 { "2001:db8:ffff::77" } else { "198.51.100.77" };
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": GHOST},
        "spec": {"podCIDR": GHOST_RANGE, "podCIDRs": [GHOST_RANGE], "unschedulable": true},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    });
    let file = cluster.folder().join("ghost.json");
    std::fs::write(&file, node.to_string()).context("cannot write a Node")?;
    let file = file.to_string_lossy();
    wait::until(LIMIT, "the API server to take a Node", || cluster.kubectl(["create", "--filename", &file]))?;
    let back = Instant::now();
    let followed = has_route(cluster, true, PROMISED);
    eprintln!("api server: the agents had caught up {:.1?} after its first answer", back.elapsed());
    cluster.kubectl(["delete", "node", GHOST])?;
    followed?;
    has_route(cluster, false, LIMIT)
}

fn has_route(cluster: &Cluster, wanted: bool, limit: Duration) -> Result<()> {
    wait::until(limit, "every node to follow", || {
        for node in cluster.nodes() {
            let routes = node.run(["ip", "-4", "route", "show", "proto", "119"])?;
            ensure!(routes.contains(GHOST_RANGE) == wanted, "{}: {routes}", node.name());
        }
        Ok(())
    })
}

/// Lines in the agents' logs that tell of an API server that went, and that came back.
fn told(cluster: &Cluster) -> Result<(usize, usize)> {
    let mut counts = (0, 0);
    for agent in agents(cluster)? {
        let name = agent["metadata"]["name"].as_str().context("a Pod has a name")?;
        let log = cluster.kubectl(["logs", "--namespace", "kube-system", name])?;
        counts.0 += log.matches("everything in the kernel stays as it is").count();
        counts.1 += log.matches("connected again").count();
    }
    Ok(counts)
}
