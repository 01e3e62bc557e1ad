//! A cluster of a size: the API server's host, two nodes on one network, and three Pods. What runs on the nodes is its peer's.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::{Namespace, veth};

use super::cluster::{self, Measured, pod_cidr};
use super::ends::{self, Client, Role};
use super::kube_proxy::KubeProxy;
use super::measurement::{Measurement, Peer, Place, Target, Turn};
use crate::agent::Agent;
use crate::api_server;
use crate::cpu::OneCpu;
use crate::objects::{self, NAMESPACE, Size, node_address, node_name};
use crate::own_process::OwnProcess;
use crate::plugins::Plugin;
use crate::process::Usage;
use crate::size::maps::Maps;

/// Where the API server listens.
const API_SERVER: &str = "172.16.255.254";
/// Where it is asked how far a proxy has come.
const WAIT: Duration = Duration::from_secs(300);

/// The bed. Dropping it ends everything in it.
pub(crate) struct Bed {
    pub(crate) peer: Peer,
    pub(crate) server: api_server::Server,
    pub(crate) client: Client,
    /// Seconds from the start of the first node's daemon until it had programmed everything.
    pub(crate) load: f64,
    /// Pods: that on the client's node, that on the other one.
    backends: [IpAddr; 2],
    // In the order in which they must end: daemons, servers, then what they run in.
    daemons: Vec<Daemon>,
    _servers: Vec<OwnProcess>,
    _pods: Vec<Namespace>,
    _nodes: Vec<Namespace>,
    _groups: Vec<ControlGroup>,
    _hub: Namespace,
    pins: PathBuf,
    size: Size,
}

/// What programs the Services of a node.
enum Daemon {
    Weft(Agent),
    KubeProxy(KubeProxy),
}

impl Daemon {
    fn usage(&self) -> Result<Usage> {
        match self {
            Self::Weft(agent) => agent.usage(),
            Self::KubeProxy(proxy) => proxy.usage(),
        }
    }
}

impl Bed {
    /// Makes one below `folder`, which is its own. Maps are pinned below `pins`.
    pub(crate) fn new(peer: Peer, size: &Size, programs: &Path, folder: &Path, pins: &Path) -> Result<Self> {
        let hub = Namespace::new("hub")?;
        for words in ["ip link add name underlay type bridge", "ip link set underlay up"] {
            hub.run(words.split(' '))?;
        }
        hub.add_address("underlay", &format!("{API_SERVER}/16"))?;
        let nodes = [0, 1].map(|number| node(&hub, number)).into_iter().collect::<Result<Vec<_>>>()?;
        let groups = [0, 1].map(|_| ControlGroup::new("node")).into_iter().collect::<Result<Vec<_>>>()?;
        let server = api_server::Server::start(&hub, SocketAddr::new(API_SERVER.parse()?, 8080))?;
        cluster::fill(&server, size);
        let url = format!("http://{API_SERVER}:8080");

        let (mut daemons, mut plugins, mut load) = (Vec::new(), Vec::new(), 0.0);
        for (number, (node, group)) in (0..).zip(nodes.iter().zip(&groups)) {
            let folder = folder.join(format!("node{number}"));
            fs::create_dir_all(&folder)?;
            match peer {
                Peer::Weft => {
                    let pins = pins.join(format!("node{number}"));
                    let mut agent = Agent::new(node_name(number), url.clone(), (programs, &folder, &pins), node, group);
                    let started = agent.start()?;
                    let maps = Maps::open(&pins)?;
                    let full = maps.wait_until_full(size)?;
                    let (ready, _) = agent.wait_until_ready()?;
                    if number == 0 {
                        load = (full.max(ready) - started).as_secs_f64();
                    }
                    plugins.push(Plugin::weft(&programs.join("weft-cni"), &agent.state(), &pins));
                    daemons.push(Daemon::Weft(agent));
                }
                Peer::KubeProxy => {
                    let range = IpNetwork::new(pod_cidr(number).into(), 24)?;
                    route_to_other(node, number)?;
                    let mut proxy = KubeProxy::new(&node_name(number), &url, &folder, node)?;
                    let started = proxy.start()?;
                    let programmed = proxy.wait_until_programmed(size, WAIT)?;
                    if number == 0 {
                        load = (programmed - started).as_secs_f64();
                    }
                    plugins.push(Plugin::ptp(&folder, &[range]));
                    daemons.push(Daemon::KubeProxy(proxy));
                }
            }
        }

        let (mut pods, mut addresses) = (Vec::new(), Vec::new());
        for (number, id) in [(0, "client"), (0, "near"), (1, "far")] {
            let pod = Namespace::new(id)?;
            let added = plugins[number].add(&nodes[number], &pod, id);
            addresses.push(added.with_context(|| format!("cannot wire the pod {id} of {}", peer.network()))?);
            pods.push(pod);
        }
        let backends = [addresses[1], addresses[2]];
        let mut servers = Vec::new();
        // Where the clients will be.
        let cpu = OneCpu::last()?;
        for (number, (pod, address)) in (0..).zip(pods[1..].iter().zip(backends)) {
            servers.extend(serve(pod, address, number)?);
        }
        drop(cpu);
        let client = Client { namespace: pods[0].clone(), group: groups[0].path().display().to_string() };
        let bed = Self {
            peer,
            server,
            client,
            load,
            backends,
            daemons,
            _servers: servers,
            _pods: pods,
            _nodes: nodes,
            _groups: groups,
            _hub: hub,
            pins: pins.to_owned(),
            size: *size,
        };
        bed.connect_services()?;
        Ok(bed)
    }

