//! The pod's network namespace.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

/// The network namespace of the calling thread: the host's.
const OWN: &str = "/proc/thread-self/ns/net";
/// Type of the file system that namespaces are files of (`NSFS_MAGIC` of linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);

/// A path that is no pod's network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("CNI_NETNS {path}: {source}. The container runtime makes it; see its log", path = path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
    /// Some other file.
    #[error("CNI_NETNS {path} is not a network namespace. The container runtime passes it; see its log", path = path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// The host's own.
    #[error(
        "CNI_NETNS {path} is the host's own network namespace. A pod with hostNetwork needs no CNI plugin; see the container \
         runtime's log",
        path = path.display()
    )]
    Own {
        /// The path.
        path: PathBuf,
    },
    /// The kernel does not let us in.
    #[error("cannot enter the network namespace {path}: {source}. It needs CAP_SYS_ADMIN", path = path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
}

/// An open network namespace that is not the host's.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    /// The host's.
    own: File,
}

impl Netns {
    /// Opens a network namespace.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = |source| Error::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(error)?;
        if !is_namespace(&file) {
            return Err(Error::NotANamespace { path: path.to_owned() });
        }
        let own = File::open(OWN).map_err(|source| Error::Enter { path: OWN.into(), source })?;
        let (theirs, ours) = (file.metadata().map_err(error)?, own.metadata().map_err(error)?);
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Err(Error::Own { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file, own })
    }

    /// The open file, for a message that makes a link in it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs a closure inside, on the calling thread. A socket made there belongs to the namespace for good.
    pub fn enter<T>(&self, inside: impl FnOnce() -> T) -> Result<T, Error> {
        let inside_of = setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map(|()| Inside { own: &self.own });
        let _back = inside_of.map_err(|errno| match errno {
            // A namespace, but of another kind.
            nix::errno::Errno::EINVAL => Error::NotANamespace { path: self.path.clone() },
            errno => Error::Enter { path: self.path.clone(), source: errno.into() },
        })?;
        Ok(inside())
    }
}

/// The calling thread is in another namespace; dropping this brings it back.
struct Inside<'a> {
    own: &'a File,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if setns(self.own.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            // Going on in the wrong namespace could do anything. What a killed call leaves is taken back by the next one.
            process::abort();
        }
    }
}

/// Whether no network namespace is at a path any more. When in doubt, it is still there.
pub fn is_gone(path: &Path) -> bool {
    match File::open(path) {
        // What `ip netns` and containerd leave when they are killed between unmounting and removing.
        Ok(file) => !is_namespace(&file),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn is_namespace(file: &File) -> bool {
    fstatfs(file).is_ok_and(|statfs| statfs.filesystem_type() == NSFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_no_namespace() {
        assert!(matches!(Netns::open(Path::new("/nonexistent")), Err(Error::Open { .. })));
        assert!(matches!(Netns::open(Path::new("/proc/self/stat")), Err(Error::NotANamespace { .. })));
        assert!(matches!(Netns::open(Path::new(OWN)), Err(Error::Own { .. })));
    }

    #[test]
    fn a_namespace_is_gone_when_its_file_is() {
        assert!(is_gone(Path::new("/nonexistent")));
        assert!(is_gone(tempfile::NamedTempFile::new().unwrap().path()));
        assert!(!is_gone(Path::new(OWN)));
    }
}
