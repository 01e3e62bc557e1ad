//! A control group of the unified hierarchy that lives as long as the value: where the kernel runs programs for the sockets of
//! the processes in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::instance::Instance;
use crate::{cgroup, leftovers};

/// The group. Dropping it ends what runs inside and removes it; when its owner dies first, the next start does.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    // Keeps the lock that says that the group has a living owner.
    _instance: Arc<Instance>,
}

impl ControlGroup {
    /// Makes a group `weft-<id>-<number>-<name>` of this process's own instance.
    pub fn new(name: &str) -> Result<Self> {
        let instance = Instance::of_this_process()?;
        let hierarchies = cgroup::hierarchies()?;
        let unified = hierarchies.into_iter().find(cgroup::Hierarchy::is_unified);
        let root = unified.context("no unified hierarchy of control groups (cgroup2) is mounted here")?.mount_point;
        let path = root.join(instance.name(&format!("{}-{name}", instance.next_number())));
        fs::create_dir(&path).with_context(|| format!("cannot create control group {}", path.display()))?;
        Ok(Self { path, _instance: instance })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file through which processes join: who writes `0` is in.
    pub fn entrance(&self) -> Result<File> {
        let path = self.path.join("cgroup.procs");
        File::options().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Nobody is left to tell; what stays is removed by the next start.
        let _ = leftovers::remove_group(&self.path);
    }
}
