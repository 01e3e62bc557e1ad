//! Nodes with two devices and two addresses of each family on each device.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_tests::cluster::Cluster;
use weft_tests::plan;
use weft_tests::wiring::{Device, Network};

use crate::Case;
use crate::fixture::Fixture;

/// What makes these clusters hard, on any Pod network.
pub(crate) const ANY_NETWORK: &[Case] = &[("the_kernel_would_choose_other_addresses_and_devices", hard)];

pub(crate) const CASES: &[Case] = &[("pods_get_the_mtu_of_the_internal_ips_device", mtu)];

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
