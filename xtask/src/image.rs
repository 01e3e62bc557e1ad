//! `cargo xtask image`: weft's container image, without container engine or registry.

use std::path::{Path, PathBuf};

use anyhow::Result;
use weft_tests::image::{Files, Image};
use weft_tests::images::WEFT;
use weft_tests::{cache, weft_image};

use crate::progress::Progress;
use crate::{build, licenses, setup, tree};

/// The command itself.
pub(crate) fn command() -> Result<()> {
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    let archive = build(&mut progress)?;
    println!("{}", archive.display());
    println!("On a node: `ctr -n k8s.io images import {}`", archive.display());
    Ok(())
}

/// Builds programs and image, unless the very same sources were built before. Returns the archive.
pub(crate) fn build(progress: &mut Progress) -> Result<PathBuf> {
    let archive = weft_image::archive(&tree::top())?;
    if cache::use_again(&archive) {
        progress.stage("image (built before from the same sources)", |_| Ok(()))?;
        return Ok(archive);
    }
    let programs = build::programs(progress)?;
    progress.stage("image", |detail| {
        let digest = write(&programs, &archive)?;
        detail.say(&digest);
        weft_image::remove_old()
    })?;
    Ok(archive)
}

fn write(programs: &Path, archive: &Path) -> Result<String> {
    let mut files = Files::default();
    for program in build::PROGRAMS {
        files.copy(&format!("/{program}"), 0o755, &programs.join(program))?;
    }
    licenses::add(&mut files)?;
    Image { name: WEFT, entrypoint: &["/weft-agent"], arguments: &[], path: "/", files: &files }.write(archive)
}
