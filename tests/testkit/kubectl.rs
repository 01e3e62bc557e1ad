//! kubectl of a test cluster: inside its control plane's namespace, with the administrator's rights, with no file outside the cache.

use std::ffi::OsStr;
use std::path::Path;
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
    command.env("KUBECONFIG", folder.join(format!("{ADMINISTRATOR}.kubeconfig")));
    command.env("KUBECACHEDIR", folder.join("kubectl"));
    command.env("KUBERC", "off");
    Ok(command)
}
