//! The real programs in the real kernel, with the maps of the small cluster, run on one frame after the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use nix::unistd::Uid;
use weft_common::address;
use weft_common::entries::{Config, Endpoint, LOCAL, Node, NodeAddress};
use weft_common::layout::map;
use weft_common::reason::{COUNTERS, DropReason, Program, REASONS_MAX, counter_index};
use weft_common::services::{Flow, FlowKey};

use super::bpf_calls::{self, Context, VERIFY_CHECKSUM};
use super::carrier::{self, Carrier};
use super::case::Case;
use super::cluster::{NODES, OVERLAY_DEVICE, POD_MTU, PODS};
use super::services;
use crate::sandbox;

/// The programs as `build.rs` compiled them: the build script is the agent's, so it is the same object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft.bpf.o"));

/// What programs return (`linux/pkt_cls.h`).
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_STOLEN: i32 = 4;
const TC_ACT_REDIRECT: i32 = 7;

/// Longest frame of a run. The kernel wants all of it on one page, with what it needs itself.
pub const LONGEST: usize = 3400;
/// Most bytes that a program adds to a frame.
const ADDED: usize = 256;
/// Runs from one look at the counters of all programs to the next.
const RUNS_A_LOOK: u32 = 64;

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went on, as these bytes.
    Passed(Vec<u8>),
    /// It went, as these bytes, to another device.
    Redirected(Vec<u8>),
    /// It was dropped, and counted.
    Dropped(DropReason),
    /// It was counted as refused, and these bytes were sent instead.
    Refused(Vec<u8>),
    /// It waits for others, or was sent by another way.
    Taken,
}

/// The loaded programs.
#[derive(Debug)]
pub struct Kernel {
    /// In the order of [`Program::ALL`].
    programs: Vec<OwnedFd>,
    carrier: Carrier,
    counters: Counters,
    /// The map FAST_PATH_LEASE, and whether it has one now.
    lease: (OwnedFd, bool),
    /// The kernel checks what became of the sum over the packet.
    verifies: bool,
    runs: u32,
    /// The maps of flows, where there are Services.
    flows: Vec<HashMap<MapData, FlowKey, Flow>>,
}

impl Kernel {
    /// Loads the programs, fills in the maps, and leaves the machine: from then on there is an empty network namespace, whose
    /// loopback device packets seem to come in by.
    ///
    /// # Panics
    ///
    /// When the kernel refuses: there is nothing to fuzz then.
    pub fn load(with_services: bool) -> Self {
        assert!(Uid::effective().is_root(), "only root may load programs into the kernel: use sudo");
        let loaded =
            Self::try_load(with_services).unwrap_or_else(|error| panic!("cannot load the programs: {error:#}"));
        sandbox::enter();
        loaded.probed()
    }

    fn try_load(with_services: bool) -> anyhow::Result<Self> {
        let mut loaded = EbpfLoader::new().load(OBJECT)?;
        let mut programs = Vec::new();
        for program in Program::ALL {
            let classifier = loaded.program_mut(program.name()).ok_or(anyhow::anyhow!("no {}", program.name()))?;
            let classifier: &mut SchedClassifier = classifier.try_into()?;
            classifier.load()?;
            programs.push(classifier.fd()?.as_fd().try_clone_to_owned()?);
        }
        fill(&mut loaded)?;
        let flows = if with_services { services::fill(&mut loaded)? } else { Vec::new() };
        let counters = Counters::new(descriptor(&mut loaded, map::DROPS)?)?;
        let lease = (descriptor(&mut loaded, map::FAST_PATH_LEASE)?, false);
        let carrier = Carrier::load(programs[Program::FromOverlay as usize].as_fd())?;
        Ok(Self { programs, carrier, counters, lease, verifies: false, runs: 0, flows })
    }

    /// Finds out what the kernel can check: older ones call the request invalid.
    fn probed(mut self) -> Self {
        let to_pod = self.programs[Program::ToPod as usize].as_fd();
        let plain = Context::new(0, 0);
        self.verifies = bpf_calls::run(to_pod, &[0; 64], &plain, VERIFY_CHECKSUM, &mut [0; 64]).is_ok();
        if let Err(error) = self.counters.moved(0, COUNTERS) {
            panic!("{error}");
        }
        self
    }

