//! A world with nothing in it that a fuzzer could harm.
//!
//! The plugin makes folders, deletes files and asks the kernel for links where its input says, and most runs are by root. So
//! the process leaves the machine's file system and network first: its root is an empty file system in memory, its network
//! namespace has nothing but a loopback that is down. Of /proc there are only the files that the plugin reads; a whole one would
//! lead to the machine through `/proc/1/root`.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statvfs::statvfs,
    unistd::{Uid, getgid, getuid, pivot_root},
};

/// Where the new root is put together. Every machine has the folder, and no path on a fuzzer's command line is below it.
const NEW_ROOT: &str = "/sys";
/// Files of /proc that the plugin reads, but for those that name a namespace.
const PROC: [&str; 1] = ["/proc/sys/kernel/random/boot_id"];
/// Network namespaces of pods, to be found in the sandbox under these names.
pub const PODS: [&str; 2] = ["/run/netns/one", "/run/netns/two"];
/// The sandbox's own network namespace, by the names that processes know theirs by.
const OWN_NETNS: [&str; 2] = ["/proc/self/ns/net", "/proc/thread-self/ns/net"];
/// What is in the sandbox's root from the beginning.
static KEPT: OnceLock<Vec<OsString>> = OnceLock::new();
/// Most bytes that the plugin may write.
const SIZE: &str = "size=64m,mode=755";

/// Enters the sandbox, for good. Files and folders that the command line names stay where they are, for libFuzzer.
pub fn enter() {
    if let Err(error) = try_enter() {
        // Outside, not even one run is safe.
        panic!("cannot leave the machine behind: {error}");
    }
}

fn try_enter() -> io::Result<()> {
    let mut world = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let (user, group) = (getuid(), getgid());
    if !Uid::effective().is_root() {
        world |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(world)?;
    if world.contains(CloneFlags::CLONE_NEWUSER) {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("weft"), NEW_ROOT, Some("tmpfs"), MsFlags::empty(), Some(SIZE))?;
    for path in PROC.map(Path::new) {
        show(path, path, false)?;
    }
    for (path, writable) in named_by_the_command_line()? {
        show(&path, &path, writable)?;
    }
    for pod in PODS {
        unshare(CloneFlags::CLONE_NEWNET)?;
        show(Path::new(OWN_NETNS[1]), Path::new(pod), true)?;
    }
    unshare(CloneFlags::CLONE_NEWNET)?;
    for name in OWN_NETNS {
        show(Path::new(OWN_NETNS[1]), Path::new(name), true)?;
    }
    let old = Path::new(NEW_ROOT).join("old");
    fs::create_dir(&old)?;
    pivot_root(NEW_ROOT, &old)?;
    env::set_current_dir("/")?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    fs::remove_dir("/old")?;
    let names = fs::read_dir("/")?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    KEPT.set(names).map_err(|_| io::Error::other("the sandbox was entered before"))
}

/// What a command line of libFuzzer names, and whether it is to be written to: the corpus that grows is the first folder, the
/// others are seeds; the rest is a folder for crashes, a dictionary, or inputs that are to be run again.
fn named_by_the_command_line() -> io::Result<Vec<(PathBuf, bool)>> {
    let mut named = Vec::new();
    let mut corpus = None;
    for argument in env::args().skip(1) {
        let flag = argument.strip_prefix('-').and_then(|flag| flag.split_once('='));
        let path = PathBuf::from(flag.map_or(argument.as_str(), |(_, value)| value));
        if !path.is_absolute() || !path.exists() {
            continue;
        }
        let grows = flag.map_or_else(|| corpus.is_none(), |(name, _)| name == "artifact_prefix") && path.is_dir();
        if flag.is_none() && grows {
            corpus = Some(path.clone());
        }
        named.push((path.canonicalize()?, grows));
    }
    Ok(named)
}

/// Makes a file or folder of the machine visible in the sandbox.
fn show(path: &Path, name: &Path, writable: bool) -> io::Result<()> {
    let place = Path::new(NEW_ROOT).join(name.strip_prefix("/").unwrap_or(name));
    if path.is_dir() {
        fs::create_dir_all(&place)?;
    } else {
        place.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create(&place)?;
    }
    let none = None::<&str>;
    mount(Some(path), &place, none, MsFlags::MS_BIND, none)?;
    if !writable {
        // Who is not root may add to what a mount forbids, not take away from it.
        let forbidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        let kept = MsFlags::from_bits_truncate(statvfs(&place)?.flags().bits()) & forbidden;
        mount(none, &place, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept, none)?;
    }
    Ok(())
}

/// Whether the root holds only what the sandbox began with.
pub fn is_tidy() -> io::Result<bool> {
    Ok(made_since()?.is_empty())
}

/// Removes what the plugin made outside of `/run` and of what the sandbox began with.
pub fn tidy() -> io::Result<()> {
    // Folders that the command line named are below kept ones: nothing of the machine is removed.
    made_since()?.iter().try_for_each(fs::remove_dir_all)
}

fn made_since() -> io::Result<Vec<PathBuf>> {
    let kept = KEPT.get().map(Vec::as_slice).unwrap_or_default();
    let entries = fs::read_dir("/")?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.iter().filter(|entry| !kept.contains(&entry.file_name())).map(fs::DirEntry::path).collect())
}
