//! The programs for sockets, attached to the root of the node's control groups.
//!
//! A link keeps each attached, and a pin the link: so they go on without an agent. A new version of a program takes the old one's place in
//! the link, in one step: a process that dials meanwhile is served by one of the two. Links of others on the same control group are none of
//! our business: the kernel runs all programs there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};
use weft_common::layout::program;

use super::bpf_calls::{self, LinkInfo, Object};
use super::pins::{self, Pins, PinsError};
use crate::model::problem::Problem;
use crate::overlay::state::Pin;

/// How often somebody looks whether all is still as it was: the kernel tells nobody.
const GLANCE: Duration = Duration::from_secs(2);
/// `BPF_LINK_TYPE_CGROUP` of linux/bpf.h.
pub(super) const CGROUP_LINK: u32 = 3;
/// `enum bpf_attach_type` of linux/bpf.h, in the order of [`program::SOCKET`].
pub(super) const ATTACH_TYPES: [u32; program::SOCKET.len()] = [10, 11, 14, 15, 19, 20, 29, 30];

/// The programs for sockets cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum SocketProgramsError {
    /// The control group cannot be opened.
    #[error("open the control group {}: {source}", path.display())]
    Cgroup {
        /// Its folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program or its link was refused.
    #[error(
        "{operation} the program {name} for sockets: {source}; the agent needs CAP_BPF and CAP_NET_ADMIN, and `bpftool cgroup tree` shows \
         whether a program is attached that allows none beside it"
    )]
    Program {
        /// What was tried.
        operation: &'static str,
        /// The program.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link cannot be pinned.
    #[error(transparent)]
    Pins(#[from] PinsError),
}

/// What is attached, held open: whoever removes a pin detaches nothing while the agent runs.
#[derive(Debug)]
pub struct SocketPrograms {
    directory: PathBuf,
    cgroup: Cgroup,
    attached: Vec<Attached>,
    pins: Pins,
}

#[derive(Debug)]
struct Cgroup {
    folder: File,
    /// The kernel's number of it.
    id: u64,
}

/// A program and what keeps it attached.
#[derive(Debug)]
struct Attached {
    /// Place in [`program::SOCKET`].
    place: usize,
    program: OwnedFd,
    program_id: u32,
    link: OwnedFd,
}

impl SocketPrograms {
    /// Attaches the programs that are pinned in a directory to the control group in a folder, and pins the links beside them. What is
    /// attached there already stays. Attaching to another control group than before comes first, detaching from that then.
    pub fn attach(directory: &Path, cgroup: &Path) -> Result<Self, SocketProgramsError> {
        let cgroup =
            Cgroup::open(cgroup).map_err(|source| SocketProgramsError::Cgroup { path: cgroup.into(), source })?;
        let attached = (0..program::SOCKET.len()).map(|place| Attached::of(place, directory, &cgroup));
        let attached: Vec<_> = attached.collect::<Result<_, _>>()?;
        let pins = hold(directory, &attached)?;
        Ok(Self { directory: directory.to_owned(), cgroup, attached, pins })
    }

    /// Keeps everything attached and pinned for as long as it is polled, and tells what it cannot put right.
    pub async fn keep(mut self, problems: watch::Sender<Vec<Problem>>) {
        loop {
            sleep(GLANCE).await;
            let found = self.repair();
            problems.send_if_modified(|known| {
                let is_new = *known != found;
                for problem in found.iter().filter(|problem| !known.contains(problem)) {
                    warn!(
                        object = problem.object,
                        reason = problem.reason,
                        next_step = problem.next_step,
                        "not repaired"
                    );
                }
                *known = found;
                is_new
            });
        }
    }

    /// Attaches and pins again what somebody has taken away. What that keeps refusing is returned.
    pub fn repair(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut is_renewed = false;
        for attached in &mut self.attached {
            let name = attached.name();
            match attached.renew(&self.directory, &self.cgroup) {
                Ok(false) => (),
                Ok(true) => {
                    is_renewed = true;
                    info!(object = format!("program {name}"), "attached again: somebody had detached or replaced it");
                }
                Err(error) => problems.push(problem(name, &error)),
            }
        }
        if is_renewed {
            match hold(&self.directory, &self.attached) {
                Ok(pins) => self.pins = pins,
                Err(error) => problems.push(problem("of sockets", &error)),
            }
        }
        if is_renewed || self.pins.changed() {
            let seen = self.pins.observe();
            for name in program::SOCKET.iter().chain(&program::SOCKET_LINKS) {
                if seen.get(*name) == Some(&Pin::InUse) {
                    continue;
                }
                match self.pins.set(name) {
                    Ok(()) => info!(object = format!("pin {name}"), "made again: somebody had removed or replaced it"),
                    Err(error) => problems.push(problem(name, &error)),
                }
            }
        }
        problems
    }
}

impl Cgroup {
    fn open(path: &Path) -> io::Result<Self> {
        let folder = File::open(path)?;
        let id = folder.metadata()?.ino();
        Ok(Self { folder, id })
    }
}

impl Attached {
    fn of(place: usize, directory: &Path, cgroup: &Cgroup) -> Result<Self, SocketProgramsError> {
        let name = program::SOCKET[place];
        let failed = |operation| move |source| SocketProgramsError::Program { operation, name, source };
        let program = bpf_calls::open(&directory.join(name)).map_err(failed("open"))?;
        let Some(Object::Program(program_id)) = bpf_calls::object(&program).map_err(failed("identify"))? else {
            return Err(failed("identify")(io::Error::other("what is pinned in its place is no program")));
        };
        // What cannot be opened as a link of ours gives way to one.
        let pinned = bpf_calls::open(&directory.join(program::SOCKET_LINKS[place])).ok();
        let kept = pinned.filter(|link| is_ours(link, place, cgroup).is_some());
        if let Some(link) = kept {
            let mut attached = Self { place, program, program_id, link };
            attached.renew(directory, cgroup)?;
            return Ok(attached);
        }
        let link = create(place, &program, directory, cgroup)?;
        Ok(Self { place, program, program_id, link })
    }

    fn name(&self) -> &'static str {
        program::SOCKET[self.place]
    }

    /// Sees that the link holds this program on this control group. Gives whether it had to be changed.
    fn renew(&mut self, directory: &Path, cgroup: &Cgroup) -> Result<bool, SocketProgramsError> {
        match is_ours(&self.link, self.place, cgroup) {
            Some(found) if found.program == self.program_id => Ok(false),
            Some(_) => {
                let failed = |source| SocketProgramsError::Program { operation: "replace", name: self.name(), source };
                bpf_calls::update_link(self.link.as_fd(), self.program.as_fd()).map_err(failed)?;
                Ok(true)
            }
            None => {
                self.link = create(self.place, &self.program, directory, cgroup)?;
                Ok(true)
            }
        }
    }
}

