//! Addresses and ports of Services that are meant for the outside, dialled from within; and what nobody serves.

use std::fs;
use std::net::IpAddr;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::node::Node;
use weft_tests::plan::Family;
use weft_tests::wait;

use crate::Case;
use crate::fixture::Fixture;
use crate::services::node_addresses;
use crate::services_bed::{Client, LIMIT, PORT, Service};

pub(crate) const CASES: &[Case] = &[
    ("pods_and_nodes_reach_a_service_by_the_node_port_of_their_own_node", node_port),
    ("pods_and_nodes_reach_a_service_by_the_address_of_its_load_balancer", load_balancer),
    ("pods_and_nodes_reach_a_service_by_an_external_ip_that_no_node_has", external_ip),
];

/// What only weft has.
pub(crate) const WEFT: &[Case] = &[
    ("a_node_reaches_a_service_by_its_node_port_at_loopback_addresses", loopback),
    ("packets_to_an_unallocated_address_of_services_never_leave_the_node", unallocated),
];

/// Addresses that no device of the test bed has: of a load balancer, of an external IP, and of nobody.
const BALANCER: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];
const EXTERNAL: [&str; 2] = ["203.0.113.20", "2001:db8:113::20"];
const NOBODY: [&str; 2] = ["203.0.113.30", "2001:db8:113::30"];
/// Addresses of the Services' ranges that are given to no Service, but for a chance of one in 10^4.
const UNALLOCATED: [&str; 2] = ["10.43.255.254", "fd43::fffe"];

fn of_family(family: Family, [v4, v6]: [&'static str; 2]) -> Vec<IpAddr> {
    family.choose(v4, v6).into_iter().filter_map(|address| address.parse().ok()).collect()
}

fn node_port(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "node-port", &json!({"type": "NodePort"}))?;
    let port = service.node_port.context("it has a NodePort")?;
    let all: Vec<_> = pods.iter().collect();
    for client in Client::all(&cluster, &pods) {
        for address in node_addresses(fixture, client.node())? {
            client.wait_for(address, port, &all)?;
        }
    }
    Ok(())
}

fn loopback(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "at-loopback", &json!({"type": "NodePort"}))?;
    let port = service.node_port.context("it has a NodePort")?;
    let all: Vec<_> = pods.iter().collect();
    for node in cluster.nodes() {
        for address in of_family(cluster.family(), ["127.0.0.1", "::1"]) {
            Client::Node(node).wait_for(address, port, &all)?;
        }
    }
    Ok(())
}

fn load_balancer(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let service = Service::of_echo(&cluster, "balanced", &json!({"type": "LoadBalancer"}))?;
    let addresses = of_family(cluster.family(), BALANCER);
    let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}}).to_string();
    cluster.kubectl(["patch", "service", &service.name, "--subresource=status", "--patch", &status])?;
    let all: Vec<_> = pods.iter().collect();
    for client in Client::all(&cluster, &pods) {
        addresses.iter().try_for_each(|address| client.wait_for(*address, PORT, &all))?;
    }
    Ok(())
}

fn external_ip(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let addresses = of_family(cluster.family(), EXTERNAL);
    let _service = Service::of_echo(&cluster, "external", &json!({"externalIPs": addresses}))?;
    let all: Vec<_> = pods.iter().collect();
    for client in Client::all(&cluster, &pods) {
        addresses.iter().try_for_each(|address| client.wait_for(*address, PORT, &all))?;
    }
    Ok(())
}

fn unallocated(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    let nobody = of_family(cluster.family(), NOBODY);
    let unallocated = of_family(cluster.family(), UNALLOCATED);
    for node in cluster.nodes() {
        let capture = Capture::start(node, nobody.iter().chain(&unallocated))?;
        let clients = Client::all(&cluster, &pods).into_iter().filter(|client| client.node() == node.name());
        for client in clients {
            for address in nobody.iter().chain(&unallocated) {
                dial(client, *address)?;
            }
        }
        let seen = capture.stop(&nobody)?;
        for address in &unallocated {
            ensure!(!seen.contains(&address.to_string()), "{address} left {}:\n{seen}", node.name());
        }
    }
    Ok(())
}

/// Sends to an address by TCP, UDP and ICMP. Nobody answers.
fn dial(client: Client<'_>, address: IpAddr) -> Result<()> {
    let url = format!("http://{}:{PORT}/", weft_tests::plan::url_host(address));
    let script = format!(
        "curl --silent --globoff --max-time 1 '{url}' && echo answered
         bash -c 'echo hello > /dev/udp/{address}/{PORT}' 2> /dev/null
         ping -c 1 -W 1 {address} > /dev/null 2>&1 && echo answered
         true"
    );
    let answer = client.run(&script)?;
    ensure!(answer.is_empty(), "{} got an answer from {address}", client.name());
    Ok(())
}

/// What leaves a node by its device for some addresses.
struct Capture<'a> {
    node: &'a Node,
    child: Child,
}

impl<'a> Capture<'a> {
    fn start<'b>(node: &'a Node, addresses: impl Iterator<Item = &'b IpAddr>) -> Result<Self> {
        let hosts: Vec<String> = addresses.map(|address| format!("host {address}")).collect();
        // What an earlier case left must not be taken for ours.
        let _ = fs::remove_file(node.folder().join("log/tcpdump.log"));
        let filter = hosts.join(" or ");
        let child =
            node.spawn("tcpdump", ["tcpdump", "--immediate-mode", "-l", "-n", "-i", "eth0", "-Q", "out", &filter])?;
        let capture = Self { node, child };
        wait::until(LIMIT, "tcpdump to listen", || {
            ensure!(capture.text()?.contains("listening on"), "not yet");
            Ok(())
        })?;
        Ok(capture)
    }

    fn text(&self) -> Result<String> {
        let path = self.node.folder().join("log/tcpdump.log");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// All that was seen, once these were.
    fn stop(mut self, wanted: &[IpAddr]) -> Result<String> {
        let seen = wait::until(Duration::from_secs(5), "packets to leave the node", || {
            let text = self.text()?;
            ensure!(wanted.iter().all(|address| text.contains(&address.to_string())), "of {wanted:?} only:\n{text}");
            Ok(text)
        });
        self.node.run(["pkill", "--exact", "tcpdump"])?;
        self.child.wait().context("cannot collect tcpdump")?;
        seen
    }
}
