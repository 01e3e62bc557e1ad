//! Named network namespaces that live as long as the value, and veth pairs between them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::command::{command, output};
use crate::instance::Instance;
use crate::leftovers;

/// Where `ip netns` keeps named namespaces.
pub const FOLDER: &str = "/run/netns";

/// A network namespace with its loopback up. Dropping it ends what runs inside and removes it; when its owner dies first, the
/// next start does.
#[derive(Debug)]
pub struct Namespace {
    view: View,
    // Keeps the lock that says that the namespace has a living owner.
    _instance: Arc<Instance>,
}

/// A named network namespace that somebody else makes and removes.
#[derive(Debug, Clone)]
pub struct View {
    name: String,
    path: PathBuf,
    file: Arc<File>,
}

impl Namespace {
    /// Makes a namespace `weft-<id>-<number>-<name>` of this process's own instance, for tests that need no cluster.
    pub fn new(name: &str) -> Result<Self> {
        let instance = Instance::of_this_process()?;
        let name = format!("{}-{name}", instance.next_number());
        Self::in_instance(&instance, &name)
    }

    /// Makes the namespace `weft-<id>-<name>` of an instance.
    pub fn in_instance(instance: &Arc<Instance>, name: &str) -> Result<Self> {
        let name = instance.name(name);
        output(&mut command(["ip", "netns", "add", &name]))?;
        let namespace = Self { view: View::open(&name)?, _instance: Arc::clone(instance) };
        namespace.run(["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }
}

impl Deref for Namespace {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to tell; what stays is removed by the next start.
        let _ = leftovers::remove_namespaces(&[self.path()]);
    }
}

impl View {
    /// Opens a namespace by its name.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_file(name, &Path::new(FOLDER).join(name))
    }

    /// Opens a namespace by a file that stands for it, under a name for people.
    pub fn open_file(name: &str, path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), path: path.to_owned(), file: Arc::new(file) })
    }

    /// Its name, as `ip netns` prints it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names it: what CNI calls a netns.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The open namespace, for messages that move a link into it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A command that will run inside.
    pub fn command<I>(&self, words: I) -> Command
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = command(words);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec the closure makes one system call on a file that is already open; it allocates nothing.
        unsafe {
            command.pre_exec(move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        command
    }

    /// Runs a command inside to its end and returns its standard output.
    pub fn run<I>(&self, words: I) -> Result<String>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        output(&mut self.command(words)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs a closure in a thread of its own that has entered the namespace. Sockets made there belong to it, wherever they go.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(inside())
            });
            match entered.join() {
                Ok(result) => {
                    result.map_err(|errno: nix::Error| errno).with_context(|| format!("cannot enter {}", self.name))
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets a sysctl below `net.`, given as a path: `ipv4/ip_forward`.
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(path);
        self.enter(|| fs::write(&file, value))?
            .with_context(|| format!("cannot set {} to {value} in {}", file.display(), self.name))
    }

    /// Adds an address, usable at once (no duplicate address detection).
    pub fn add_address(&self, device: &str, address: &str) -> Result<()> {
        let mut words = vec!["ip", "address", "add", address, "dev", device];
        if address.contains(':') {
            words.push("nodad");
        }
        self.run(words).map(drop)
    }
}

/// Connects two namespaces by a veth pair with the given device names, both up.
pub fn veth(one: (&View, &str), other: (&View, &str)) -> Result<()> {
    let ((from, name), (to, peer)) = (one, other);
    from.run(["ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", to.name()])?;
    from.run(["ip", "link", "set", name, "up"])?;
    to.run(["ip", "link", "set", peer, "up"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_namespaces_talks_over_its_veth_and_goes_away() {
        let (one, other) = (Namespace::new("one").unwrap(), Namespace::new("other").unwrap());
        veth((&one, "eth0"), (&other, "eth0")).unwrap();
        for (namespace, v4, v6) in
            [(&one, "192.0.2.1/24", "2001:db8::1/64"), (&other, "192.0.2.2/24", "2001:db8::2/64")]
        {
            namespace.add_address("eth0", v4).unwrap();
            namespace.add_address("eth0", v6).unwrap();
        }
        one.run(["ping", "-c", "1", "-W", "5", "192.0.2.2"]).unwrap();
        one.run(["ping", "-c", "1", "-W", "5", "2001:db8::2"]).unwrap();
        other.set_sysctl("ipv4/ip_forward", "1").unwrap();
        assert_eq!(other.enter(|| fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()).unwrap().trim(), "1");
        let paths = [one.path(), other.path()];
        drop((one, other));
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn what_still_runs_inside_ends_with_the_instance() {
        let instance = Instance::create().unwrap();
        let namespace = Namespace::in_instance(&instance, "busy").unwrap();
        let mut child = namespace.command(["sleep", "1000"]).spawn().unwrap();
        let folder = instance.folder().to_owned();
        drop(instance);
        let id = folder.file_name().unwrap().to_str().unwrap().to_owned();
        leftovers::remove(&id).unwrap();
        std::mem::forget(namespace);
        assert!(!child.wait().unwrap().success());
        assert!(!folder.exists());
    }
}
