//! The logs of a cluster: what its processes wrote, and what the containers of its Pods wrote.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where a node keeps the logs of containers, below its folder.
const CONTAINERS: &str = "layers/var/log/pods";

/// All logs below a cluster's folder, with their names.
pub(crate) fn find(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for part in folders(folder)? {
        let part_name = name(&part);
        collect(&part.join("log"), &part_name, &mut found)?;
        collect(&part.join(CONTAINERS), &format!("{part_name}/pods"), &mut found)?;
    }
    found.sort();
    Ok(found)
}

/// Copies the logs of a cluster to a folder, which is emptied first.
pub fn save(logs: &[(String, PathBuf)], to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for (name, path) in logs {
        let copy = to.join(format!("{}.log", name.replace('/', "_")));
        fs::copy(path, &copy).with_context(|| format!("cannot copy {} to {}", path.display(), copy.display()))?;
    }
    Ok(())
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for below in folders(folder)? {
        collect(&below, &format!("{prefix}/{}", name(&below)), found)?;
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        if path.extension().is_some_and(|extension| extension == "log") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            found.push((format!("{prefix}/{stem}"), path.clone()));
        }
    }
    Ok(())
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