    /// Gives the measured Services their backends, and waits until they answer.
    fn connect_services(&self) -> Result<()> {
        for (number, place) in (0..).zip(Place::ALL) {
            cluster::set_backend(&self.server, Measured::At(place), number, self.backends[number as usize]);
        }
        self.move_backend(0);
        for (number, measured) in
            [(0, Measured::At(Place::SameNode)), (1, Measured::At(Place::CrossNode)), (0, Measured::Moving)]
        {
            let (port, _) = Measurement::Dns.ports();
            let address = SocketAddr::new(measured.cluster_ip(), port);
            self.client
                .until(address, number, Instant::now)
                .with_context(|| format!("{measured:?} of {}", self.peer.name()))?;
        }
        Ok(())
    }

    /// Gives the moving Service the backend with this number. Gives when the API server said so.
    fn move_backend(&self, number: u32) -> Instant {
        cluster::set_backend(&self.server, Measured::Moving, number, self.backends[number as usize])
    }

    /// Moves the backend, and gives the milliseconds from the API server's word until the new one answers.
    pub(crate) fn update(&self, number: u8) -> Result<f64> {
        let (port, _) = Measurement::Dns.ports();
        let address = SocketAddr::new(Measured::Moving.cluster_ip(), port);
        self.client.until(address, number, || self.move_backend(number.into()))
    }

    /// One turn, with so many operations.
    pub(crate) fn turn(&self, measurement: Measurement, place: Place, target: Target, count: usize) -> Result<Turn> {
        let (port, of_pod) = measurement.ports();
        let address = match target {
            Target::ClusterIp => SocketAddr::new(Measured::At(place).cluster_ip(), port),
            Target::Pod => SocketAddr::new(self.backends[place as usize], of_pod),
        };
        self.client.turn(measurement, address, count)
    }

    /// Has an endpoint of one of the other Services go, or come back: of one after the other.
    pub(crate) fn change_another(&self, count: u32) {
        let number = count % self.size.services;
        let comes_back = count / self.size.services % 2 == 1;
        let now = jiff::Timestamp::now().to_string();
        let slice = |version| objects::slice(&self.size, number, 0, comes_back, version, &now);
        self.server.change(api_server::SLICES, format!("{NAMESPACE}/{}", objects::slice_name(number, 0)), slice);
    }

    /// Services of the cluster, besides those that are measured.
    pub(crate) fn services(&self) -> u32 {
        self.size.all_services()
    }

    /// What the daemon of the first node has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.daemons.first().context("a bed has daemons")?.usage()
    }

    /// Seconds that all daemons were on a CPU so far.
    pub(crate) fn cpu(&self) -> Result<f64> {
        self.daemons.iter().map(|daemon| daemon.usage().map(|usage| usage.cpu)).sum()
    }

    /// What the daemons said, for an error.
    pub(crate) fn log(&self) -> String {
        let logs = self.daemons.iter().map(|daemon| match daemon {
            Daemon::Weft(agent) => agent.log(),
            Daemon::KubeProxy(proxy) => proxy.log(),
        });
        logs.flat_map(|log| log.lines().rev().take(10).map(|line| format!("{line}\n")).collect::<Vec<_>>()).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.daemons.clear();
        // Maps go with their pins; the file system goes with this process.
        let _ = fs::remove_dir_all(&self.pins);
    }
}

/// A node on the network of the API server.
fn node(hub: &Namespace, number: u32) -> Result<Namespace> {
    let namespace = Namespace::new("node")?;
    let port = format!("node{number}");
    veth((&namespace, "eth0"), (hub, &port))?;
    hub.run(["ip", "link", "set", &port, "master", "underlay"])?;
    namespace.add_address("eth0", &format!("{}/16", node_address(number)))?;
    namespace.set_sysctl("ipv4/conf/all/forwarding", "1")?;
    Ok(namespace)
}

/// What a network without an agent has: the way to the other node's Pods.
fn route_to_other(node: &Namespace, number: u32) -> Result<()> {
    let other = 1 - number;
    let (range, via) = (format!("{}/24", pod_cidr(other)), node_address(other).to_string());
    node.run(["ip", "route", "add", &range, "via", &via]).map(drop)
}

/// Starts the servers of a backend.
fn serve(pod: &Namespace, address: IpAddr, number: u8) -> Result<Vec<OwnProcess>> {
    let listen = |port: u16| pod.enter(|| TcpListener::bind((address, port)))?.context("cannot listen");
    let dns = pod.enter(|| UdpSocket::bind((address, Measurement::Dns.ports().1)))?.context("cannot bind")?;
    Ok(vec![
        ends::start(Role::Close, listen(Measurement::Connect.ports().1)?.into())?,
        ends::start(Role::Http, listen(Measurement::Http.ports().1)?.into())?,
        ends::start(Role::Dns(number), dns.into())?,
    ])
}
