//! Nodes with two devices and two addresses of each family on each device.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_tests::cluster::Cluster;
use weft_tests::echo;
use weft_tests::plan;
use weft_tests::wiring::{Device, Network};

use crate::Case;
use crate::fixture::Fixture;
use crate::pods::client;

/// What makes these clusters hard, on any Pod network.
pub(crate) const ANY_NETWORK: &[Case] = &[("the_kernel_would_choose_other_addresses_and_devices", hard)];

pub(crate) const CASES: &[Case] = &[
    ("pods_get_the_mtu_of_the_internal_ips_device", mtu),
    ("what_a_node_binds_to_any_of_its_addresses_reaches_the_pods_of_others", bound),
];

/// The devices of each node, by its name.
fn devices(cluster: &Cluster) -> impl Iterator<Item = (&str, Vec<Device>)> {
    let numbered = cluster.nodes().iter().enumerate();
    numbered.map(|(position, node)| (node.name(), cluster.wiring().devices(cluster.family(), position + 1)))
}

fn internal_ips(cluster: &Cluster, position: usize) -> impl Iterator<Item = IpAddr> {
    plan::node(cluster.family(), position + 1).into_iter().map(|interface| interface.address)
}

/// Without this, a network that leaves the choice to the kernel would pass.
fn hard(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    let mut names = Vec::new();
    for (position, (name, devices)) in devices(&cluster).enumerate() {
        let node = cluster.node(name)?;
        let carrier = devices.iter().find(|device| device.network == Network::Nodes);
        let carrier = carrier.context("a device has the InternalIPs")?.name;
        names.push(carrier);
        let filter = node.run(["cat", "/proc/sys/net/ipv4/conf/all/rp_filter"])?;
        ensure!(filter.trim() == "1", "the reverse path filter of {name} is not strict");
        for other in (0..cluster.nodes().len()).filter(|other| *other != position) {
            for (own, other) in internal_ips(&cluster, position).zip(internal_ips(&cluster, other)) {
                let route = node.run(["ip", "route", "get", &other.to_string()])?;
                ensure!(route.contains(&format!(" dev {carrier} ")), "not by {carrier} from {name}: {route}");
                ensure!(!route.contains(&format!(" src {own} ")), "{name} chooses its InternalIP: {route}");
            }
        }
        for world in plan::world(cluster.family()) {
            let route = node.run(["ip", "route", "get", &world.address.to_string()])?;
            ensure!(!route.contains(&format!(" dev {carrier} ")), "to the world by {carrier} from {name}: {route}");
        }
    }
    ensure!(names.contains(&"eth0") && names.contains(&"eth1"), "the InternalIPs are on {names:?} everywhere");
    Ok(())
}

fn mtu(fixture: &Fixture) -> Result<()> {
    let cluster = fixture.cluster()?;
    // The nodes have both families, so the tunnels are IPv4, with 50 bytes of headers.
    let wanted = Network::Nodes.mtu() - 50;
    for pod in fixture.pods()? {
        let text = cluster.exec(&pod.name, ["cat", "/sys/class/net/eth0/mtu"])?;
        ensure!(text.trim() == wanted.to_string(), "{} has the MTU {} instead of {wanted}", pod.name, text.trim());
    }
    Ok(())
}

/// The first address of each of a node's podCIDRs.
fn gateways(cluster: &Cluster, name: &str) -> Result<Vec<IpAddr>> {
    let object = cluster.get(["node", name])?;
    let ranges = object["spec"]["podCIDRs"].as_array().context("the node has podCIDRs")?;
    let gateway = |range: &Value| {
        let network: IpNetwork = range.as_str().context("a podCIDR is a text")?.parse()?;
        network.iter().nth(1).context("a podCIDR has more than one address")
    };
    ranges.iter().map(gateway).collect()
}

/// A node's own processes may bind to any of its addresses. Pods of this node see the one that they chose; to those of others they
/// come with the gateway's, because an answer to another one would come past the tunnel.
fn bound(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    for (name, devices) in devices(&cluster) {
        let (node, gateways) = (cluster.node(name)?, gateways(&cluster, name)?);
        for own in devices.iter().flat_map(|device| &device.addresses).map(|interface| interface.address) {
            for pod in &pods {
                let same_family = |address: &&IpAddr| address.is_ipv4() == own.is_ipv4();
                let address = pod.addresses.iter().find(same_family).context("a Pod has an address of each family")?;
                let mut words = echo::ask(*address, "clientip");
                words.extend(["--interface".to_owned(), own.to_string()]);
                let seen = node.run(words).with_context(|| format!("{name} cannot ask {} from {own}", pod.name))?;
                let seen = client(&seen)?;
                let is_right = if pod.node == name { seen == own } else { gateways.contains(&seen) };
                ensure!(is_right, "{} on {} sees {seen}, and {name} asked from {own}", pod.name, pod.node);
            }
        }
    }
    Ok(())
}