    /// Whether the kernel verifies the sum over a packet after the program changed it.
    pub const fn verifies(&self) -> bool {
        self.verifies
    }

    /// Runs the program of a case on its frame, and again, where the kernel verifies it and the caller wants it, with a sum over the packet.
    ///
    /// # Errors
    ///
    /// What is wrong whatever was expected, in words: another counter moved, the sum over the packet was forgotten.
    pub fn run(&mut self, case: &Case, with_sum: bool) -> Result<Vec<Outcome>, String> {
        self.set_lease(case.is_leased).map_err(said("write the lease"))?;
        let context = Context::new(case.gso_size, case.gso_segments);
        let program = match &case.key {
            Some(key) => self.carrier.with(key).map_err(said("write the tunnel key"))?,
            None => self.programs[case.program as usize].as_fd(),
        };
        let plain = run_once(program, case, &context, 0).map_err(said("run the program"))?;
        let with_sum = with_sum && self.verifies;
        let verified = with_sum.then(|| run_once(program, case, &context, VERIFY_CHECKSUM));
        self.runs += 1;
        let moved = self.counters.moved(case.program as u32 * REASONS_MAX, DropReason::ALL.len() as u32)?;
        let runs = 1 + u64::from(with_sum);
        let mut outcomes = vec![outcome(case.program, plain, &moved, runs)?];
        match verified {
            None => (),
            Some(Ok(run)) => outcomes.push(outcome(case.program, run, &moved, runs)?),
            // What is dropped has no sum any more that anybody reads.
            Some(Err(_)) if matches!(outcomes[0], Outcome::Dropped(_) | Outcome::Taken) => (),
            // Of an answer, for which the packet was cut, the kernel forgot the sum, and a test run compares with it nevertheless.
            Some(Err(_)) if matches!(outcomes[0], Outcome::Refused(_)) => (),
            Some(Err(error)) if error.raw_os_error() == Some(libc::EBADMSG) => {
                return Err(format!("the packet was changed, and not the kernel's sum over it: {outcomes:02x?}"));
            }
            Some(Err(error)) => return Err(said("run the program with a sum")(error)),
        }
        if self.runs.is_multiple_of(RUNS_A_LOOK) {
            let moved = self.counters.moved(0, COUNTERS)?;
            if !moved.is_empty() {
                return Err(format!("counters of other programs moved in the last {RUNS_A_LOOK} runs: {moved:?}"));
            }
        }
        Ok(outcomes)
    }

    /// Forgets a flow.
    pub fn forget(&mut self, keys: &[FlowKey]) {
        for map in &mut self.flows {
            for key in keys {
                // Most are in one of the maps, or in none.
                let _ = map.remove(key);
            }
        }
    }

    /// Forgets all flows, which takes its time.
    pub fn forget_all(&mut self) {
        let keys: Vec<_> = self.flows.iter().flat_map(HashMap::keys).flatten().collect();
        self.forget(&keys);
    }

    /// Lets packets leave past the VXLAN device for all time, or not at all.
    fn set_lease(&mut self, is_leased: bool) -> io::Result<()> {
        if self.lease.1 != is_leased {
            let until = if is_leased { u64::MAX } else { 0 };
            // SAFETY: a value of this map is a time, eight bytes.
            unsafe { bpf_calls::write_entry(self.lease.0.as_fd(), &until.to_ne_bytes()) }?;
            self.lease.1 = is_leased;
        }
        Ok(())
    }
}

/// What a run came to, when the program's counters moved this way in so many equal runs.
fn outcome(program: Program, run: (i32, Vec<u8>), moved: &[(u32, u64)], runs: u64) -> Result<Outcome, String> {
    let (action, bytes) = run;
    match action {
        TC_ACT_UNSPEC if moved.is_empty() => Ok(Outcome::Passed(bytes)),
        TC_ACT_STOLEN if moved.is_empty() => Ok(Outcome::Taken),
        TC_ACT_REDIRECT if moved.is_empty() => Ok(Outcome::Redirected(bytes)),
        TC_ACT_REDIRECT if moved == [(counter_index(program, DropReason::ServiceRefused), runs)] => {
            Ok(Outcome::Refused(bytes))
        }
        TC_ACT_SHOT => {
            let reason = DropReason::ALL.iter().find(|reason| moved == [(counter_index(program, **reason), runs)]);
            reason.map(|reason| Outcome::Dropped(*reason)).ok_or(format!("dropped, and the counters moved: {moved:?}"))
        }
        carrier::FAILED => Err("the carrier could not set the tunnel key".to_owned()),
        other => Err(format!("the program returned {other}, and the counters moved: {moved:?}")),
    }
}

