//! A `LinuxKernel` in a namespace, with a BPF file system that only its thread sees, and a desired state to bring there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::{Builder, Runtime};
use weft_agent::datapath::kernel::LinuxKernel;
use weft_agent::datapath::maps::Maps;
use weft_agent::datapath::{Kernel, Watched, object, programs};
use weft_agent::overlay::desired;
use weft_agent::overlay::diff::diff;
use weft_agent::overlay::pod_devices::RecordedInterface;
use weft_agent::overlay::state::{
    Change, FilterPlace, FilterProgram, Hook, NodeEntry, OverlayDevice, OverlayState, RouteKind,
};
use weft_common::layout::{OVERLAY_DEVICE, PIN_DIRECTORY, program};
use weft_tests::netns::Namespace;

/// Runs what the agent runs on one thread of a node.
pub(crate) struct Session {
    runtime: Runtime,
    pub(crate) kernel: LinuxKernel,
    pub(crate) maps: Maps,
    /// The pod interfaces that are looked at.
    pub(crate) pods: RefCell<BTreeMap<String, RecordedInterface>>,
}

impl Session {
    /// Runs `test` on a thread in the namespace. The programs are loaded; they stay attached after the thread's end, while
    /// their pins go with it.
    pub(crate) fn run<T: Send>(namespace: &Namespace, test: impl FnOnce(&Self) -> T + Send) -> T {
        namespace.enter(|| test(&Self::open())).unwrap()
    }

    fn open() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        let pins = PathBuf::from(PIN_DIRECTORY);
        programs::load(&pins, object::OBJECT).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let kernel = runtime.block_on(async { LinuxKernel::open(&pins, "/proc/sys".as_ref()) }).unwrap();
        Self { runtime, kernel, maps: Maps::open(&pins).unwrap(), pods: RefCell::default() }
    }

    /// Runs a future to its end.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// What is there, with the sysctls that `desired` names.
    pub(crate) fn observe(&self, desired: &OverlayState) -> OverlayState {
        let sysctls: Vec<String> = desired.sysctls.keys().cloned().collect();
        let pods = self.pods.borrow();
        let watched = Watched { sysctls: &sysctls, pods: &pods };
        self.wait(self.kernel.observe(&watched)).unwrap()
    }

    pub(crate) fn apply(&self, change: &Change) {
        self.wait(self.kernel.apply(change)).unwrap_or_else(|error| panic!("{change:?}: {error}"));
    }

    /// One pass of the reconciler: the changes that it made.
    pub(crate) fn pass(&self, desired: &OverlayState) -> Vec<Change> {
        let changes = diff(desired, &self.observe(desired));
        changes.iter().for_each(|change| self.apply(change));
        changes
    }

    /// Passes until nothing is left to do. What is odd may take two.
    pub(crate) fn converge(&self, desired: &OverlayState) {
        for _ in 0..3 {
            if self.pass(desired).is_empty() {
                break;
            }
        }
        assert_eq!(self.observe(desired), *desired);
    }
}

/// What a node of a two-node cluster should hold.
pub(crate) struct NodePlan {
    pub(crate) internal_ips: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNetwork>,
    pub(crate) peer_internal_ips: Vec<IpAddr>,
    pub(crate) peer_pod_cidrs: Vec<IpNetwork>,
}

/// The first address of a podCIDR.
pub(crate) fn gateway(pod_cidr: IpNetwork) -> IpAddr {
    pod_cidr.iter().nth(1).unwrap()
}

impl NodePlan {
    /// Node `number` (1 or 2) of a cluster with these families (4, 6).
    pub(crate) fn of(number: u8, underlay: &[u8], pods: &[u8]) -> Self {
        let internal_ips = |number: u8| underlay.iter().map(|family| internal_ip(number, *family)).collect();
        let pod_cidrs = |number: u8| pods.iter().map(|family| pod_cidr(number, *family)).collect();
        let peer = 3 - number;
        Self {
            internal_ips: internal_ips(number),
            pod_cidrs: pod_cidrs(number),
            peer_internal_ips: internal_ips(peer),
            peer_pod_cidrs: pod_cidrs(peer),
        }
    }

