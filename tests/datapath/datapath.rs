//! The programs, loaded as the agent loads them, with the maps of a small cluster; and a way to run one on a packet.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_agent::datapath::maps::Maps;
use weft_agent::datapath::object::OBJECT;
use weft_agent::datapath::programs;
use weft_agent::overlay::state::{NodeAddressEntry, NodeEntry};
use weft_common::address;
use weft_common::entries::{Config, Endpoint};
use weft_common::layout::{PIN_DIRECTORY, map};
use weft_common::reason::{DropReason, Program};

use crate::datapath_run::{self, Circumstances};
use crate::frames::{Frame, Mac};

/// `BPF_PROG_TEST_RUN` without a context says that packets come in by the loopback device: its pod is "this pod".
const OWN_DEVICE: u32 = 1;
const OTHER_DEVICE: u32 = 7;

/// MAC addresses of "this pod".
pub(crate) const OWN_POD_MAC: Mac = [2; 6];
pub(crate) const OWN_HOST_MAC: Mac = [4; 6];
/// MAC addresses of the pod that is not "this pod".
pub(crate) const OTHER_POD_MAC: Mac = [0x0a, 1, 2, 3, 4, 5];
pub(crate) const OTHER_HOST_MAC: Mac = [0x0a, 6, 7, 8, 9, 10];

/// MAC addresses of frames in the tunnel: source and destination.
pub(crate) const INNER_MACS: (Mac, Mac) = (*b"\x06weft\x01", *b"\x06weft\x02");
/// The largest IP packet that fits into the tunnel.
pub(crate) const POD_MTU: usize = 1430;
/// The device by which packets leave for nodes past the VXLAN device. Runs without a device do not look for it.
const UNDERLAY_DEVICE: u32 = 5;

/// A node of the cluster, by its number.
struct ClusterNode {
    number: u8,
    /// The address between it and this one, and its other InternalIP.
    internal_ips: [&'static str; 2],
    /// The device to it, where that is not the VXLAN device.
    underlay: Option<u32>,
}

const NODES: [ClusterNode; 5] = [
    ClusterNode { number: 1, internal_ips: ["192.0.2.1", "2001:db8::1"], underlay: None },
    ClusterNode { number: 2, internal_ips: ["192.0.2.2", "2001:db8::2"], underlay: None },
    ClusterNode { number: 3, internal_ips: ["2001:db8::3", "192.0.2.3"], underlay: None },
    ClusterNode { number: 4, internal_ips: ["192.0.2.4", "2001:db8::4"], underlay: Some(UNDERLAY_DEVICE) },
    ClusterNode { number: 5, internal_ips: ["2001:db8::5", "192.0.2.5"], underlay: Some(UNDERLAY_DEVICE) },
];

/// What programs return (`linux/pkt_cls.h`).
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_STOLEN: i32 = 4;
const TC_ACT_REDIRECT: i32 = 7;

/// What a program made of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It went on as it was.
    Passed,
    /// It went on, as these bytes.
    Changed(Vec<u8>),
    /// It was counted as refused, and these bytes were sent instead.
    Refused(Vec<u8>),
    /// The same of a flow for which there was no place.
    NoPlace(Vec<u8>),
    /// It went, as these bytes, to another device.
    Redirected(Vec<u8>),
    /// It is kept, or was sent again: it goes no further.
    Taken,
    /// It was dropped, and counted.
    Dropped(DropReason),
}

/// What a program should make of a packet: a line of a table.
pub(crate) type Case<Name = &'static str> = (Name, Vec<u8>, Outcome);

/// Loaded programs.
pub(crate) struct Datapath {
    pub(crate) maps: Maps,
    programs: Vec<SchedClassifier>,
    /// The counters after the last run.
    counters: RefCell<Counters>,
}