/// Runs a program and gives its action and the frame that it left.
fn run_once(program: BorrowedFd<'_>, case: &Case, context: &Context, flags: u32) -> io::Result<(i32, Vec<u8>)> {
    let mut out = vec![0; case.frame.len() + ADDED];
    let (action, length) = bpf_calls::run(program, &case.frame, context, flags, &mut out)?;
    out.truncate(length);
    Ok((action, out))
}

fn said(what: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("cannot {what}: {error}")
}

/// A descriptor of a map that is an array.
fn descriptor(loaded: &mut Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    match loaded.take_map(name) {
        Some(Map::Array(data) | Map::PerCpuArray(data)) => Ok(data.fd().as_fd().try_clone_to_owned()?),
        _ => anyhow::bail!("the map {name} is of another kind, or missing"),
    }
}

/// Writes the cluster into the maps.
fn fill(loaded: &mut Ebpf) -> anyhow::Result<()> {
    let mut map = |name: &str| loaded.take_map(name).ok_or(anyhow::anyhow!("no map {name}"));
    let mut nodes = LpmTrie::<_, [u8; 16], Node>::try_from(map(map::NODES)?)?;
    let mut node_addresses = HashMap::<_, [u8; 16], NodeAddress>::try_from(map(map::NODE_ADDRESSES)?)?;
    let mut endpoints = HashMap::<_, [u8; 16], Endpoint>::try_from(map(map::ENDPOINTS)?)?;
    let mut config = Array::<_, Config>::try_from(map(map::CONFIG)?)?;
    for node in &NODES {
        let tunnel = address::to_bytes(node.tunnel());
        let flags = if node.is_own() { LOCAL } else { 0 };
        let value = Node { tunnel, source: address::to_bytes(node.source), flags, underlay_ifindex: node.underlay };
        for (first, length) in node.pod_cidrs() {
            nodes.insert(&Key::new(address::prefix_bits(first, length), address::to_bytes(first)), value, 0)?;
        }
        for address in node.addresses {
            node_addresses.insert(address::to_bytes(address), NodeAddress { tunnel, flags }, 0)?;
        }
    }
    for pod in &PODS {
        let value = Endpoint { ifindex: pod.ifindex, pod_mac: pod.pod_mac, host_mac: pod.host_mac };
        for address in pod.addresses {
            endpoints.insert(address::to_bytes(address), value, 0)?;
        }
    }
    config.set(0, Config { overlay_ifindex: OVERLAY_DEVICE, pod_mtu: POD_MTU as u32 }, 0)?;
    Ok(())
}

/// The counters of drops, and what they were when somebody last looked.
#[derive(Debug)]
struct Counters {
    map: OwnedFd,
    cpus: usize,
    known: Vec<u64>,
    buffer: Vec<u64>,
}

impl Counters {
    fn new(map: OwnedFd) -> anyhow::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let entries = COUNTERS as usize;
        Ok(Self { map, cpus, known: vec![0; entries], buffer: vec![0; entries * cpus] })
    }

    /// The counters from `first` on that are not as they were, and by how much they grew.
    fn moved(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u64)>, String> {
        // SAFETY: DROPS is a per-CPU array of 64-bit numbers, and the buffer has room for all of them.
        let read = unsafe { bpf_calls::read_counters(self.map.as_fd(), first, count, &mut self.buffer) };
        read.map_err(said("read the counters"))?;
        let sums = self.buffer.chunks(self.cpus).take(count as usize).map(|all| all.iter().sum::<u64>());
        let known = self.known.iter_mut().skip(first as usize);
        let mut moved = Vec::new();
        for ((index, known), sum) in (first..).zip(known).zip(sums) {
            if sum != *known {
                moved.push((index, sum.wrapping_sub(*known)));
                *known = sum;
            }
        }
        Ok(moved)
    }
}
