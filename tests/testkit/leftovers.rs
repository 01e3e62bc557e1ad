//! Removing everything that carries an instance's name: processes, control groups, mounts, namespaces, files.
//!
//! Nothing has to be recorded beforehand. A process is ours when it runs in a network namespace of ours, or in a control group
//! of ours; everything else is found by name. So a crash at any moment leaves nothing that this cannot find.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{command, output};
use crate::{cache, cgroup, instance, netns, wait};

/// How long killed processes may take to go.
const LIMIT: Duration = Duration::from_secs(20);

/// What every name of an instance begins with.
pub(crate) fn prefix(id: &str) -> String {
    format!("weft-{id}-")
}

/// Removes all of an instance. Its folder goes last: while it is there, the next start tries again.
pub(crate) fn remove(id: &str) -> Result<()> {
    let prefix = prefix(id);
    let namespaces = named(Path::new(netns::FOLDER), &prefix)?;
    let groups = cgroup::named(&prefix)?;
    remove_processes(&namespaces, &groups)?;
    wait::until(LIMIT, "the control groups of the test bed to go", || {
        groups.iter().try_for_each(|path| cgroup::remove(path))
    })?;
    let folder = cache::run_folder().join(id);
    unmount_below(&folder)?;
    delete_namespaces(&namespaces)?;
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Ends what runs in named network namespaces, and removes them. Those that are gone already do not matter.
pub(crate) fn remove_namespaces(paths: &[PathBuf]) -> Result<()> {
    let present: Vec<PathBuf> = paths.iter().filter(|path| path.exists()).cloned().collect();
    remove_processes(&present, &[])?;
    delete_namespaces(&present)
}

/// Ends a node: its processes, control groups and namespace.
pub(crate) fn remove_node(namespace: &Path, groups: &[PathBuf]) -> Result<()> {
    let namespaces = [namespace.to_owned()];
    remove_processes(&namespaces, groups)?;
    wait::until(LIMIT, "the control groups of the node to go", || {
        groups.iter().try_for_each(|path| cgroup::remove(path))
    })?;
    delete_namespaces(&namespaces)
}

/// Ends what runs in a control group, and removes it.
pub(crate) fn remove_group(group: &Path) -> Result<()> {
    let groups = [group.to_owned()];
    remove_processes(&[], &groups)?;
    wait::until(LIMIT, "the control group to go", || cgroup::remove(group))
}

fn remove_processes(namespaces: &[PathBuf], groups: &[PathBuf]) -> Result<()> {
    wait::until(LIMIT, "the processes of the test bed to end", || kill_inside(namespaces, groups))
}

fn delete_namespaces(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        output(&mut command(["ip", "netns", "delete", &name]))?;
    }
    Ok(())
}

/// What the janitor of an instance does when the owner has gone.
pub(crate) fn remove_unless_kept(id: &str) -> Result<()> {
    if instance::is_kept(id) { Ok(()) } else { remove(id) }
}

/// Entries of a folder whose names begin with `prefix`. A folder that is not there has none.
fn named(folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect())
}

/// Kills every process in the namespaces and groups. Fails as long as it still found one.
fn kill_inside(namespaces: &[PathBuf], groups: &[PathBuf]) -> Result<()> {
    let inodes: HashSet<(u64, u64)> =
        namespaces.iter().filter_map(|path| fs::metadata(path).ok()).map(|data| (data.dev(), data.ino())).collect();
    let mut found = cgroup::processes(groups)?;
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile has no namespace any more.
        let Ok(namespace) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if inodes.contains(&(namespace.dev(), namespace.ino())) && !has_ended(pid) {
            found.insert(pid);
        }
    }
    // The caller's own thread may have entered a namespace, never its process.
    found.remove(&(std::process::id() as i32));
    if found.is_empty() {
        return Ok(());
    }
    for pid in &found {
        // It may have ended meanwhile, which is all we want.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    bail!("processes {found:?} are still there")
}

/// Whether only the exit code of a process is left, for its parent to collect.
pub(crate) fn has_ended(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name in parentheses may hold anything, so the state is looked for after the last one.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Unmounts what is mounted below a folder in this mount namespace, the newest first.
fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    for line in mounts.lines().rev() {
        let Some(point) = line.split(' ').nth(4) else { continue };
        if Path::new(point).starts_with(folder) {
            umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {point}"))?;
        }
    }
    Ok(())
}
