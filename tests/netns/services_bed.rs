//! A host, a pod and servers as namespaces, with the programs for sockets on a control group of the test's own: `host` is what the
//! programs take for the host.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_agent::datapath::socket_programs::SocketPrograms;
use weft_agent::datapath::{netns_cookie, object, programs};
use weft_common::layout::PIN_DIRECTORY;
use weft_common::reason::DropReason;
use weft_common::services::{PodAddresses, ServicesConfig};
use weft_tests::answering::Answering;
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::{Namespace, View, veth};
use weft_tests::sockets::{Family, SocketProcess};

use crate::services_tables::Tables;

/// Sockets of each family, and the families of addresses that they reach: IPv6 sockets reach IPv4 by IPv4-mapped addresses.
pub(crate) const WAYS: [(Family, u8); 3] = [(Family::V4, 4), (Family::V6, 4), (Family::V6, 6)];
/// How many servers there are.
pub(crate) const SERVERS: u8 = 4;
/// Their port.
pub(crate) const PORT: u16 = 8080;

/// Everything.
pub(crate) struct Bed {
    pub(crate) tables: Tables,
    pub(crate) host: Namespace,
    pub(crate) pod: Namespace,
    pub(crate) group: ControlGroup,
    // Its end detaches the programs.
    _programs: SocketPrograms,
    _servers: Answering,
    _far: Namespace,
}

impl Bed {
    /// Namespaces, servers and programs; the maps know this node, and no Service.
    pub(crate) fn new() -> Self {
        let bed = Self::without_configuration();
        bed.configure(0);
        bed
    }

    /// The same before the agent wrote anything to the maps.
    pub(crate) fn without_configuration() -> Self {
        let [host, pod, far] = ["host", "pod", "far"].map(|name| Namespace::new(name).unwrap());
        veth((&host, "eth0"), (&far, "eth0")).unwrap();
        veth((&host, "pod0"), (&pod, "eth0")).unwrap();
        let addresses: [(&View, &str, [&str; 2]); 4] = [
            (&host, "eth0", ["192.0.2.1/24", "2001:db8::1/64"]),
            (&far, "eth0", ["192.0.2.254/24", "2001:db8::fe/64"]),
            (&host, "pod0", ["10.244.1.1/24", "fd00:10:244:1::1/64"]),
            (&pod, "eth0", ["10.244.1.2/24", "fd00:10:244:1::2/64"]),
        ];
        for (namespace, device, own) in addresses {
            own.iter().for_each(|address| namespace.add_address(device, address).unwrap());
        }
        let gateways: [(&View, [&str; 2]); 3] = [
            (&host, ["192.0.2.254", "2001:db8::fe"]),
            (&far, ["192.0.2.1", "2001:db8::1"]),
            (&pod, ["10.244.1.1", "fd00:10:244:1::1"]),
        ];
        for (namespace, [v4, v6]) in gateways {
            namespace.run(["ip", "route", "add", "default", "via", v4]).unwrap();
            namespace.run(["ip", "-6", "route", "add", "default", "via", v6]).unwrap();
        }
        for (path, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            host.set_sysctl(path, value).unwrap();
        }
        // What is sent to a service address gets lost there without a word, as behind a filter.
        for wall in ["10.96.0.0/16", "fd00:96::/64"] {
            let family = if wall.contains(':') { "ip6" } else { "ip" };
            far.run([
                "nft",
                "add table inet wall; add chain inet wall in { type filter hook prerouting priority -300; }",
            ])
            .unwrap();
            far.run(["nft", &format!("add rule inet wall in {family} daddr {wall} drop")]).unwrap();
        }
        let servers: Vec<IpAddr> =
            (1..=SERVERS).flat_map(|number| [server(number, 4).ip(), server(number, 6).ip()]).collect();
        for server in &servers {
            let length = if server.is_ipv4() { 32 } else { 128 };
            far.add_address("lo", &format!("{server}/{length}")).unwrap();
        }
        let answering = Answering::start(&far, &servers, PORT).unwrap();
        let group = ControlGroup::new("sockets").unwrap();
        let (tables, programs) = attach(&group);
        Self { tables, host, pod, group, _programs: programs, _servers: answering, _far: far }
    }

    /// Tells the programs about this node.
    pub(crate) fn configure(&self, flags: u32) {
        let bytes = |text: &str| weft_common::address::to_bytes(text.parse().unwrap());
        self.tables.set_config(ServicesConfig {
            gateway_v4: bytes("10.244.1.1"),
            gateway_v6: bytes("fd00:10:244:1::1"),
            host_v4: bytes("192.0.2.1"),
            host_v6: bytes("2001:db8::1"),
            host_namespace: cookie(&self.host),
            flags,
            zero: 0,
        });
    }

    /// Tells the programs which addresses the pod has, as the plugin does.
    pub(crate) fn record_pod(&self) {
        let [v4, v6] = pod_addresses().map(weft_common::address::to_bytes);
        self.tables.set_pod(cookie(&self.pod), PodAddresses { v4, v6 });
    }

    /// A process on the host.
    pub(crate) fn on_host(&self) -> SocketProcess {
        process(&self.host, Some(&self.group))
    }

    /// A process in the pod.
    pub(crate) fn in_pod(&self) -> SocketProcess {
        process(&self.pod, Some(&self.group))
    }

    /// A process on the host whose control group has no programs.
    pub(crate) fn in_another_group(&self) -> SocketProcess {
        process(&self.host, None)
    }

    /// How many connections and messages were refused or dropped, by reason; those that were not are left out.
    pub(crate) fn drops(&self) -> BTreeMap<&'static str, u64> {
        let counts = DropReason::ALL.iter().map(|reason| (reason.name(), self.tables.drops(*reason)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

fn process(namespace: &View, group: Option<&ControlGroup>) -> SocketProcess {
    SocketProcess::start(Path::new(env!("CARGO_BIN_EXE_weft-test-sockets")), namespace, group).unwrap()
}

/// Loads the programs and attaches them as the agent does, in a BPF file system that is gone afterwards: what is held open stays.
fn attach(group: &ControlGroup) -> (Tables, SocketPrograms) {
    let load = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        let pins = Path::new(PIN_DIRECTORY);
        programs::load(pins, object::OBJECT).unwrap();
        (Tables::open(pins), SocketPrograms::attach(pins, group.path()).unwrap())
    };
    thread::scope(|scope| scope.spawn(load).join().unwrap())
}

/// The cookie of a namespace.
fn cookie(namespace: &View) -> u64 {
    namespace.enter(|| netns_cookie::own().unwrap()).unwrap()
}

/// The addresses of the pod.
pub(crate) fn pod_addresses() -> [IpAddr; 2] {
    ["10.244.1.2".parse().unwrap(), "fd00:10:244:1::2".parse().unwrap()]
}

/// An address and a port.
pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Server `number`, from 1 to [`SERVERS`].
pub(crate) fn server(number: u8, family: u8) -> SocketAddr {
    let text = if family == 4 { format!("10.9.0.{number}") } else { format!("fd00:9::{number}") };
    SocketAddr::new(text.parse().unwrap(), PORT)
}

/// Address `number` of the ServiceCIDR, with port 80.
pub(crate) fn service(number: u8, family: u8) -> SocketAddr {
    let text = if family == 4 { format!("10.96.0.{number}") } else { format!("fd00:96::{number}") };
    SocketAddr::new(text.parse().unwrap(), 80)
}