impl Datapath {
    /// Loads the programs, and writes the maps of a cluster:
    ///
    /// - node 1 is this one. `.10` is "this pod", `.11` another pod.
    /// - nodes 2 and 4 have an IPv4 address between them and this one, nodes 3 and 5 an IPv6 address. Each has another InternalIP of
    ///   the other family.
    /// - packets for nodes 2 and 3 leave by the VXLAN device, those for nodes 4 and 5 past it.
    pub(crate) fn load() -> Self {
        let datapath = Self::load_unconfigured();
        datapath.maps.set_config(Config { overlay_ifindex: 9, pod_mtu: POD_MTU as u32 }).unwrap();
        datapath.maps.lease_fast_path(Duration::MAX).unwrap();
        datapath
    }

    /// The same, while the agent has not written the map CONFIG.
    pub(crate) fn load_unconfigured() -> Self {
        mount_bpffs();
        programs::load(pins(), OBJECT).unwrap();
        let maps = Maps::open(pins()).unwrap();
        let programs = Program::ALL.map(|program| SchedClassifier::from_pin(pins().join(program.name())).unwrap());
        let datapath = Self { counters: RefCell::new(counters(&maps)), programs: programs.into(), maps };
        for ClusterNode { number, internal_ips, underlay } in NODES {
            let [tunnel, other] = internal_ips.map(|address| address.parse::<IpAddr>().unwrap());
            datapath.set_node(number, tunnel, underlay);
            for address in [tunnel, other] {
                let entry = NodeAddressEntry { tunnel, local: number == 1 };
                datapath.maps.set_node_address(address, entry).unwrap();
            }
        }
        datapath.stand_at(10);
        datapath
    }

    /// Makes the pod whose addresses end in this, 10 or 11, "this pod", and the other one the other.
    pub(crate) fn stand_at(&self, end: u8) {
        let own = Endpoint { ifindex: OWN_DEVICE, pod_mac: OWN_POD_MAC, host_mac: OWN_HOST_MAC };
        let other = Endpoint { ifindex: OTHER_DEVICE, pod_mac: OTHER_POD_MAC, host_mac: OTHER_HOST_MAC };
        for (end, endpoint) in [(end, own), (21 - end, other)] {
            for address in [format!("10.244.1.{end}"), format!("fd00:10:244:1::{end}")] {
                set_endpoint(pins(), address.parse().unwrap(), endpoint);
            }
        }
    }

    /// Writes the podCIDRs of a node, and the way to it.
    pub(crate) fn set_node(&self, number: u8, tunnel: IpAddr, underlay: Option<u32>) {
        let source = if tunnel.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
        let entry = NodeEntry { tunnel, source, local: number == 1, underlay };
        self.maps.set_node(format!("10.244.{number}.0/24").parse().unwrap(), entry).unwrap();
        self.maps.set_node(format!("fd00:10:244:{number}::/64").parse().unwrap(), entry).unwrap();
    }

    /// Runs a program on a frame.
    pub(crate) fn run(&self, program: Program, frame: &[u8]) -> Outcome {
        self.run_in(program, frame, Circumstances::default())
    }

    /// Runs a program on a frame of which the kernel knows more than its bytes.
    pub(crate) fn run_in(&self, program: Program, frame: &[u8], circumstances: Circumstances) -> Outcome {
        let run = datapath_run::run(&self.programs[program as usize], frame, circumstances);
        let (action, out) = run.unwrap_or_else(|error| panic!("{circumstances:?}: {error}: {frame:02x?}"));
        let now = counters(&self.maps);
        let counted = difference(&self.counters.replace(now.clone()), &now);
        match (action, counted.as_slice()) {
            (TC_ACT_UNSPEC, []) if out == frame => Outcome::Passed,
            (TC_ACT_UNSPEC, []) => Outcome::Changed(out),
            (TC_ACT_STOLEN, []) => Outcome::Taken,
            (TC_ACT_REDIRECT, []) => Outcome::Redirected(out),
            (TC_ACT_REDIRECT, &[(counted_for, DropReason::ServiceRefused, 1)]) if counted_for == program => {
                Outcome::Refused(out)
            }
            (TC_ACT_REDIRECT, &[(counted_for, DropReason::FlowTableFull, 1)]) if counted_for == program => {
                Outcome::NoPlace(out)
            }
            (TC_ACT_SHOT, &[(counted_for, reason, 1)]) if counted_for == program => Outcome::Dropped(reason),
            (action, counted) => panic!("action {action} with counters {counted:?}"),
        }
    }

