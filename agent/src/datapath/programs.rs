//! Loading and pinning the programs.
//!
//! What runs in the kernel outlives the agent. A program that is already pinned, is the same to the instruction and uses the
//! same maps is kept, so that a restart of the agent changes nothing; a new one takes the old one's name in one rename, so
//! that whoever opens the pin meanwhile finds one of the two.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::{CgroupSockAddr, ProgramError, ProgramFd, SchedClassifier};
use aya::{EbpfError, EbpfLoader};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use weft_common::layout::{map, program};

use crate::datapath::bpf_calls::{self, Object};
use crate::datapath::identity::{self, Identity};
use crate::datapath::maps::{self, Maps, MapsError};
use crate::datapath::pins::{self, PinsError};

/// Programs that could not be loaded or found.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The pin directory is not on a BPF file system, or a program cannot be pinned there.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A pinned map is not ours.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The object or its maps were refused.
    #[error("load the eBPF object: {}; weft needs Linux 5.10 or newer and CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON", causes(.0))]
    Object(#[source] Box<EbpfError>),
    /// The object has no program of that name.
    #[error("the eBPF object has no program {0} of the type that it should have; build it again: cargo build")]
    Missing(&'static str),
    /// A program was refused, or its pin cannot be read.
    #[error("{operation} program {name}: {source}")]
    Program {
        /// What was tried.
        operation: &'static str,
        /// The program.
        name: &'static str,
        /// What the kernel said; the verifier's log, where there is one.
        source: io::Error,
    },
    /// A program for sockets was refused.
    #[error(
        "load the program {name} for sockets: {source}; Services need Linux 5.18 or newer, or a distribution's kernel with \
         bpf_set_retval: boot the node with one"
    )]
    Socket {
        /// The program.
        name: &'static str,
        /// What the kernel said; the verifier's log, where there is one.
        source: io::Error,
    },
}

/// A pinned program, held open.
#[derive(Debug)]
pub struct PinnedProgram {
    /// The kernel's number of it. Another number is another program, even where the instructions are the same.
    pub id: u32,
    /// A descriptor to attach it with.
    pub fd: ProgramFd,
}

impl PinnedProgram {
    /// Opens the program pinned under one of the names in [`program`].
    pub fn open(directory: &Path, name: &'static str) -> Result<Self, ProgramsError> {
        let failed = |source| ProgramsError::Program { operation: "open the pinned", name, source };
        let program = SchedClassifier::from_pin(directory.join(name)).map_err(|error| failed(said(error)))?;
        let id = program.info().map_err(|error| failed(said(error)))?.id();
        let fd = program.fd().map_err(|error| failed(said(error)))?.try_clone().map_err(failed)?;
        Ok(Self { id, fd })
    }
}

/// Loads and pins maps and programs of [`super::object::OBJECT`], or keeps what is pinned. Gives the pinned programs for packets by
/// name; those for sockets are attached by [`super::socket_programs`].
pub fn load(directory: &Path, object: &[u8]) -> Result<BTreeMap<&'static str, PinnedProgram>, ProgramsError> {
    pins::create_directory(directory)?;
    maps::check_existing(directory)?;
    // Kernels before 5.11 charge maps to this limit. Newer ones do not, and there a refusal does not matter.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);

    let mut loader = EbpfLoader::new();
    for name in map::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    let mut loaded = loader.load(object).map_err(|error| ProgramsError::Object(Box::new(error)))?;
    Maps::open(directory)?;
    for name in program::ALL {
        let program = loaded.program_mut(name).ok_or(ProgramsError::Missing(name))?;
        let program: &mut SchedClassifier = program.try_into().map_err(|_| ProgramsError::Missing(name))?;
        program.load().map_err(|error| ProgramsError::Program { operation: "load", name, source: said(error) })?;
        pin(directory, name, program.fd())?;
    }
    for name in program::SOCKET {
        let program = loaded.program_mut(name).ok_or(ProgramsError::Missing(name))?;
        let program: &mut CgroupSockAddr = program.try_into().map_err(|_| ProgramsError::Missing(name))?;
        program.load().map_err(|error| ProgramsError::Socket { name, source: said(error) })?;
        pin(directory, name, program.fd())?;
    }
    program::ALL.into_iter().map(|name| Ok((name, PinnedProgram::open(directory, name)?))).collect()
}

/// Pins a loaded program, unless the pinned one is the same.
fn pin(directory: &Path, name: &'static str, loaded: Result<&ProgramFd, ProgramError>) -> Result<(), ProgramsError> {
    let failed = |operation| move |source| ProgramsError::Program { operation, name, source };
    let loaded = loaded.map_err(|error| failed("find")(said(error)))?;
    // What cannot be opened as a program is not the same, and gives way too.
    let pinned = pinned_identity(&directory.join(name));
    if pinned.is_some() && pinned == Some(identity::of(loaded).map_err(failed("examine"))?) {
        return Ok(());
    }
    Ok(pins::place(directory, name, loaded.as_fd())?)
}

fn pinned_identity(path: &Path) -> Option<Identity> {
    let pinned = bpf_calls::open(path).ok()?;
    match bpf_calls::object(&pinned) {
        Ok(Some(Object::Program(_))) => identity::of(&pinned).ok(),
        _ => None,
    }
}

/// What the kernel said, in the form that prints its reason.
pub(super) fn said(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// An error with all its causes: aya names a failed call in the outer one, and the reason in the inner one.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
