//! Older versions in the cache folder go when newer ones are there: all but the one used last, which another checkout may need.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Result};
use weft_tests::cache;
use weft_tests::tools::MODULES;

use super::linker;

/// Folders of other versions that stay, of each thing that setup builds: those that were used last.
const KEPT: usize = 1;

/// Removes folders of other versions than today's of what setup builds.
pub(crate) fn old_versions() -> Result<()> {
    let mut current = vec![linker::folder_name()];
    current.extend(MODULES.iter().map(|module| module.folder_name()));
    let folder = cache::folder();
    let mut others: BTreeMap<&str, Vec<(Reverse<SystemTime>, PathBuf)>> = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A version begins with a number, behind a `v` with Go's modules.
        let versioned = ["bpf-linker"].into_iter().chain(MODULES.iter().map(|module| module.name)).find(|known| {
            let version = name.strip_prefix(known).and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
            version.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit())
        });
        // Unfinished ones may belong to a command that runs right now; the next build takes them over.
        let unfinished = name.ends_with(".unfinished") || name.ends_with(".target");
        if let Some(known) = versioned
            && !unfinished
            && !current.contains(&name)
        {
            // One that cannot be asked goes first.
            let used = entry.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            others.entry(known).or_default().push((Reverse(used), entry.path()));
        }
    }
    for mut versions in others.into_values() {
        versions.sort();
        for (_, path) in versions.into_iter().skip(KEPT) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
