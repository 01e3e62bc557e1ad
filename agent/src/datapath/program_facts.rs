//! What the kernel tells of the pinned programs: how much the verifier had to look at, how large they are, and how long they ran, as far
//! as somebody had that counted.
//!
//! Asked by descriptor, which needs no more rights than opening the pin does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::sys::{Stats, enable_stats};

use super::bpf_calls::{self, Object};

/// The setting that has time counted for as long as it is 1.
const SETTING: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What is told of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramFacts {
    /// The kernel's number of it.
    pub id: u32,
    /// Instructions that the verifier followed, each as often as it came by; 0: the kernel (before 5.16) does not say.
    pub verified_instructions: u32,
    /// Bytes of its instructions after the verifier.
    pub translated_bytes: u32,
    /// Bytes of the processor's code made of them; 0: the kernel interprets them.
    pub compiled_bytes: u32,
    /// Runs while they were counted.
    pub runs: u64,
    /// How long those took together.
    pub run_nanoseconds: u64,
}

/// The beginning of `struct bpf_prog_info`. The kernel fills as much of it as it is told that there is.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: u64,
    jited_length: u32,
    translated_length: u32,
    /// From the address of the code to the length of the programs' tags: addresses and lengths that nobody asks for are 0.
    not_asked: [u64; 21],
    run_nanoseconds: u64,
    runs: u64,
    missed_runs: u64,
    verified_instructions: u32,
    attach_btf_object: u32,
}

const _: () = assert!(std::mem::offset_of!(ProgramInfo, run_nanoseconds) == 192);
const _: () = assert!(std::mem::offset_of!(ProgramInfo, verified_instructions) == 216);

/// What the kernel tells of the program that is pinned under a name.
pub fn of_pinned(directory: &Path, name: &str) -> io::Result<ProgramFacts> {
    let pinned = bpf_calls::open(&directory.join(name))?;
    let Some(Object::Program(id)) = bpf_calls::object(&pinned)? else {
        return Err(io::Error::other("what is pinned in its place is no program"));
    };
    let mut info = ProgramInfo::default();
    // SAFETY: all addresses in it are zero, and so are the lengths: the kernel writes nothing but the structure.
    unsafe { bpf_calls::info(pinned.as_fd(), &mut info) }?;
    Ok(ProgramFacts {
        id,
        verified_instructions: info.verified_instructions,
        translated_bytes: info.translated_length,
        compiled_bytes: info.jited_length,
        runs: info.runs,
        run_nanoseconds: info.run_nanoseconds,
    })
}

/// Whether the kernel's setting has time counted.
pub fn is_counting() -> bool {
    fs::read_to_string(SETTING).is_ok_and(|text| text.trim() == "1")
}

/// Has the kernel count the time in programs, in all of this machine's, for as long as the value lives.
pub fn count() -> io::Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|error| error.io_error)
}
