//! What lies below the pods: bridges for the nodes, a router between them and the world, and the nodes' devices.

use anyhow::Result;

use crate::netns::{Namespace, View, veth};
use crate::plan::{self, Family};
use crate::wiring::{Network, Wiring};

/// The router's device towards the world.
const WORLD_DEVICE: &str = "world";

/// A bridge for each network of the nodes, a link to the world, and forwarding between them.
pub(crate) fn wire_control(control: &View, world: &View, family: Family, wiring: Wiring) -> Result<()> {
    for network in wiring.networks() {
        let bridge = network.bridge();
        control.run(["ip", "link", "add", bridge, "type", "bridge"])?;
        control.run(["ip", "link", "set", bridge, "up"])?;
        for interface in network.gateway(family) {
            control.add_address(bridge, &interface.to_string())?;
        }
    }
    veth((control, WORLD_DEVICE), (world, "eth0"))?;
    for interface in plan::world_gateway(family) {
        control.add_address(WORLD_DEVICE, &interface.to_string())?;
        let forwarding =
            if interface.address.is_ipv4() { "ipv4/conf/all/forwarding" } else { "ipv6/conf/all/forwarding" };
        control.set_sysctl(forwarding, "1")?;
    }
    for interface in plan::world(family) {
        world.add_address("eth0", &interface.to_string())?;
    }
    // The world knows the nodes' networks, and nothing of pods.
    for network in wiring.networks() {
        for (interface, gateway) in network.gateway(family).iter().zip(plan::world_gateway(family)) {
            world.run(["ip", "route", "add", &interface.network(), "via", &gateway.address.to_string()])?;
        }
    }
    Ok(())
}

/// Connects a node's namespace to the networks. `name` is the node's.
pub(crate) fn wire_node(
    control: &View,
    namespace: &Namespace,
    name: &str,
    family: Family,
    wiring: Wiring,
    number: usize,
) -> Result<()> {
    if wiring == Wiring::Twofold {
        // The larger one of `all` and a device's own counts; new devices take the default.
        for group in ["all", "default"] {
            namespace.set_sysctl(&format!("ipv4/conf/{group}/rp_filter"), "1")?;
        }
    }
    for device in wiring.devices(family, number) {
        let port = port(name, device.network);
        veth((control, &port), (namespace, device.name))?;
        control.run(["ip", "link", "set", &port, "master", device.network.bridge()])?;
        let mtu = device.network.mtu().to_string();
        control.run(["ip", "link", "set", &port, "mtu", &mtu])?;
        namespace.run(["ip", "link", "set", device.name, "mtu", &mtu])?;
        for interface in &device.addresses {
            namespace.add_address(device.name, &interface.to_string())?;
        }
        if device.leads_to_world {
            for gateway in device.network.gateway(family) {
                namespace.run(["ip", "route", "add", "default", "via", &gateway.address.to_string()])?;
            }
        }
    }
    Ok(())
}

/// Removes what connected a node that has gone: the kernel takes its time with the devices of a namespace that nobody is in.
pub(crate) fn unplug_node(control: &View, name: &str, wiring: Wiring) {
    for network in wiring.networks() {
        // Where they are gone already, there is nothing to do.
        let _ = control.run(["ip", "link", "delete", &port(name, *network)]);
    }
}

/// The bridge port of a node.
fn port(name: &str, network: Network) -> String {
    match network {
        Network::Nodes => name.to_owned(),
        Network::Other => format!("{name}-other"),
    }
}