    /// Runs a program on a frame without a look at the counters: for many frames.
    pub(crate) fn run_uncounted(&self, program: Program, frame: &[u8]) {
        datapath_run::run(&self.programs[program as usize], frame, Circumstances::default()).unwrap();
    }

    /// Looks at the counters, after many frames.
    pub(crate) fn recount(&self) {
        self.counters.replace(counters(&self.maps));
    }

    /// Runs a program on every frame of a table, without the kernel having its checksum and with it.
    pub(crate) fn check<Name: Display>(&self, program: Program, cases: impl IntoIterator<Item = Case<Name>>) {
        for (what, frame, expected) in cases {
            for checksum in [false, true] {
                let outcome = self.run_in(program, &frame, Circumstances { checksum, segment: 0 });
                assert_eq!(outcome, expected, "{what}, checksum {checksum}: {frame:02x?}");
            }
        }
    }
}

/// Where the programs are pinned: in the real place, on a file system that only this test sees.
pub(crate) fn pins() -> &'static Path {
    Path::new(PIN_DIRECTORY)
}

/// Mounts a BPF file system at the usual place, for this thread and what it starts. It goes with the thread.
pub(crate) fn mount_bpffs() {
    unshare(CloneFlags::CLONE_NEWNS).expect("tests run as root");
    let none: Option<&str> = None;
    mount(none, "/sys", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
}

/// Writes what the plugin writes for a pod's address.
pub(crate) fn set_endpoint(pins: &Path, address: IpAddr, endpoint: Endpoint) {
    let map = Map::from_map_data(MapData::from_pin(pins.join(map::ENDPOINTS)).unwrap()).unwrap();
    let mut endpoints: HashMap<_, [u8; 16], Endpoint> = map.try_into().unwrap();
    endpoints.insert(address::to_bytes(address), endpoint, 0).unwrap();
}

/// Counters by program and reason.
pub(crate) type Counters = BTreeMap<(u32, u32), u64>;

pub(crate) fn counters(maps: &Maps) -> Counters {
    maps.drops().unwrap().into_iter().map(|(program, reason, count)| ((program as u32, reason as u32), count)).collect()
}

/// What was counted since.
pub(crate) fn drops_since(before: &Counters, maps: &Maps) -> Vec<(Program, DropReason, u64)> {
    difference(before, &counters(maps))
}

/// What was counted between.
fn difference(before: &Counters, after: &Counters) -> Vec<(Program, DropReason, u64)> {
    let counted =
        Program::ALL.into_iter().flat_map(|program| DropReason::ALL.iter().map(move |&reason| (program, reason)));
    counted
        .map(|(program, reason)| (program, reason, (program as u32, reason as u32)))
        .map(|(program, reason, key)| (program, reason, after[&key] - before[&key]))
        .filter(|&(_, _, count)| count != 0)
        .collect()
}

/// The outcome of a frame of this node's other pod.
pub(crate) fn to_other_pod(frame: &Frame) -> Outcome {
    let out = frame.clone().macs(OTHER_HOST_MAC, OTHER_POD_MAC).hop_limit(frame.hop_limit - 1);
    Outcome::Redirected(out.bytes())
}

/// The outcome of a frame that comes back to this pod.
pub(crate) fn to_this_pod(frame: &Frame) -> Outcome {
    let out = frame.clone().macs(OWN_HOST_MAC, OWN_POD_MAC).hop_limit(frame.hop_limit - 1);
    Outcome::Redirected(out.bytes())
}

/// The outcome of a frame for a pod of another node that goes by the VXLAN device.
pub(crate) fn into_the_overlay(frame: &Frame) -> Outcome {
    let out = frame.clone().macs(INNER_MACS.0, INNER_MACS.1).hop_limit(frame.hop_limit - 1);
    Outcome::Redirected(out.bytes())
}

/// A path below the BPF file system of this test.
pub(crate) fn bpffs(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(name)
}
