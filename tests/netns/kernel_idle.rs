//! What a pass costs that finds nothing to do, on a full node of a cluster of a hundred.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use weft_agent::datapath::{Kernel, Watched};
use weft_agent::overlay::pod_devices::{PodDevices, RecordedInterface};
use weft_agent::overlay::state::{FilterPlace, FilterProgram, Hook, NodeEntry, OverlayState, RouteKind};
use weft_agent::overlay::{diff, pods};
use weft_cni::mac_address::MacAddress;
use weft_common::layout::{LINK_GROUP, program};
use weft_tests::netns::Namespace;

use crate::kernel_session::{NodePlan, Session, internal_ip, lonely_node};

const PODS: u8 = 110;
const NODES: u8 = 100;
/// Many times what either takes of the CPU, in a program that was built for debugging.
const PASS: Duration = Duration::from_millis(200);
const GLANCE: Duration = Duration::from_millis(1);

/// Makes the host sides of pods with all that the plugin puts on them, but for programs.
fn make_pods(namespace: &Namespace) -> PodDevices {
    let mut batch = String::new();
    for pod in 0..PODS {
        let (name, host, inside) = (name(pod), MacAddress([2, 0, 0, 0, 1, pod]), MacAddress([2, 0, 0, 0, 2, pod]));
        writeln!(batch, "link add {name} address {host} group {LINK_GROUP} type veth peer name p{pod}").unwrap();
        writeln!(batch, "link set {name} up").unwrap();
        for address in addresses(pod) {
            writeln!(batch, "neighbour add {address} lladdr {inside} nud permanent dev {name}").unwrap();
            writeln!(batch, "route add {address} proto static dev {name}").unwrap();
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), batch).unwrap();
    namespace.run(["ip".as_ref(), "-batch".as_ref(), file.path().as_os_str()]).unwrap();
    let interface = |pod: u8| {
        let index = namespace.enter(|| nix::net::if_::if_nametoindex(name(pod).as_str()).unwrap()).unwrap();
        let (host_mac, pod_mac) = ([2, 0, 0, 0, 1, pod], [2, 0, 0, 0, 2, pod]);
        (
            name(pod),
            RecordedInterface { index, host_mac, pod_mac, addresses: addresses(pod).into(), owner: String::new() },
        )
    };
    PodDevices { interfaces: (0..PODS).map(interface).collect(), ..PodDevices::default() }
}

fn name(pod: u8) -> String {
    format!("weft{pod:011x}")
}

fn addresses(pod: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x100 + u16::from(pod));
    [Ipv4Addr::new(10, 244, 1, 10 + pod).into(), v6.into()]
}

fn add_nodes(desired: &mut OverlayState) {
    for node in 0..NODES {
        let tunnel = IpAddr::from([192, 0, 2, 100 + node]);
        let pod_cidr = format!("10.245.{node}.0/24").parse().unwrap();
        let entry = NodeEntry { tunnel, source: internal_ip(1, 4), local: false, underlay: None };
        desired.nodes.insert(pod_cidr, entry);
        desired.node_addresses.insert(tunnel, entry.of_address());
        let route = RouteKind::Overlay {
            tunnel_source: internal_ip(1, 4),
            tunnel_destination: tunnel,
            preferred_source: Some([10, 244, 1, 1].into()),
        };
        desired.routes.insert(pod_cidr, route);
    }
}

/// What one of many looks takes of the CPU: how long it lasts says more of what else the machine does.
fn work(look: &mut dyn FnMut()) -> Duration {
    const LOOKS: u32 = 20;
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        let times = [usage.user_time(), usage.system_time()];
        times
            .iter()
            .map(|time| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap()))
            .sum::<Duration>()
    };
    let before = used();
    for _ in 0..LOOKS {
        look();
    }
    (used() - before) / LOOKS
}

#[test]
fn a_pass_that_finds_nothing_and_a_glance_are_cheap_on_a_full_node() {
    let namespace = lonely_node("idle");
    let recorded = make_pods(&namespace);
    let mut desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    add_nodes(&mut desired);
    for name in recorded.interfaces.keys() {
        for (hook, program) in [(Hook::Ingress, program::FROM_POD), (Hook::Egress, program::TO_POD)] {
            let place = FilterPlace { device: name.clone(), hook };
            desired.filters.insert(place, FilterProgram::Pinned(program.to_owned()));
        }
    }
    Session::run(&namespace, |session| {
        *session.pods.borrow_mut() = recorded.interfaces.clone();
        desired.pods = pods::desired(&recorded, &session.observe(&desired).pods);
        assert_eq!(desired.pods.devices.len(), usize::from(PODS));
        session.converge(&desired);

        let mut pass_of_pods = || assert_eq!(diff::diff(&desired, &session.observe(&desired)), []);
        let mut pass_without = || drop(session.wait(session.kernel.observe(&Watched::NOTHING)).unwrap());
        let mut glance_once = || assert!(!session.kernel.changed_silently(), "nothing has changed");
        let (pass, without_pods, glance) = (work(&mut pass_of_pods), work(&mut pass_without), work(&mut glance_once));
        println!("a pass {pass:?}, without what pods add {without_pods:?}, a glance {glance:?}");
        assert!(pass < PASS && glance < GLANCE, "{pass:?} {glance:?}");
    });
}
