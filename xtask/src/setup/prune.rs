//! Older versions in the cache folder go when newer ones are there.

use std::fs;

use anyhow::{Context, Result};
use weft_tests::cache;
use weft_tests::tools::MODULES;

use super::linker;

/// Removes folders of other versions than today's of what setup builds.
pub(crate) fn old_versions() -> Result<()> {
    let mut current = vec![linker::folder_name()];
    current.extend(MODULES.iter().map(|module| module.folder_name()));
    let folder = cache::folder();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A version begins with a number, behind a `v` with Go's modules.
        let versioned = ["bpf-linker"].into_iter().chain(MODULES.iter().map(|module| module.name)).any(|known| {
            let version = name.strip_prefix(known).and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
            version.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit())
        });
        // Unfinished ones may belong to a command that runs right now; the next build takes them over.
        let unfinished = name.ends_with(".unfinished") || name.ends_with(".target");
        if versioned && !unfinished && !current.contains(&name) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
