//! What stays in the kernel between one agent and the next.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use nix::libc;
use weft_agent::datapath::maps::{Maps, MapsError};
use weft_agent::datapath::object::OBJECT;
use weft_agent::datapath::pins::PinsError;
use weft_agent::datapath::programs::{self, ProgramsError};
use weft_agent::overlay::state::NodeEntry;
use weft_common::layout::{map, program};

use crate::datapath::{mount_bpffs, pins};

fn load() -> BTreeMap<&'static str, u32> {
    let loaded = programs::load(pins(), OBJECT).unwrap();
    loaded.into_iter().map(|(name, program)| (name, program.id)).collect()
}

fn entry(tunnel: &str, source: &str, local: bool, underlay: Option<u32>) -> NodeEntry {
    NodeEntry { tunnel: tunnel.parse().unwrap(), source: source.parse().unwrap(), local, underlay }
}

#[test]
fn a_second_start_changes_nothing_in_the_kernel() {
    mount_bpffs();
    let first = load();
    let maps = Maps::open(pins()).unwrap();
    let node = entry("192.0.2.2", "192.0.2.1", false, None);
    maps.set_node("10.244.2.0/24".parse().unwrap(), node).unwrap();
    assert_eq!(load(), first);
    assert_eq!(maps.nodes().unwrap(), BTreeMap::from([("10.244.2.0/24".parse().unwrap(), node)]));
    let mut names: Vec<_> = fs::read_dir(pins()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected = map::ALL.into_iter().chain(program::ALL).chain(program::SOCKET);
    let mut expected: Vec<_> = expected.map(std::ffi::OsString::from).collect();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn the_capabilities_of_the_daemon_set_are_enough_to_load_and_to_start_again() {
    mount_bpffs();
    keep_capabilities(&[CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF]);
    let first = load();
    assert_eq!(load(), first);
    assert!(Maps::open(pins()).unwrap().drops().unwrap().iter().all(|&(_, _, count)| count == 0));
}

// Numbers of `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Takes all other capabilities from this thread.
fn keep_capabilities(kept: &[u32]) {
    const VERSION_3: u32 = 0x2008_0522;
    let bits = |low: u32| kept.iter().filter(|&&bit| bit / 32 == low).fold(0_u32, |bits, bit| bits | 1 << (bit % 32));
    // The header is version and thread (0: this one); the data are effective, permitted, inheritable, in two halves.
    let (header, data) = ([VERSION_3, 0], [bits(0), bits(0), 0, bits(1), bits(1), 0]);
    // SAFETY: the kernel reads both arrays, which have the size that this version says.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(result, 0);
}

#[test]
fn entries_of_both_families_are_read_as_they_were_written() {
    mount_bpffs();
    load();
    let maps = Maps::open(pins()).unwrap();
    let nodes = BTreeMap::from([
        ("10.244.1.0/24".parse().unwrap(), entry("192.0.2.1", "192.0.2.1", true, None)),
        ("fd00:10:244:2::/64".parse().unwrap(), entry("2001:db8::2", "2001:db8::1", false, Some(7))),
    ]);
    for (&pod_cidr, &node) in &nodes {
        maps.set_node(pod_cidr, node).unwrap();
        maps.set_node_address(node.tunnel, node.of_address()).unwrap();
    }
    assert_eq!(maps.nodes().unwrap(), nodes);
    assert_eq!(maps.node_addresses().unwrap(), nodes.values().map(|&node| (node.tunnel, node.of_address())).collect());
    for (&pod_cidr, &node) in &nodes {
        for _twice in 0..2 {
            maps.remove_node(pod_cidr).unwrap();
            maps.remove_node_address(node.tunnel).unwrap();
        }
    }
    assert!(maps.nodes().unwrap().is_empty() && maps.node_addresses().unwrap().is_empty());
}

#[test]
fn another_program_under_our_name_is_replaced() {
    mount_bpffs();
    let first = load();
    let from_pod = pins().join(program::FROM_POD);
    fs::remove_file(&from_pod).unwrap();
    SchedClassifier::from_pin(pins().join(program::TO_POD)).unwrap().pin(&from_pod).unwrap();
    let second = load();
    assert_ne!(second[program::FROM_POD], first[program::FROM_POD]);
    assert_ne!(second[program::FROM_POD], second[program::TO_POD]);
    assert_eq!(second[program::TO_POD], first[program::TO_POD]);
}

#[test]
fn programs_whose_maps_were_taken_away_are_replaced() {
    mount_bpffs();
    let first = load();
    fs::remove_file(pins().join(map::NODES)).unwrap();
    let second = load();
    assert_ne!(second[program::FROM_POD], first[program::FROM_POD]);
    assert_eq!(load(), second);
}

#[test]
fn a_map_of_another_shape_is_refused_with_the_next_step() {
    mount_bpffs();
    load();
    let path = pins().join(map::ENDPOINTS);
    fs::remove_file(&path).unwrap();
    HashMap::<MapData, [u8; 4], [u8; 8]>::create(16, 0).unwrap().pin(&path).unwrap();
    for result in [programs::load(pins(), OBJECT).map(drop), Maps::open(pins()).map(drop).map_err(Into::into)] {
        let error = result.unwrap_err();
        assert!(matches!(error, ProgramsError::Maps(MapsError::Shape { .. })), "{error:?}");
        let text = error.to_string();
        for part in ["ENDPOINTS", "key 4, value 8, 16 entries", "key 16, value 16, 4096 entries", "remove"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}

#[test]
fn without_a_bpf_file_system_the_error_says_how_to_mount_one() {
    let directory = std::env::temp_dir().join("weft-is-no-bpffs");
    let error = programs::load(&directory, OBJECT).unwrap_err();
    assert!(matches!(error, ProgramsError::Pins(PinsError::NotBpffs(_))), "{error:?}");
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
    assert!(!directory.exists());
}

#[test]
fn an_absent_map_is_named_with_its_path() {
    let error = Maps::open(Path::new("/sys/fs/bpf/weft-is-not-here")).unwrap_err();
    assert!(matches!(error, MapsError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("/sys/fs/bpf/weft-is-not-here/ENDPOINTS: No such file"), "{error}");
}
