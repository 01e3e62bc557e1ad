//! What the API server says: a cluster of a size, and besides it the Services that are measured.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::measurement::{Measurement, Place};
use crate::api_server::{CIDRS, NODES, SERVICES, SLICES, Server};
use crate::objects::{self, NAMESPACE, Size, node_name};

/// A Service that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    /// With one backend, which is there.
    At(Place),
    /// With one backend, which moves.
    Moving,
}

impl Measured {
    const ALL: [Self; 3] = [Self::At(Place::SameNode), Self::At(Place::CrossNode), Self::Moving];

    /// Beyond the numbers of all others.
    fn number(self) -> u32 {
        match self {
            Self::At(Place::SameNode) => 60_001,
            Self::At(Place::CrossNode) => 60_002,
            Self::Moving => 60_003,
        }
    }

    pub(crate) fn cluster_ip(self) -> IpAddr {
        objects::cluster_ip(self.number()).into()
    }

    fn slice_key(self) -> String {
        format!("{NAMESPACE}/{}", objects::slice_name(self.number(), 0))
    }
}

impl Measurement {
    /// The port of the Service, and that of the Pod.
    pub(crate) fn ports(self) -> (u16, u16) {
        match self {
            Self::Connect => (81, 8081),
            Self::Http => (80, 8080),
            Self::Dns => (53, 5353),
        }
    }

    fn port_name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Http => "http",
            Self::Dns => "dns",
        }
    }

    fn protocol(self) -> &'static str {
        if self == Self::Dns { "UDP" } else { "TCP" }
    }
}

/// Makes all objects. The measured Services have no endpoints yet.
pub(crate) fn fill(server: &Server, size: &Size) {
    for number in 0..size.nodes {
        server.add(NODES, node_name(number), |version| objects::node(number, version));
    }
    for number in 0..size.all_services() {
        let key = |name: String| format!("{NAMESPACE}/{name}");
        server.add(SERVICES, key(objects::service_name(number)), |version| objects::service(number, version));
        for index in 0..size.slices_of(number) {
            let slice = |version| objects::slice(size, number, index, true, version, "2026-11-02T09:14:51Z");
            server.add(SLICES, key(objects::slice_name(number, index)), slice);
        }
    }
    for measured in Measured::ALL {
        let key = format!("{NAMESPACE}/{}", objects::service_name(measured.number()));
        server.add(SERVICES, key, |version| service(measured, version));
        server.add(SLICES, measured.slice_key(), |version| slice(measured, None, version));
    }
    server.add(CIDRS, "kubernetes".to_owned(), objects::service_cidr);
}

/// Gives a measured Service its backend, on the node with this number, in the place of any that it has.
pub(crate) fn set_backend(server: &Server, measured: Measured, node: u32, address: IpAddr) -> std::time::Instant {
    server.change(SLICES, measured.slice_key(), |version| slice(measured, Some((node, address)), version))
}

fn service(measured: Measured, version: u64) -> Value {
    let mut object = objects::service(measured.number(), version);
    let port = |of: Measurement| {
        let (port, target) = of.ports();
        json!({"name": of.port_name(), "protocol": of.protocol(), "port": port, "targetPort": target})
    };
    object["spec"]["ports"] = Measurement::ALL.map(port).into();
    object
}

fn slice(measured: Measured, backend: Option<(u32, IpAddr)>, version: u64) -> Value {
    // Of the shape that all slices have; with ports and endpoints of its own.
    let size = Size { services: 0, endpoints: 0, nodes: 1, large: 0 };
    let mut object = objects::slice(&size, measured.number(), 0, true, version, &jiff::Timestamp::now().to_string());
    let port = |of: Measurement| json!({"name": of.port_name(), "protocol": of.protocol(), "port": of.ports().1});
    object["ports"] = Measurement::ALL.map(port).into();
    let endpoint = |(node, address): (u32, IpAddr)| {
        json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node_name(node), "zone": "eu-west-1a",
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("measured-{address}")},
        })
    };
    object["endpoints"] = backend.map(endpoint).into_iter().collect();
    object
}

/// The range of a node's Pods.
pub(crate) fn pod_cidr(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + node * 256)
}
