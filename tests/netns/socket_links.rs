//! What keeps the programs for sockets attached: over restarts, through replacements, and against others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::CgroupSockAddr;
use aya::programs::links::CgroupAttachMode;
use aya::{Ebpf, EbpfLoader};
use serde_json::Value;
use weft_agent::datapath::socket_programs::SocketPrograms;
use weft_agent::datapath::{netns_cookie, object, programs};
use weft_agent::services::state::ServiceState;
use weft_common::address;
use weft_common::layout::{PIN_DIRECTORY, map, program};
use weft_common::services::{
    Backend, BackendSet, Frontend, FrontendKey, IN_CLUSTER, Service, ServicesConfig, Serving, ServingKey, SlotKey,
    frontend,
};
use weft_tests::answering::Answering;
use weft_tests::control_group::ControlGroup;
use weft_tests::netns::Namespace;
use weft_tests::sockets::{Family, Kind, SocketProcess};

use crate::kernel_session::{Session, lonely_node};
use crate::plugin_node::tool;
use crate::services;

const LIMIT: Duration = Duration::from_secs(10);
/// Connections that a loop makes before it looks whether it should end.
const AT_ONCE: u32 = 20;

/// A node with a server, a Service for it and a process that may dial.
struct Bed {
    namespace: Namespace,
    group: ControlGroup,
    service: SocketAddr,
    backend: SocketAddr,
}

impl Bed {
    fn run(test: impl FnOnce(&Self) + Send) {
        let namespace = lonely_node("links");
        namespace.add_address("lo", "10.1.1.1/32").unwrap();
        let (service, backend) = ("10.96.0.1:80".parse().unwrap(), "10.1.1.1:8080".parse().unwrap());
        let bed = Self { namespace, group: ControlGroup::new("links").unwrap(), service, backend };
        let _answering = Answering::start(&bed.namespace, &[bed.backend.ip()], bed.backend.port()).unwrap();
        Session::run(&bed.namespace, |_| {
            bed.fill();
            test(&bed);
        });
    }

    /// Makes the maps that are pinned now say what serves.
    fn fill(&self) {
        let [dialled, address] = [self.service, self.backend].map(|address| address::to_bytes(address.ip()));
        let [dialled_port, port] = [self.service, self.backend].map(|address| address.port().to_be_bytes());
        let cluster = BackendSet { generation: 5, count: 1, zero: 0 };
        let config = ServicesConfig {
            gateway_v4: [0; 16],
            gateway_v6: [0; 16],
            host_v4: address,
            host_v6: [0; 16],
            host_namespace: netns_cookie::own().unwrap(),
            flags: 0,
            zero: 0,
        };
        let frontend = Frontend { service: 1, flags: frontend::INTERNAL, zero: 0 };
        let state = ServiceState {
            frontends: [(FrontendKey { address: dialled, port: dialled_port, protocol: 6, zero: 0 }, frontend)].into(),
            services: [(1, Service { cluster, ..Service::default() })].into(),
            backends: [(SlotKey { generation: 5, index: 0, zero: 0 }, Backend { address, port, zero: [0; 2] })].into(),
            serving: [(ServingKey { service: 1, address, port, zero: [0; 6] }, Serving { sets: IN_CLUSTER })].into(),
            config: Some(config),
            ..ServiceState::default()
        };
        services::set(pins(), &state);
    }

    fn attach(&self) -> SocketPrograms {
        SocketPrograms::attach(pins(), self.group.path()).unwrap()
    }

    fn process(&self) -> SocketProcess {
        let program = Path::new(env!("CARGO_BIN_EXE_weft-test-sockets"));
        SocketProcess::start(program, &self.namespace, Some(&self.group)).unwrap()
    }

    /// Who answers, or what keeps anybody from it, how often.
    fn dial(&self, process: &SocketProcess, times: u32) -> BTreeMap<String, u32> {
        process.ask_for(Kind::Tcp, Family::V4, self.service, times, LIMIT)
    }

    fn served(&self, times: u32) -> BTreeMap<String, u32> {
        [(self.backend.to_string(), times)].into()
    }

    fn assert_serves(&self) {
        assert_eq!(self.dial(&self.process(), 1), self.served(1));
    }
}

fn pins() -> &'static Path {
    Path::new(PIN_DIRECTORY)
}

/// The kernel's numbers of each link, its program and its control group, by the link's name.
fn links() -> BTreeMap<String, (u64, u64, u64)> {
    let link = |name: &&str| {
        let path = pins().join(name);
        let shown = tool(&["bpftool", "-j", "link", "show", "pinned", path.to_str().unwrap()]);
        let shown = shown.as_array().map_or(&shown, |shown| &shown[0]);
        let number = |key: &str| shown[key].as_u64().unwrap_or_else(|| panic!("no {key} in {shown}"));
        ((*name).to_owned(), (number("id"), number("prog_id"), number("cgroup_id")))
    };
    program::SOCKET_LINKS.iter().map(link).collect()
}

