//! The programs, loaded as the agent loads them, with the maps of a small cluster; and a way to run one on a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use aya::{TestRun, TestRunOptions};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_agent::datapath::maps::Maps;
use weft_agent::datapath::object::OBJECT;
use weft_agent::datapath::programs;
use weft_agent::overlay::state::NodeEntry;
use weft_common::address;
use weft_common::entries::{Config, Endpoint};
use weft_common::layout::{PIN_DIRECTORY, map};
use weft_common::reason::{DropReason, Program};

use crate::frames::{Frame, Mac};

/// `BPF_PROG_TEST_RUN` without a context says that packets come in by the loopback device: its pod is "this pod".
const OWN_DEVICE: u32 = 1;
const OTHER_DEVICE: u32 = 7;

/// MAC addresses of the pod that is not "this pod".
pub(crate) const OTHER_POD_MAC: Mac = [0x0a, 1, 2, 3, 4, 5];
pub(crate) const OTHER_HOST_MAC: Mac = [0x0a, 6, 7, 8, 9, 10];

/// What programs return (`linux/pkt_cls.h`).
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// What a program made of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It went on as it was.
    Passed,
    /// It went, as these bytes, to another device.
    Redirected(Vec<u8>),
    /// It was dropped, and counted.
    Dropped(DropReason),
}

/// What a program should make of a packet: a line of a table.
pub(crate) type Case = (&'static str, Vec<u8>, Outcome);

/// Loaded programs.
pub(crate) struct Datapath {
    pub(crate) maps: Maps,
}

impl Datapath {
    /// Loads the programs, and writes the maps of a cluster:
    ///
    /// - node 1 is this one. `.10` is "this pod", `.11` another pod.
    /// - node 2 has the tunnel address 192.0.2.2, node 3 has 2001:db8::3.
    pub(crate) fn load() -> Self {
        let datapath = Self::load_unconfigured();
        datapath.maps.set_config(Config { overlay_ifindex: 9, pod_mtu: 1430 }).unwrap();
        datapath
    }

    /// The same, while the agent has not written the map CONFIG.
    pub(crate) fn load_unconfigured() -> Self {
        mount_bpffs();
        programs::load(pins(), OBJECT).unwrap();
        let maps = Maps::open(pins()).unwrap();
        for (node, tunnel) in [(1, "192.0.2.1"), (2, "192.0.2.2"), (3, "2001:db8::3")] {
            let tunnel: IpAddr = tunnel.parse().unwrap();
            let source = if tunnel.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
            let entry = NodeEntry { tunnel, source, local: node == 1, underlay: None };
            maps.set_node(format!("10.244.{node}.0/24").parse().unwrap(), entry).unwrap();
            maps.set_node(format!("fd00:10:244:{node}::/64").parse().unwrap(), entry).unwrap();
            maps.set_node_address(entry.tunnel, entry.of_address()).unwrap();
        }
        for address in ["10.244.1.10", "fd00:10:244:1::10"] {
            let own = Endpoint { ifindex: OWN_DEVICE, pod_mac: [2; 6], host_mac: [4; 6] };
            set_endpoint(pins(), address.parse().unwrap(), own);
        }
        for address in ["10.244.1.11", "fd00:10:244:1::11"] {
            let other = Endpoint { ifindex: OTHER_DEVICE, pod_mac: OTHER_POD_MAC, host_mac: OTHER_HOST_MAC };
            set_endpoint(pins(), address.parse().unwrap(), other);
        }
        Self { maps }
    }

    /// Runs a program on a frame.
    pub(crate) fn run(&self, program: Program, frame: &[u8]) -> Outcome {
        let classifier = SchedClassifier::from_pin(pins().join(program.name())).unwrap();
        let before = counters(&self.maps);
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = classifier.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let counted: Vec<_> = drops_since(&before, &self.maps);
        match (result.return_value as i32, counted.as_slice()) {
            (TC_ACT_UNSPEC, []) => {
                assert_eq!(out, frame, "a packet that goes on was changed");
                Outcome::Passed
            }
            (TC_ACT_REDIRECT, []) => Outcome::Redirected(out),
            (TC_ACT_SHOT, &[(counted_for, reason, 1)]) if counted_for == program => Outcome::Dropped(reason),
            (action, counted) => panic!("action {action} with counters {counted:?}"),
        }
    }

    /// Runs a program on every frame of a table.
    pub(crate) fn check(&self, program: Program, cases: Vec<Case>) {
        for (what, frame, expected) in cases {
            assert_eq!(self.run(program, &frame), expected, "{what}: {frame:02x?}");
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
    let drops = maps.drops().unwrap().into_iter();
    drops
        .map(|(program, reason, count)| (program, reason, count - before[&(program as u32, reason as u32)]))
        .filter(|&(_, _, count)| count != 0)
        .collect()
}

/// The outcome of a frame of this node's other pod.
pub(crate) fn to_other_pod(frame: &Frame) -> Outcome {
    let out = frame.clone().macs(OTHER_HOST_MAC, OTHER_POD_MAC).hop_limit(frame.hop_limit - 1);
    Outcome::Redirected(out.bytes())
}

/// A path below the BPF file system of this test.
pub(crate) fn bpffs(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(name)
}
