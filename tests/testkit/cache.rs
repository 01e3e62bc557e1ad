//! The one folder outside the tree: built tools, images, the cargo target folder and the state of running test beds.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/weft`, or `~/.cache/weft`. `xtask/start` computes the same one.
pub fn folder() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    base.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"))
        .join("weft")
}

/// Where running test beds keep their state, one folder an instance.
pub fn run_folder() -> PathBuf {
    folder().join("run")
}

/// Removes all but the newest `count` files of a folder whose names begin with `prefix`. Several, because several checkouts may be
/// worked on. Files are as old as their last use, see [`use_again`].
pub fn keep_newest(folder: &Path, prefix: &str, count: usize) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(count) {
        // Another process may have removed it; what stays is only disk space.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Whether a file is there; if so, it counts as used now.
pub fn use_again(path: &Path) -> bool {
    // A file that cannot be touched only goes earlier.
    File::open(path).map(|file| file.set_modified(SystemTime::now())).is_ok()
}
