//! The lock on the state directory: `flock` on its file `lock`. The kernel releases it when its holder dies.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{addresses, attachments, file_error::next_step};

/// Name of the lock's file below the state directory.
pub const FILE: &str = "lock";
/// How long a call of the plugin waits. A burst of a hundred pods is through in a fraction of it.
pub const WAIT: Duration = Duration::from_secs(30);

/// A lock that we do not have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has it all the time.
    #[error(
        "another process has held the lock {path} for {seconds} s. See who with: lsof {path}. Is it a stuck weft-cni, end it; \
         the runtime tries again",
        path = path.display(),
        seconds = waited.as_secs()
    )]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}. {}", next_step(path, source), path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The file system's words.
        source: io::Error,
    },
}

/// Whether anybody ever took the lock of this state directory. If nobody did, no ADD was ever here.
pub fn was_ever_taken(state_directory: &Path) -> bool {
    [FILE, addresses::ALLOCATED, attachments::FOLDER].iter().any(|name| state_directory.join(name).exists())
}

/// The right to change what lies in the state directory, and the endpoint map, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, waiting for others at most this long. Makes the state directory and its folders where they are missing.
    pub fn acquire(state_directory: &Path, wait: Duration) -> Result<Self, Error> {
        for folder in [addresses::ALLOCATED, addresses::RESTING, attachments::FOLDER] {
            let path = state_directory.join(folder);
            fs::create_dir_all(&path).map_err(|source| Error::Io { operation: "create", path, source })?;
        }
        let path = state_directory.join(FILE);
        let error = |source| Error::Io { operation: "lock", path: path.clone(), source };
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            // CHECK changes nothing, and DEL takes away at least what is in the kernel.
            Err(source) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path).map_err(error)?,
            file => file.map_err(error)?,
        };
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => return Ok(Self { _file: file }),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(error(errno.into())),
        };
        // The kernel queues those who wait in flock(2), but knows no time limit for it: a thread waits for us. When we give up
        // first, the thread gets the lock later, finds nobody to hand it to, and so releases it.
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(Flock::lock(file, FlockArg::LockExclusive)));
        match receiver.recv_timeout(wait) {
            Ok(Ok(file)) => Ok(Self { _file: file }),
            Ok(Err((_, errno))) => Err(error(errno.into())),
            Err(_) => Err(Error::Busy { path, waited: wait }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let held = Lock::acquire(state.path(), WAIT).unwrap();
        let busy = Lock::acquire(state.path(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(busy, Error::Busy { .. }), "{busy}");
        drop(held);
        Lock::acquire(state.path(), WAIT).unwrap();
    }

    #[test]
    fn those_who_wait_get_it_when_it_is_free() {
        let state = tempfile::tempdir().unwrap();
        let held = Lock::acquire(state.path(), WAIT).unwrap();
        thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..10).map(|_| scope.spawn(|| Lock::acquire(state.path(), WAIT).map(drop))).collect();
            drop(held);
            for waiting in waiting {
                waiting.join().unwrap().unwrap();
            }
        });
    }

    #[test]
    fn the_folders_are_made() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("weft");
        assert!(!was_ever_taken(&state));
        let _lock = Lock::acquire(&state, WAIT).unwrap();
        assert!(was_ever_taken(&state));
        for folder in [addresses::ALLOCATED, addresses::RESTING, attachments::FOLDER] {
            assert!(state.join(folder).is_dir(), "{folder}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Lock::acquire(Path::new("/proc/weft"), WAIT).unwrap_err();
        assert!(error.to_string().contains("/proc/weft"), "{error}");
    }
}
