//! `cargo xtask kubectl`: kubectl as the administrator of the demo's cluster.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::demo;
use crate::node::replace_by;

/// Becomes kubectl.
pub(crate) fn command(arguments: &[OsString]) -> Result<ExitCode> {
    replace_by(demo::open()?.kubectl_command(arguments)?)
}
