//! Which checkout the target folder holds the artifacts of.
//!
//! Checkouts share one target folder, so that a fresh clone finds the dependencies built. Cargo names the artifacts of a workspace's
//! own packages without the workspace's path and tells whether they are up to date by times alone: what it built in one checkout,
//! it takes in another for fresh. So the folder remembers its checkout, and what another one made of our packages is built anew.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::Command;

/// In the target folder: the path of the checkout, and the lock.
const FILE: &str = "checkout";
/// Beginnings of the names of our packages.
const OURS: [&str; 2] = ["weft", "xtask"];
/// How deep below the target folder cargo keeps its fingerprints: `x86_64-unknown-linux-gnu/bpf/bpfel-unknown-none/release`.
const DEPTH: usize = 4;

/// As long as it lives, no other checkout claims the target folder.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

/// Claims a target folder for the checkout at `top`. Waits while another checkout holds it.
pub fn claim(target: &Path, top: &Path) -> io::Result<Claim> {
    fs::create_dir_all(target)?;
    let top = top.canonicalize()?;
    let top = top.as_os_str().as_encoded_bytes();
    loop {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(target.join(FILE))?;
        file.lock_shared()?;
        if read(&mut file)? == top {
            return Ok(Claim { _file: file });
        }
        file.unlock()?;
        if file.try_lock().is_err() {
            eprintln!("Waiting for a command of another checkout that uses {} ...", target.display());
            file.lock()?;
        }
        // Another one may have been faster.
        if read(&mut file)? != top {
            forget_ours(target, DEPTH)?;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(top)?;
        }
    }
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// Removes what cargo knows of our packages. Those of others stay.
fn forget_ours(folder: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if name == ".fingerprint" {
            for known in fs::read_dir(&path)?.flatten() {
                if OURS.iter().any(|ours| known.file_name().to_string_lossy().starts_with(ours)) {
                    fs::remove_dir_all(known.path())?;
                }
            }
        } else if depth > 0 {
            forget_ours(&path, depth - 1)?;
        }
    }
    Ok(())
}

/// Takes back what cargo told this program of its own package, before another cargo is called: build scripts that name such
/// variables as inputs would run again whenever another program, or a person, calls cargo.
pub fn outside_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_checkout_makes_cargo_forget_our_packages() {
        let folder = env::temp_dir().join(format!("weft-checkout-{}", std::process::id()));
        let (target, one, other) = (folder.join("target"), folder.join("one"), folder.join("other"));
        let known = target.join("debug/.fingerprint");
        let (ours, theirs) = (known.join("weft-agent-1"), known.join("serde-1"));
        for path in [&one, &other, &ours, &theirs] {
            fs::create_dir_all(path).unwrap();
        }
        drop(claim(&target, &one).unwrap());
        assert!(!ours.exists(), "nobody knows whose it was");
        fs::create_dir_all(&ours).unwrap();
        let (first, second) = (claim(&target, &one).unwrap(), claim(&target, &one).unwrap());
        assert!(ours.exists());
        drop((first, second));
        drop(claim(&target, &other).unwrap());
        assert!(!ours.exists() && theirs.exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
