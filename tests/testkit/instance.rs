//! One running test bed: an id that is part of every name it uses, a folder for its state, and a lock that says that its owner lives.

use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{cache, leftovers, reexec};

/// In an instance's folder: held with flock by its owner.
const LOCK: &str = "lock";
/// In an instance's folder: it has no owner on purpose and stays until somebody takes it down.
const KEPT: &str = "kept";

static OF_THIS_PROCESS: Mutex<Weak<Instance>> = Mutex::new(Weak::new());

/// A test bed's id, folder and lock. Dropping it removes everything that carries its name, unless it was [kept](Instance::keep).
#[derive(Debug)]
pub struct Instance {
    id: String,
    folder: PathBuf,
    numbers: AtomicU32,
    _lock: Flock<File>,
    // Its end tells the janitor that the owner has gone.
    _janitor: Option<ChildStdin>,
}

impl Instance {
    /// Makes an instance with an id of its own, after removing what dead owners left.
    pub fn create() -> Result<Arc<Self>> {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(process::id());
        Self::create_named(&format!("{:06x}", hasher.finish() & 0xff_ffff))
    }

    /// Makes the instance with this id, after removing what dead owners left. Fails while an instance of that id is there.
    pub fn create_named(id: &str) -> Result<Arc<Self>> {
        let _turn = take_turn()?;
        remove_dead()?;
        let folder = cache::run_folder().join(id);
        if folder.exists() {
            bail!("a test bed named {id} is already running (its state is in {})", folder.display());
        }
        // Kubelet's and the cluster's keys lie below: nobody else's business.
        DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let Some(lock) = try_lock(&folder)? else { bail!("{} is locked by another process", folder.display()) };
        let janitor = reexec::start_janitor(id)?;
        Ok(Arc::new(Self { id: id.to_owned(), folder, numbers: AtomicU32::new(0), _lock: lock, _janitor: janitor }))
    }

    /// The instance that tests of this process share. It lives until the last value that uses it is dropped.
    pub fn of_this_process() -> Result<Arc<Self>> {
        let mut shared = OF_THIS_PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instance) = shared.upgrade() {
            return Ok(instance);
        }
        let instance = Self::create()?;
        *shared = Arc::downgrade(&instance);
        Ok(instance)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of one of its parts: `weft-<id>-<part>`.
    pub fn name(&self, part: &str) -> String {
        format!("{}{part}", leftovers::prefix(&self.id))
    }

    /// Where its state, logs and keys are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A number that no other caller gets.
    pub fn next_number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets it live on after its owner, until [`remove`] is called.
    pub fn keep(&self) -> Result<()> {
        let path = self.folder.join(KEPT);
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Instance {
    /// Removes everything that carries its name, unless it was [kept](Instance::keep). Safe to call twice.
    pub(crate) fn end(&self) {
        // Nobody is left to hand an error to, but a person may want to know.
        if let Err(error) = leftovers::remove_unless_kept(&self.id) {
            eprintln!("weft: cannot remove test bed {}: {error:#}", self.id);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether an instance with this id is there, with an owner or kept.
pub fn exists(id: &str) -> bool {
    cache::run_folder().join(id).exists()
}

/// Whether an instance stays although it has no owner.
pub fn is_kept(id: &str) -> bool {
    cache::run_folder().join(id).join(KEPT).exists()
}

/// Removes an instance that has no living owner: a kept one, or one that a crash left. False when there is none.
pub fn remove(id: &str) -> Result<bool> {
    let _turn = take_turn()?;
    let folder = cache::run_folder().join(id);
    if !folder.exists() {
        return Ok(false);
    }
    let Some(_lock) = try_lock(&folder)? else {
        bail!("test bed {id} belongs to a command that is still running; end that command first")
    };
    leftovers::remove(id)?;
    Ok(true)
}

/// Removes every instance whose owner died.
fn remove_dead() -> Result<()> {
    let folder = cache::run_folder();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() || path.join(KEPT).exists() {
            continue;
        }
        if let Some(_lock) = try_lock(&path)? {
            leftovers::remove(&entry.file_name().to_string_lossy())?;
        }
    }
    Ok(())
}

/// One process at a time makes or removes instances. Released when the answer is dropped.
fn take_turn() -> Result<Flock<File>> {
    let folder = cache::run_folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = open_lock(&folder)?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("cannot lock {}", folder.display()))
}

fn try_lock(folder: &Path) -> Result<Option<Flock<File>>> {
    match Flock::lock(open_lock(folder)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", folder.display())),
    }
}

fn open_lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{command, output};
    use crate::netns::{FOLDER, View};

    #[test]
    fn what_a_dead_owner_left_goes_with_the_next_start() {
        let dead = format!("dead{}", process::id());
        let namespace = format!("{}left", leftovers::prefix(&dead));
        output(&mut command(["ip", "netns", "add", &namespace])).unwrap();
        let mut sleeper = View::open(&namespace).unwrap().command(["sleep", "1000"]).spawn().unwrap();
        // The folder comes last, because from now on any other test may remove all of it.
        let folder = cache::run_folder().join(&dead);
        fs::create_dir_all(&folder).unwrap();
        drop(Instance::create().unwrap());
        assert!(!sleeper.wait().unwrap().success());
        assert!(!folder.exists());
        assert!(!Path::new(FOLDER).join(namespace).exists());
    }

    #[test]
    fn a_kept_instance_outlives_its_owner_until_it_is_removed() {
        let instance = Instance::create().unwrap();
        let (id, folder) = (instance.id().to_owned(), instance.folder().to_owned());
        assert!(remove(&id).is_err(), "its owner lives");
        instance.keep().unwrap();
        drop(instance);
        drop(Instance::create().unwrap());
        assert!(folder.exists() && is_kept(&id));
        assert!(remove(&id).unwrap());
        assert!(!folder.exists() && !exists(&id));
        assert!(!remove(&id).unwrap(), "there is nothing left to remove");
    }
}
