//! Records of runs as files of JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads what [`write`] has written.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no record of this version", path.display()))
}

/// Writes a record, in the place of any that is there.
pub(crate) fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    fs::write(path, serde_json::to_vec(record)?).with_context(|| format!("cannot write {}", path.display()))
}
