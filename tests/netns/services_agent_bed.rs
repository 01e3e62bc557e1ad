//! Services of a [`FakeApiServer`](crate::fake_api_server::FakeApiServer) with a backend of every kind, on two nodes with the real agent
//! and plugin, and processes that dial them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::answering::Answering;
use weft_tests::netns::View;
use weft_tests::sockets::{Family, Kind, SocketProcess};
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT, internal_ips, name};
use crate::fake_api_objects::{CIDRS, SERVICES, SLICES};

/// Where all servers listen.
const PORT: u16 = 9000;
/// The port of all Services.
const SERVICE_PORT: u16 = 80;

/// Somewhere that connections to a Service end, in both families.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) what: &'static str,
    pub(crate) addresses: [IpAddr; 2],
    /// The node that it is on.
    pub(crate) node: Option<String>,
}

/// The first node and its pods, a pod of the second node, and servers everywhere.
pub(crate) struct ServicesBed<'a> {
    pub(crate) cluster: &'a AgentCluster,
    /// Everything that can be behind a Service: of the first one only, or of both, what the client itself is.
    pub(crate) places: Vec<Place>,
    _servers: Vec<Answering>,
}

/// What a process is, and where.
pub(crate) struct Client {
    pub(crate) what: &'static str,
    pub(crate) process: SocketProcess,
    pub(crate) is_host: bool,
}

impl<'a> ServicesBed<'a> {
    /// Runs a test on two nodes whose agents have this setting.
    pub(crate) fn run(setting: &str, test: impl FnOnce(&ServicesBed<'_>) + Send) {
        AgentCluster::run_without_agents(DUAL, 2, |cluster| {
            for number in [1, 2] {
                cluster.register(number);
            }
            for node in &cluster.nodes {
                start(node, setting);
            }
            cluster.nodes.iter().for_each(AgentNode::wait_until_ready);
            test(&ServicesBed::of(cluster));
        });
    }

    fn of(cluster: &'a AgentCluster) -> Self {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let parsed = |addresses: Vec<String>| -> [IpAddr; 2] {
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            addresses.try_into().unwrap()
        };
        let outside = ["192.0.2.254", "2001:db8::fe"].map(|text| text.parse().unwrap());
        let pods = [one.add_pod(0), one.add_pod(1), two.add_pod(0)].map(parsed);
        let hosts = [1, 2].map(|number| parsed(internal_ips(number, DUAL)));
        let all: [(&str, &View, [IpAddr; 2], Option<u8>); 6] = [
            ("the pod itself", &one.pods[0], pods[0], Some(1)),
            ("a pod of this node", &one.pods[1], pods[1], Some(1)),
            ("a pod of another node", &two.pods[0], pods[2], Some(2)),
            ("the network of this node", &one.namespace, hosts[0], Some(1)),
            ("the network of another node", &two.namespace, hosts[1], Some(2)),
            ("an address outside", &cluster.hub, outside, None),
        ];
        let servers =
            all.iter().map(|(_, view, addresses, _)| Answering::start(view, addresses, PORT).unwrap()).collect();
        let places = all.map(|(what, _, addresses, node)| Place { what, addresses, node: node.map(name) }).to_vec();
        Self { cluster, places, _servers: servers }
    }

    /// The node that everything is dialled from.
    pub(crate) fn node(&self) -> &AgentNode {
        &self.cluster.nodes[0]
    }

    /// A process of the first node's host, and one in its first pod.
    pub(crate) fn clients(&self) -> [Client; 2] {
        let node = self.node();
        let start = |view: &View| {
            let program = Path::new(env!("CARGO_BIN_EXE_weft-test-sockets"));
            SocketProcess::start(program, view, Some(&node.group)).unwrap()
        };
        [
            Client { what: "the host", process: start(&node.namespace), is_host: true },
            Client { what: "a pod", process: start(&node.pods[0]), is_host: false },
        ]
    }

