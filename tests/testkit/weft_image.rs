//! Where weft's own image lies in the cache: under a name that says what it is made of, so that a source tree that was built once,
//! in whichever checkout, is not built again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::cache;
use crate::command::output;

/// What programs and image are made of, below the top of the tree.
const SOURCES: [&str; 16] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "agent/Cargo.toml",
    "agent/build.rs",
    "agent/src",
    "cli",
    "cni-plugin/Cargo.toml",
    "cni-plugin/src",
    "common",
    "ebpf",
    "tests/testkit/image.rs",
    "tests/testkit/weft_image.rs",
    "xtask/src/build.rs",
    "xtask/src/image.rs",
    "xtask/src/licenses.rs",
];
/// Images that are kept: a few, because several checkouts may be worked on.
const KEPT: usize = 4;

/// The archive of the image that the tree at `top` gives. It exists once `cargo xtask image` has built it.
pub fn archive(top: &Path) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for source in SOURCES {
        add(&mut hash, top, &top.join(source))?;
    }
    hash.update(output(Command::new("rustc").arg("-vV").current_dir(top))?);
    for variable in ["WEFT_BPF_OBJECT", "WEFT_BPF_LINKER"] {
        hash.update(std::env::var_os(variable).unwrap_or_default().as_encoded_bytes());
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(folder().join(format!("weft-{hash}.tar")))
}

/// Removes all but the newest images.
pub fn remove_old() -> Result<()> {
    cache::keep_newest(&folder(), "weft-", KEPT)
}

fn folder() -> PathBuf {
    cache::folder().join("images")
}

/// Adds names and contents of a file, or of all files below a folder in the order of their names.
fn add(hash: &mut Sha256, top: &Path, path: &Path) -> Result<()> {
    if path.is_dir() {
        let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        return paths.iter().try_for_each(|path| add(hash, top, path));
    }
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.strip_prefix(top).unwrap_or(path).as_os_str().as_encoded_bytes();
    // With the lengths, nothing can move from a name to a content.
    hash.update((name.len() as u64).to_be_bytes());
    hash.update(name);
    hash.update((content.len() as u64).to_be_bytes());
    hash.update(content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_or_place_of_a_file_gives_another_hash() {
        let hash = |top: &Path| {
            let mut hash = Sha256::new();
            add(&mut hash, top, top).unwrap();
            hash.finalize()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file("a", "one");
        file("b", "two");
        let first = hash(folder.path());
        assert_eq!(hash(folder.path()), first);
        file("b", "three");
        let second = hash(folder.path());
        assert_ne!(second, first);
        fs::rename(folder.path().join("b"), folder.path().join("c")).unwrap();
        assert_ne!(hash(folder.path()), second);
    }

    #[test]
    fn every_source_that_is_named_exists() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(archive(top).unwrap().starts_with(folder()));
    }
}