/// What the kernel tells of a link, if it keeps a program attached where it should be.
fn is_ours(link: &OwnedFd, place: usize, cgroup: &Cgroup) -> Option<LinkInfo> {
    let Ok(Some(Object::Link(_))) = bpf_calls::object(link) else { return None };
    let found = bpf_calls::link_info(link.as_fd()).ok()?;
    let is_ours = (found.kind, found.cgroup, found.attach_type) == (CGROUP_LINK, cgroup.id, ATTACH_TYPES[place]);
    is_ours.then_some(found)
}

/// Attaches a program, and pins the link in the place of what is pinned there, which goes only then.
fn create(place: usize, program: &OwnedFd, directory: &Path, cgroup: &Cgroup) -> Result<OwnedFd, SocketProgramsError> {
    let failed = |source| SocketProgramsError::Program { operation: "attach", name: program::SOCKET[place], source };
    let link = bpf_calls::create_link(program.as_fd(), cgroup.folder.as_fd(), ATTACH_TYPES[place]).map_err(failed)?;
    pins::place(directory, program::SOCKET_LINKS[place], link.as_fd())?;
    Ok(link)
}

/// Holds programs and links apart from their users, for their pins.
fn hold(directory: &Path, attached: &[Attached]) -> Result<Pins, SocketProgramsError> {
    let mut objects = Vec::new();
    for attached in attached {
        let copies = attached.program.try_clone().and_then(|program| Ok((program, attached.link.try_clone()?)));
        let failed = |source| SocketProgramsError::Program { operation: "hold", name: attached.name(), source };
        let (program, link) = copies.map_err(failed)?;
        objects.extend([(attached.name(), program), (program::SOCKET_LINKS[attached.place], link)]);
    }
    let pins = Pins::hold(directory, objects)?;
    // What is there now is what others are compared with.
    pins.observe();
    Ok(pins)
}

fn problem(name: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(
        format!("program {name}"),
        format!("{error}; connections of processes to Services may fail"),
        "see the message; tried again every 2 s",
    )
}
