//! Pin directories of other layouts: what the agent of an earlier version pinned beside ours, or that of a later one after a
//! way back.
//!
//! Filters hold the programs that they run, and programs their maps, so a pin that goes stops nothing, but for those of links: with them
//! the programs for sockets of that layout are detached, which ours have replaced. But a plugin of that layout
//! that is under way may still want to open it. So the directory goes only when everything is installed and a look has found no filter of
//! ours with another program than ours; then nothing is left that uses what was pinned there, and the kernel frees it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{info, warn};
use weft_common::layout::{map, program};

use crate::overlay::state::{FilterProgram, OverlayState};

/// What the directory of a layout is called, before its number.
const PREFIX: char = 'v';

/// A directory of another layout that cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum OldLayoutsError {
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}; see that the agent may write to the BPF file system", path = path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something in it was not made by weft.
    #[error("{path} is in the directory of another layout of weft and is no pin; whoever made it is to remove it", path = .0.display())]
    NotAPin(PathBuf),
}

/// Removes the pin directories of other layouts, when nothing needs them.
#[derive(Debug)]
pub struct OldLayouts {
    pin_directory: PathBuf,
    /// What is logged already, so that a retry is not logged again.
    known_failure: Option<String>,
}

impl OldLayouts {
    /// Those beside our own pin directory.
    pub fn beside(pin_directory: &Path) -> Self {
        Self { pin_directory: pin_directory.to_owned(), known_failure: None }
    }

    /// Removes them, unless one of our filters, as a look has just found them, runs something else than our programs. To be called
    /// when everything is installed.
    pub fn retire(&mut self, observed: &OverlayState) {
        let mut programs = observed.filters.values().chain(observed.underlay_filters.values());
        if programs.any(|program| *program == FilterProgram::Other) {
            return;
        }
        let failure = remove(&self.pin_directory).err().map(|error| error.to_string());
        if let Some(reason) = &failure
            && self.known_failure != failure
        {
            warn!(object = "pins of another layout", reason, "they stay, and nothing uses them; tried again later");
        }
        self.known_failure = failure;
    }
}

/// Removes every directory of another layout beside this one. The first error is told.
fn remove(pin_directory: &Path) -> Result<(), OldLayoutsError> {
    let layout = |path: &Path| path.file_name().and_then(|name| layout_of(name.to_str()?));
    // A directory of another name was somebody's choice, and what is beside it is not ours to judge.
    let (Some(own), Some(parent)) = (layout(pin_directory), pin_directory.parent()) else { return Ok(()) };
    let is_on_bpffs = |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    let mut outcome = Ok(());
    for (path, kind) in entries(parent)? {
        let is_of_another_layout = layout(&path).is_some_and(|found| found != own);
        if is_of_another_layout && kind.is_dir() && is_on_bpffs(&path) {
            // One that must stay keeps no other.
            outcome = outcome.and(remove_directory(&path));
        }
    }
    outcome
}

/// The number of the layout whose directory has this name.
fn layout_of(name: &str) -> Option<u32> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (name == format!("{PREFIX}{number}")).then_some(number)
}

/// Removes a directory with the pins in it, if it is weft's.
fn remove_directory(directory: &Path) -> Result<(), OldLayoutsError> {
    let mut pins = Vec::new();
    for (path, kind) in entries(directory)? {
        if !kind.is_file() {
            return Err(OldLayoutsError::NotAPin(path));
        }
        pins.push(path);
    }
    let is_known = |path: &PathBuf| {
        let mut known = map::ALL.iter().chain(&program::ALL).chain(&program::SOCKET).chain(&program::SOCKET_LINKS);
        path.file_name().is_some_and(|name| known.any(|known| name == *known))
    };
    if !pins.is_empty() && !pins.iter().any(is_known) {
        return Ok(());
    }
    // What tells that the directory is weft's goes last, should we be killed in between.
    pins.sort_by_key(is_known);
    for pin in &pins {
        unless_absent(fs::remove_file(pin)).map_err(failed("remove", pin))?;
    }
    unless_absent(fs::remove_dir(directory)).map_err(failed("remove", directory))?;
    info!(object = %directory.display(), pins = pins.len(), "removed: pins of another layout that nothing uses any more");
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<(PathBuf, fs::FileType)>, OldLayoutsError> {
    let entries = fs::read_dir(directory).map_err(failed("list", directory))?;
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?))
    };
    entries.map(entry).collect::<io::Result<_>>().map_err(failed("list", directory))
}

/// Removing what is not there is done already.
fn unless_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OldLayoutsError {
    let path = path.to_owned();
    move |source| OldLayoutsError::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_v_and_a_number_names_a_layout() {
        assert_eq!(["v1", "v2", "v10"].map(layout_of), [Some(1), Some(2), Some(10)]);
        for name in ["v", "1", "v01", "v+1", "v-1", "v1_new", "V1", "weft", "v99999999999", ""] {
            assert_eq!(layout_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_on_a_bpf_file_system_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for layout in ["v1", "v2"] {
            fs::create_dir(folder.path().join(layout)).unwrap();
            fs::write(folder.path().join(layout).join(map::ENDPOINTS), "").unwrap();
        }
        remove(&folder.path().join("v2")).unwrap();
        assert!(folder.path().join("v1").join(map::ENDPOINTS).exists());
    }
}