    /// Creates or replaces Service `number` with everything that makes it known by an address, and its endpoints.
    pub(crate) fn set_service(&self, number: u8, places: &[&Place]) {
        let ips = |kind| [4, 6].map(|family| address(kind, number, family).ip());
        let port = |protocol: &str, base| {
            json!({
                "name": protocol.to_lowercase(), "protocol": protocol, "port": SERVICE_PORT, "targetPort": PORT,
                "nodePort": node_port(number) + base,
            })
        };
        let ingress = ips(Dialled::LoadBalancer).map(|ip| json!({"ip": ip}));
        self.cluster.api.set_object(
            SERVICES,
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": service_name(number), "namespace": "default"},
                "spec": {
                    "type": "LoadBalancer",
                    "clusterIP": ips(Dialled::ClusterIp)[0],
                    "clusterIPs": ips(Dialled::ClusterIp),
                    "ipFamilies": ["IPv4", "IPv6"],
                    "externalIPs": ips(Dialled::External),
                    "ports": [port("TCP", 0), port("UDP", 0)],
                },
                "status": {"loadBalancer": {"ingress": ingress}},
            }),
        );
        self.set_endpoints(number, places);
    }

    /// Creates or replaces the endpoints of Service `number`.
    pub(crate) fn set_endpoints(&self, number: u8, places: &[&Place]) {
        for (index, family) in [(0, "IPv4"), (1, "IPv6")] {
            let endpoints: Vec<Value> = places
                .iter()
                .map(|place| {
                    json!({
                        "addresses": [place.addresses[index]], "nodeName": place.node,
                        "conditions": {"ready": true, "serving": true, "terminating": false},
                    })
                })
                .collect();
            let name = service_name(number);
            let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT});
            let ports = ["TCP", "UDP"].map(port);
            self.cluster.api.set_object(
                SLICES,
                json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": format!("{name}-{}", family.to_lowercase()), "namespace": "default",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": family,
                    "endpoints": endpoints,
                    "ports": ports,
                }),
            );
        }
    }

    /// Makes the ranges known that cluster IPs come from.
    pub(crate) fn set_service_cidrs(&self) {
        let cidr = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/112"]},
        });
        self.cluster.api.set_object(CIDRS, cidr);
    }

    /// Waits until a client finds one of these places behind an address.
    pub(crate) fn wait_for(&self, client: &Client, kind: Kind, dialled: SocketAddr, places: &[&Place]) {
        let expected: Vec<String> = places.iter().map(|place| server(place, dialled)).collect();
        let found = wait::until(LIMIT, "the Service", || {
            let heard = client.process.ask(kind, dialled);
            ensure!(expected.contains(&heard), "{} heard {heard} from {dialled}", client.what);
            Ok(())
        });
        found.unwrap_or_else(|error: anyhow::Error| panic!("{error:#}\n{}", self.node().log()));
    }

    /// Dials every address of Service `number`, which is this place, and gives what went wrong.
    pub(crate) fn dial_all(&self, client: &Client, kinds: &[Kind], number: u8, place: &Place) -> Vec<String> {
        let mut wrong = Vec::new();
        for (what, dialled) in dials(number, client.is_host) {
            for kind in kinds {
                // IPv4 by sockets of both families.
                for family in [Family::of(dialled), Family::V6] {
                    let heard = client.process.ask_for(*kind, family, dialled, 1, LIMIT);
                    let heard = heard.into_keys().next().unwrap_or_default();
                    if heard != server(place, dialled) {
                        let from = client.what;
                        wrong.push(format!("{from} -> {what} {dialled} ({kind:?}) -> {}: {heard}", place.what));
                    }
                }
            }
        }
        wrong
    }
}

/// Starts a node's agent with a setting of its own.
pub(crate) fn start(node: &AgentNode, setting: &str) {
    let mut command = node.agent_command();
    command.arg(setting);
    node.start(command);
}

/// What a server at a place says of itself to who dials an address of this family.
pub(crate) fn server(place: &Place, dialled: SocketAddr) -> String {
    SocketAddr::new(place.addresses[usize::from(dialled.is_ipv6())], PORT).to_string()
}

/// Kinds of service addresses.
#[derive(Clone, Copy)]
pub(crate) enum Dialled {
    ClusterIp,
    LoadBalancer,
    External,
}

/// An address of Service `number`.
pub(crate) fn address(kind: Dialled, number: u8, family: u8) -> SocketAddr {
    let text = match (kind, family) {
        (Dialled::ClusterIp, 4) => format!("10.96.0.{number}"),
        (Dialled::ClusterIp, _) => format!("fd00:96::{number}"),
        (Dialled::LoadBalancer, 4) => format!("198.51.100.{number}"),
        (Dialled::LoadBalancer, _) => format!("2001:db8:1b::{number}"),
        (Dialled::External, 4) => format!("203.0.113.{number}"),
        (Dialled::External, _) => format!("2001:db8:e::{number}"),
    };
    SocketAddr::new(text.parse().unwrap(), SERVICE_PORT)
}

fn node_port(number: u8) -> u16 {
    30_000 + u16::from(number)
}

fn service_name(number: u8) -> String {
    format!("service-{number}")
}

/// Every address of Service `number` that a client on the first node may dial.
fn dials(number: u8, is_host: bool) -> Vec<(&'static str, SocketAddr)> {
    let mut all = Vec::new();
    for family in [4, 6] {
        all.push(("the cluster IP", address(Dialled::ClusterIp, number, family)));
        all.push(("the load balancer", address(Dialled::LoadBalancer, number, family)));
        all.push(("the external IP", address(Dialled::External, number, family)));
    }
    let port = node_port(number);
    let own = internal_ips(1, DUAL).into_iter().map(|text| SocketAddr::new(text.parse().unwrap(), port));
    all.extend(own.map(|dialled| ("the node port", dialled)));
    if is_host {
        for loopback in ["127.0.0.1", "::1"] {
            all.push(("the node port at", SocketAddr::new(loopback.parse().unwrap(), port)));
        }
    }
    all
}

/// That a closure finds nothing wrong within the usual time: what the agent does comes after what it is told.
pub(crate) fn soon(bed: &ServicesBed<'_>, what: &str, mut look: impl FnMut() -> Result<()>) {
    if let Err(error) = wait::until(LIMIT, what, &mut look) {
        panic!("{error:#}\n{}", bed.node().log());
    }
}
