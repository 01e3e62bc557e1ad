//! A place to pin programs and maps that only this process sees.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Mounts a BPF file system below `folder`: no agent of this machine is touched, and it goes with the process.
pub(crate) fn mount_bpffs(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("bpf");
    fs::create_dir_all(&folder)?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace (root is needed)")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), None::<&str>)?;
    Ok(folder)
}
