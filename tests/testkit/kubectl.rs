//! kubectl of a test cluster: inside its control plane's namespace, with the administrator's rights, with no file outside the cache.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::netns::View;
use crate::tools;

/// Name of the administrator's files; the kubeconfig lies in the instance's folder.
pub(crate) const ADMINISTRATOR: &str = "administrator";

/// A kubectl command for the cluster whose control plane and folder these are.
pub(crate) fn command<I>(control: &View, folder: &Path, arguments: I) -> Result<Command>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut command = control.command([tools::path("kubectl")?]);
    command.args(arguments);
    set_environment(&mut command, folder);
    Ok(command)
}

/// Lets a command, and the kubectl that it may call, find the cluster and write nowhere else.
pub(crate) fn set_environment(command: &mut Command, folder: &Path) {
    command.env("KUBECONFIG", configuration(folder));
    command.env("KUBECACHEDIR", folder.join("kubectl"));
    command.env("KUBERC", "off");
}

/// The administrator's kubeconfig in the instance's folder.
pub(crate) fn configuration(folder: &Path) -> PathBuf {
    folder.join(format!("{ADMINISTRATOR}.kubeconfig"))
}
