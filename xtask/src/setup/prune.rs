//! Older versions in the cache folder go when newer ones are there.

use std::fs;

use anyhow::{Context, Result};
use weft_tests::{cache, tools};

use super::linker;

/// Removes folders of other versions than today's of what setup builds.
pub(crate) fn old_versions() -> Result<()> {
    let kubernetes = tools::folder();
    let current = [kubernetes.file_name().unwrap_or_default().to_string_lossy().into_owned(), linker::folder_name()];
    let folder = cache::folder();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let versioned = ["kubernetes-", "bpf-linker-"].iter().any(|prefix| name.starts_with(prefix));
        // Unfinished ones may belong to a command that runs right now; the next build takes them over.
        let unfinished = name.ends_with(".unfinished") || name.ends_with(".target");
        if versioned && !unfinished && !current.contains(&name) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