    pub(crate) fn desired(&self) -> OverlayState {
        let mac = [2, 0, 0, 0, 0, self.number()];
        let source = self.internal_ips[0];
        let own = NodeEntry { tunnel: source, source, local: true, underlay: None };
        let peer = NodeEntry { tunnel: self.peer_internal_ips[0], source, local: false, underlay: None };
        let mut state = OverlayState {
            device: Some(OverlayDevice { mtu: 1430, mac, shape_is_ours: true, up: true }),
            addresses: self.pod_cidrs.iter().map(|pod_cidr| gateway(*pod_cidr)).collect(),
            configured: Some(1430),
            masquerade: Some(self.pod_cidrs.iter().copied().collect()),
            pins: desired::pins(),
            ..OverlayState::default()
        };
        for (path, value) in
            [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/conf/weft0/rp_filter", "2")]
        {
            state.sysctls.insert(format!("net/{path}"), value.to_owned());
        }
        let place = FilterPlace { device: OVERLAY_DEVICE.to_owned(), hook: Hook::Ingress };
        state.filters.insert(place, FilterProgram::Pinned(program::FROM_OVERLAY.to_owned()));
        state.node_addresses.extend(self.internal_ips.iter().map(|address| (*address, own.of_address())));
        state.node_addresses.extend(self.peer_internal_ips.iter().map(|address| (*address, peer.of_address())));
        for pod_cidr in &self.pod_cidrs {
            state.nodes.insert(*pod_cidr, own);
            state.routes.insert(*pod_cidr, RouteKind::Unreachable);
        }
        for pod_cidr in &self.peer_pod_cidrs {
            state.nodes.insert(*pod_cidr, peer);
            let same_family = self.pod_cidrs.iter().find(|own| own.is_ipv4() == pod_cidr.is_ipv4());
            let route = RouteKind::Overlay {
                tunnel_source: own.tunnel,
                tunnel_destination: peer.tunnel,
                preferred_source: same_family.map(|own| gateway(*own)),
            };
            state.routes.insert(*pod_cidr, route);
        }
        state
    }

    fn number(&self) -> u8 {
        match self.internal_ips[0] {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        }
    }
}

pub(crate) fn internal_ip(number: u8, family: u8) -> IpAddr {
    let text = if family == 4 { format!("192.0.2.{number}") } else { format!("2001:db8::{number}") };
    text.parse().unwrap()
}

pub(crate) fn pod_cidr(number: u8, family: u8) -> IpNetwork {
    let text = if family == 4 { format!("10.244.{number}.0/24") } else { format!("fd00:10:244:{number}::/64") };
    text.parse().unwrap()
}

/// Gives a device the InternalIPs of a node, both families.
pub(crate) fn add_internal_ips(namespace: &Namespace, device: &str, number: u8) {
    namespace.add_address(device, &format!("{}/24", internal_ip(number, 4))).unwrap();
    namespace.add_address(device, &format!("{}/64", internal_ip(number, 6))).unwrap();
}

/// A device that leads nowhere, up. (Not every kernel has dummy devices.)
pub(crate) fn add_device(namespace: &Namespace, name: &str, mtu: &str) {
    let peer = format!("{name}-peer");
    namespace.run(["ip", "link", "add", name, "mtu", mtu, "type", "veth", "peer", "name", &peer]).unwrap();
    for device in [name, &peer] {
        namespace.run(["ip", "link", "set", device, "up"]).unwrap();
    }
}

/// A namespace with a device `eth0` that leads nowhere and has the InternalIPs of node 1.
pub(crate) fn lonely_node(name: &str) -> Namespace {
    let namespace = Namespace::new(name).unwrap();
    add_device(&namespace, "eth0", "1500");
    add_internal_ips(&namespace, "eth0", 1);
    namespace
}