/// Numbers of the programs on a control group, ours or not.
fn programs_on(group: &ControlGroup) -> Vec<u64> {
    let shown = tool(&["bpftool", "-j", "cgroup", "show", group.path().to_str().unwrap()]);
    let mut found: Vec<_> = shown.as_array().into_iter().flatten().filter_map(|entry| entry["id"].as_u64()).collect();
    found.sort_unstable();
    found
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// Somebody else's program for sockets on the same control group.
fn foreign(group: &ControlGroup) -> (Ebpf, u64) {
    let mut loaded = EbpfLoader::new().load(object::OBJECT).unwrap();
    let program: &mut CgroupSockAddr = loaded.program_mut("connect4").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(File::open(group.path()).unwrap(), CgroupAttachMode::Single).unwrap();
    let id = program.info().unwrap().id();
    (loaded, id.into())
}

#[test]
fn a_restart_keeps_links_and_programs_and_leaves_those_of_others_alone() {
    Bed::run(|bed| {
        let (_foreign, foreign) = foreign(&bed.group);
        let first = bed.attach();
        bed.assert_serves();
        let before = links();
        let group = fs::metadata(bed.group.path()).unwrap();
        assert!(before.values().all(|(_, _, id)| *id == std::os::unix::fs::MetadataExt::ino(&group)), "{before:?}");
        drop(first);
        // Nobody but the pins holds them now.
        bed.assert_serves();
        programs::load(pins(), object::OBJECT).unwrap();
        let mut again = bed.attach();
        assert_eq!(links(), before);
        assert_eq!(again.repair(), []);
        assert_eq!(links(), before);
        let expected = sorted(before.values().map(|(_, program, _)| *program).chain([foreign]));
        assert_eq!(programs_on(&bed.group), expected);
    });
}

#[test]
fn no_connection_fails_while_programs_are_replaced() {
    Bed::run(|bed| {
        drop(bed.attach());
        let (process, ended) = (bed.process(), AtomicBool::new(false));
        thread::scope(|scope| {
            let dialling = scope.spawn(|| {
                let mut dialled = 0;
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(bed.dial(&process, AT_ONCE), bed.served(AT_ONCE), "after {dialled}");
                    dialled += AT_ONCE;
                }
                dialled
            });
            let mut seen = vec![links()];
            for _ in 0..10 {
                // Programs with another map are other programs.
                fs::remove_file(pins().join(map::AFFINITY)).unwrap();
                programs::load(pins(), object::OBJECT).unwrap();
                drop(bed.attach());
                seen.push(links());
            }
            ended.store(true, Ordering::Relaxed);
            assert!(dialling.join().unwrap() > 10 * AT_ONCE);
            for pair in seen.windows(2) {
                for (name, (link, program, _)) in &pair[0] {
                    let (same, other, _) = pair[1][name];
                    assert!(*link == same, "{name} is another link");
                    // Only those that look the map up.
                    assert!(*program != other || !name.starts_with("connect"), "{name} has the old program");
                }
            }
        });
    });
}

#[test]
fn lost_pins_and_attachments_are_made_again() {
    Bed::run(|bed| {
        let mut programs = bed.attach();
        let before = links();
        for name in ["connect4_link", "getpeername6_link", "connect4"] {
            fs::remove_file(pins().join(name)).unwrap();
        }
        assert_eq!(programs.repair(), []);
        assert_eq!(links(), before, "the very same");
        assert!(pins().join("connect4").exists());

        let detached = before["connect4_link"].0.to_string();
        let done = std::process::Command::new("bpftool").args(["link", "detach", "id", &detached]).status().unwrap();
        assert!(done.success());
        assert_ne!(bed.dial(&bed.process(), 1), bed.served(1), "nobody is asked any more");
        assert_eq!(programs.repair(), []);
        let after = links();
        assert_ne!(after["connect4_link"].0, before["connect4_link"].0);
        assert_eq!(after["connect6_link"], before["connect6_link"]);
        bed.assert_serves();
        // The same where an agent finds it at its start.
        drop(programs);
        let detached = after["connect4_link"].0.to_string();
        assert!(
            std::process::Command::new("bpftool").args(["link", "detach", "id", &detached]).status().unwrap().success()
        );
        drop(bed.attach());
        bed.assert_serves();
    });
}

#[test]
fn with_another_control_group_everything_moves_there() {
    Bed::run(|bed| {
        let other = ControlGroup::new("elsewhere").unwrap();
        drop(SocketPrograms::attach(pins(), other.path()).unwrap());
        let before = links();
        assert_eq!(programs_on(&other), sorted(before.values().map(|(_, program, _)| *program)));
        drop(bed.attach());
        bed.assert_serves();
        assert_eq!(programs_on(&other), [0; 0]);
        // Without a pin nothing is attached.
        program::SOCKET_LINKS.iter().for_each(|name| fs::remove_file(pins().join(name)).unwrap());
        assert_eq!(programs_on(&bed.group), [0; 0]);
    });
}

#[test]
fn a_folder_that_is_no_control_group_is_named() {
    Bed::run(|_| {
        for (folder, part) in [("/nowhere", "open the control group /nowhere"), ("/tmp", "attach the program connect4")]
        {
            let error = SocketPrograms::attach(pins(), folder.as_ref()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(!pins().join("connect4_link").exists());
        assert!(matches!(tool(&["bpftool", "-j", "prog", "list"]), Value::Array(_)));
    });
}
