//! Control groups of nodes: one in every hierarchy that is mounted here, v1 controllers and the unified one.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options that mount it again: `cpu`, `none,name=systemd`; empty for the unified one.
    pub options: String,
}

impl Hierarchy {
    /// Whether it is the unified hierarchy (cgroup v2).
    pub fn is_unified(&self) -> bool {
        self.options.is_empty()
    }
}

/// All hierarchies that are mounted here.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mounts.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(front.split(' ').nth(4)?);
    let mut back = back.split(' ');
    let kind = back.next()?;
    let super_options = back.nth(1)?;
    match kind {
        "cgroup2" => Some(Hierarchy { mount_point, options: String::new() }),
        "cgroup" => {
            let named = |option: &str| option.starts_with("name=");
            // Only what chooses the hierarchy: options such as `rw` or `release_agent` are not ours to repeat.
            let chosen: Vec<&str> = super_options
                .split(',')
                .filter(|option| {
                    named(option)
                        || !(option.contains('=') || matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                })
                .collect();
            let options = chosen.join(",");
            Some(Hierarchy {
                mount_point,
                options: if chosen.iter().all(|option| named(option)) { format!("none,{options}") } else { options },
            })
        }
        _ => None,
    }
}

/// Where a node sees its own group, and the leaf in it for its own processes: on a machine that has only the unified hierarchy a
/// group with controllers for others holds no processes itself.
const OWN: &str = "/sys/fs/cgroup";
const LEAF: &str = "init";

/// Whether the machine has the unified hierarchy alone, as Debian has it by default.
pub(crate) fn are_only_unified(hierarchies: &[Hierarchy]) -> bool {
    matches!(hierarchies, [only] if only.is_unified())
}

/// On a node, its pid 1: moves into the node's leaf.
pub(crate) fn make_leaf() -> Result<()> {
    let leaf = Path::new(OWN).join(LEAF);
    fs::create_dir(&leaf).with_context(|| format!("cannot create control group {}", leaf.display()))?;
    enter(&leaf)
}

/// On a node, the parent of its pid 1, when that is ready: moves into the leaf as well, which leaves the node's group empty, and
/// hands the controllers down to kubelet. Where there is no leaf, nothing has to be done.
pub(crate) fn delegate() -> Result<()> {
    let leaf = Path::new(OWN).join(LEAF);
    if !leaf.exists() {
        return Ok(());
    }
    enter(&leaf)?;
    hand_down(Path::new(OWN))
}

/// Makes all controllers of a group available to the groups below it.
pub(crate) fn hand_down(group: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = group.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (available, active) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    for controller in available.split_whitespace().filter(|name| !active.split_whitespace().any(|other| other == *name))
    {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("cannot make the controller {controller} available below {}", group.display()))?;
    }
    Ok(())
}

fn enter(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter control group {}", group.display()))
}

/// The file through which a process joins a node's group, or the leaf in it.
pub(crate) fn procs(group: &Path) -> PathBuf {
    let leaf = group.join(LEAF).join("cgroup.procs");
    if leaf.exists() { leaf } else { group.join("cgroup.procs") }
}

/// Groups directly below the roots whose names begin with `prefix`.
pub(crate) fn named(prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        // A hierarchy may be mounted twice, or unmounted meanwhile.
        let Ok(entries) = fs::read_dir(&hierarchy.mount_point) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// All processes in these groups and below.
pub(crate) fn processes(groups: &[PathBuf]) -> Result<HashSet<i32>> {
    let mut found = HashSet::new();
    for group in groups {
        each_group(group, &mut |path| {
            if let Ok(list) = fs::read_to_string(path.join("cgroup.procs")) {
                found.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Removes a group and all below it. It fails while a process is inside.
pub(crate) fn remove(group: &Path) -> Result<()> {
    each_group(group, &mut |path| match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove control group {}", path.display()))
        }
        _ => Ok(()),
    })
}

/// Visits a group and all groups below it, the deepest first.
fn each_group(group: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_group(&entry.path(), visit)?;
        }
    }
    visit(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_mountinfo() {
        let v1 = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct";
        let systemd = "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        let unified = "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(v1).unwrap().options, "cpu,cpuacct");
        assert_eq!(parse(systemd).unwrap().options, "none,name=systemd");
        assert!(parse(unified).unwrap().is_unified());
        assert_eq!(parse("22 1 0:5 / /dev rw - devtmpfs udev rw"), None);
    }
}
