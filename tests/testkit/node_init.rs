//! The first process of a node: makes the node's namespaces, mounts what a node has of its own, then collects ended processes.
//!
//! It is started in the node's network namespace and control groups. When it is killed, all of the node ends.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, sethostname};

use crate::cgroup::{self, Hierarchy};

/// Folders of the host that a node sees through a layer of its own: it may write there, the host does not notice.
const LAYERED: [&str; 3] = ["/etc", "/opt", "/var"];

/// Settings of the whole machine that kubelet insists on. A node has files of its own in their places, and the machine keeps its own.
const MACHINE_SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Arguments: the node's name, its folder. Prints the pid of the node's pid 1, as the host sees it, when the node is ready.
pub(crate) fn main(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let name = arguments.next().context("a node needs a name")?;
    let folder = PathBuf::from(arguments.next().context("a node needs a folder")?);
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).context("cannot make the namespaces of a node")?;
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    // SAFETY: this program has one thread.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            drop(reader);
            pid_1(&name, &folder, writer)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            stand_by(child, reader)
        }
    }
}

/// Says that the node is ready, then stays as the parent that collects it.
fn stand_by(child: Pid, reader: OwnedFd) -> Result<()> {
    let mut ready = String::new();
    File::from(reader).read_to_string(&mut ready).context("cannot hear the node's pid 1")?;
    if ready.is_empty() {
        bail!("the node's pid 1 ended before it was ready");
    }
    cgroup::delegate()?;
    println!("{child}");
    waitpid(child, None).context("cannot wait for the node's pid 1")?;
    Ok(())
}

fn pid_1(name: &str, folder: &Path, writer: OwnedFd) -> Result<()> {
    sethostname(name).context("cannot set the node's host name")?;
    mount_all(folder)?;
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    ended.thread_block().context("cannot block SIGCHLD")?;
    File::from(writer).write_all(b"ready").context("cannot say that the node is ready")?;
    loop {
        // Several ends may arrive as one signal, so all that wait are collected before the next wait.
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        match ended.wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for ended processes"),
        }
    }
}

fn mount_all(folder: &Path) -> Result<()> {
    // First private, so that nothing reaches the host; then shared among the node's own, which kubelet asks for.
    propagate(MsFlags::MS_PRIVATE)?;
    for path in LAYERED {
        layer(folder, path)?;
    }
    // containerd keeps overlays of its own there, which cannot lie on an overlay.
    let containerd = Path::new("/var/lib/containerd");
    fs::create_dir_all(containerd).context("cannot create /var/lib/containerd")?;
    bind(&create(folder, "containerd")?, containerd)?;
    let hierarchies = cgroup::hierarchies()?;
    fresh("proc", "/proc", "")?;
    hide_machine_settings(folder)?;
    fresh("sysfs", "/sys", "")?;
    fresh("bpf", "/sys/fs/bpf", "")?;
    fresh("tmpfs", "/run", "mode=755")?;
    for path in ["/run/netns", "/run/lock", "/run/tmp"] {
        fs::create_dir(path).with_context(|| format!("cannot create {path}"))?;
    }
    mount_cgroups(&hierarchies)?;
    propagate(MsFlags::MS_SHARED)
}

fn hide_machine_settings(folder: &Path) -> Result<()> {
    for name in MACHINE_SETTINGS {
        let setting = Path::new("/proc/sys").join(name);
        // Which of them exist depends on how the kernel was built.
        let Ok(value) = fs::read_to_string(&setting) else { continue };
        let file = create(folder, "settings")?.join(name.replace('/', "."));
        fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
        bind(&file, &setting)?;
    }
    Ok(())
}

/// The same hierarchies as on the host, each from the node's own group downwards.
fn mount_cgroups(hierarchies: &[Hierarchy]) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if cgroup::are_only_unified(hierarchies) {
        fresh("cgroup2", "/sys/fs/cgroup", "")?;
        return cgroup::make_leaf();
    }
    fresh("tmpfs", "/sys/fs/cgroup", "mode=755")?;
    for hierarchy in hierarchies {
        let Some(name) = hierarchy.mount_point.file_name() else { continue };
        let path = root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let kind = if hierarchy.is_unified() { "cgroup2" } else { "cgroup" };
        fresh(kind, &path.to_string_lossy(), &hierarchy.options)?;
    }
    Ok(())
}

fn create(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

fn propagate(how: MsFlags) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | how, None::<&str>).context("cannot set mount propagation")
}

fn fresh(kind: &str, path: &str, options: &str) -> Result<()> {
    let options = CString::new(options).context("mount options hold a zero byte")?;
    mount(Some(kind), path, Some(kind), MsFlags::empty(), Some(options.as_c_str()))
        .with_context(|| format!("cannot mount {kind} at {path}"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

fn layer(folder: &Path, path: &str) -> Result<()> {
    let upper = create(folder, &format!("layers{path}"))?;
    let work = create(folder, &format!("work{path}"))?;
    let options = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
    fresh("overlay", path, &options)
}
