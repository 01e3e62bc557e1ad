//! The pins of our maps and programs: how the plugin, the `weft` command and the next agent find what runs.
//!
//! Whoever removes a pin stops nothing: filters and programs hold what they use. But what would be made in its place is
//! another object, empty, that no filter of a running pod looks into. So the agent holds what it found at its start, and pins the
//! very same again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::bpf_calls::{self, Object};
use crate::overlay::state::Pin;

/// Appended to a name while the pin waits to be renamed. bpffs allows no dots.
const NEW: &str = "_new";

/// A pin cannot be looked at or made.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// The pin directory is not on a BPF file system.
    #[error("{} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf", .0.display())]
    NotBpffs(PathBuf),
    /// A file operation in the pin directory failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing of that name is held.
    #[error("weft pins nothing of this name")]
    Unknown,
}

/// Everything that is pinned, held open.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    held: BTreeMap<&'static str, (OwnedFd, Option<Object>)>,
    /// What the last look found, with what tells a pin from another one: opening each pin each time would cost more than all
    /// the rest of a look.
    seen: Mutex<BTreeMap<&'static str, (Stamp, Pin)>>,
}

/// Tells a pin from another that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Pins {
    /// Holds these objects, by name.
    pub(super) fn hold(
        directory: &Path,
        objects: impl IntoIterator<Item = (&'static str, OwnedFd)>,
    ) -> Result<Self, PinsError> {
        let mut held = BTreeMap::new();
        for (name, descriptor) in objects {
            let object = bpf_calls::object(&descriptor).map_err(file_error("identify", directory.join(name)))?;
            held.insert(name, (descriptor, object));
        }
        Ok(Self { directory: directory.to_owned(), held, seen: Mutex::default() })
    }

    /// What is pinned under each name. What is absent is left out.
    pub(super) fn observe(&self) -> BTreeMap<String, Pin> {
        let mut seen = self.seen();
        let mut pins = BTreeMap::new();
        for (name, (_, object)) in &self.held {
            match self.stamp(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    seen.remove(name);
                }
                Err(error) => {
                    seen.remove(name);
                    pins.insert((*name).to_owned(), Pin::Other { seen: format!("unreadable: {error}") });
                }
                Ok(stamp) => {
                    let pin = match seen.get(name) {
                        Some((known, pin)) if *known == stamp => pin.clone(),
                        _ => identify(&self.directory.join(name), *object),
                    };
                    pins.insert((*name).to_owned(), pin.clone());
                    seen.insert(name, (stamp, pin));
                }
            }
        }
        pins
    }

    /// Whether a look would find something else than the last one did.
    pub(super) fn changed(&self) -> bool {
        let seen = self.seen();
        self.held.keys().any(|name| self.stamp(name).ok() != seen.get(name).map(|(stamp, _)| *stamp))
    }

    /// Pins what is held under a name again. What is pinned there by then gives way in one rename.
    pub(super) fn set(&self, name: &str) -> Result<(), PinsError> {
        let (name, (descriptor, _)) = self.held.get_key_value(name).ok_or(PinsError::Unknown)?;
        create_directory(&self.directory)?;
        place(&self.directory, name, descriptor.as_fd())?;
        if let Ok(stamp) = self.stamp(name) {
            self.seen().insert(name, (stamp, Pin::InUse));
        }
        Ok(())
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let found = fs::symlink_metadata(self.directory.join(name))?;
        Ok(Stamp { device: found.dev(), inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<&'static str, (Stamp, Pin)>> {
        // What a thread that panicked had seen is compared again by the stamps.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identify(path: &Path, expected: Option<Object>) -> Pin {
    let other = |seen: String| Pin::Other { seen };
    match bpf_calls::open(path).and_then(|descriptor| bpf_calls::object(&descriptor)) {
        Ok(found) if found.is_some() && found == expected => Pin::InUse,
        Ok(Some(Object::Map(number))) => other(format!("the map with the number {number}")),
        Ok(Some(Object::Program(number))) => other(format!("the program with the number {number}")),
        Ok(Some(Object::Link(number))) => other(format!("the link with the number {number}")),
        Ok(None) => other("neither map nor program nor link".to_owned()),
        Err(error) => other(format!("not a pin: {error}")),
    }
}

/// Makes the pin directory, where it is missing.
pub(super) fn create_directory(directory: &Path) -> Result<(), PinsError> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let found = statfs(existing).map_err(|errno| file_error("examine", existing.to_owned())(errno.into()))?;
    if found.filesystem_type() != BPF_FS_MAGIC {
        return Err(PinsError::NotBpffs(directory.to_owned()));
    }
    fs::create_dir_all(directory).map_err(file_error("create", directory.to_owned()))
}

/// Pins an object under a name, in the place of what is pinned there: whoever opens the pin meanwhile finds one of the two.
pub(super) fn place(directory: &Path, name: &str, object: BorrowedFd<'_>) -> Result<(), PinsError> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}{NEW}")));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file_error("remove the left-over", new)(error));
        }
        _ => (),
    }
    bpf_calls::pin(object, &new).map_err(file_error("pin at", new.clone()))?;
    fs::rename(&new, &path).map_err(file_error("rename a pin to", path))
}

fn file_error(operation: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> PinsError {
    move |source| PinsError::File { operation, path, source }
}
