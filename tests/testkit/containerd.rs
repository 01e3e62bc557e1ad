//! containerd on a node: Debian's 1.6, or containerd 2.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kubelet::{make_folder, put};
use crate::node::Node;
use crate::{images, tools, wait};

/// The socket that kubelet calls.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

const CONFIG: &str = "/etc/containerd/config.toml";
const LIMIT: Duration = Duration::from_secs(60);

/// Which containerd a node runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Containerd {
    /// Debian's package, 1.6: speaks CNI up to 1.0, and never calls STATUS.
    #[default]
    One,
    /// containerd 2, which `cargo xtask setup` builds: speaks CNI 1.1, and calls STATUS whenever kubelet asks how it is.
    Two {
        /// Whether it sets up `lo` by itself instead of calling the plugin `loopback`.
        internal_loopback: bool,
    },
}

impl Containerd {
    /// Its name for people.
    pub fn name(self) -> String {
        match self {
            Self::One => "Debian's containerd".to_owned(),
            Self::Two { .. } => format!("containerd {}", Self::two_version()),
        }
    }

    /// The version of containerd 2, as it names it itself.
    pub fn two_version() -> &'static str {
        tools::CONTAINERD.version.trim_start_matches('v')
    }

    /// The configuration: besides the sandbox's image only what this kind of machine needs. Without CAP_SYS_RESOURCE no score can
    /// be lowered, and runc would give up.
    fn config(self) -> String {
        match self {
            Self::One => format!(
                r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
                pause = images::PAUSE
            ),
            Self::Two { internal_loopback } => format!(
                r#"version = 3
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
use_internal_loopback = {internal_loopback}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
                pause = images::PAUSE
            ),
        }
    }

    /// The words of a command of this version: containerd itself, or `ctr`.
    fn words(self, program: &str) -> Result<Vec<String>> {
        match self {
            Self::One => Ok(vec![program.to_owned()]),
            Self::Two { .. } => {
                // It looks its shim up in PATH, where Debian's must not come first; runc is Debian's.
                let folder = tools::CONTAINERD.folder();
                let path = std::env::var("PATH").unwrap_or_default();
                let path = format!("PATH={}:{path}", folder.display());
                Ok(vec!["env".to_owned(), path, tools::path(program)?.to_string_lossy().into_owned()])
            }
        }
    }

    /// Starts it on a node and waits until it takes calls.
    pub(crate) fn start(self, node: &Node) -> Result<Child> {
        put(node, CONFIG, &self.config())?;
        for folder in ["/etc/cni/net.d", "/opt/cni/bin"] {
            make_folder(node, folder)?;
        }
        let mut words = self.words("containerd")?;
        words.extend(["--config", CONFIG].map(String::from));
        let child = node.spawn("containerd", words)?;
        let socket = node.file(SOCKET);
        wait::until(LIMIT, "containerd to take calls", || Ok(UnixStream::connect(&socket).map(drop)?))
            .with_context(|| format!("on {}", node.name()))?;
        Ok(child)
    }

    /// Imports the archive of an image on a node where it runs.
    pub(crate) fn import_image(self, node: &Node, archive: &Path) -> Result<()> {
        let mut words = self.words("ctr")?;
        words.extend(["--namespace", "k8s.io", "images", "import"].map(String::from));
        if self != Self::One {
            // Without it the archive goes through the daemon, which would unpack it for every platform that it knows.
            words.push("--local".to_owned());
        }
        words.push(archive.to_string_lossy().into_owned());
        node.run(words).map(drop)
    }
}

/// As commands take it: the first number of the version.
impl fmt::Display for Containerd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::One => "1",
            Self::Two { .. } => "2",
        })
    }
}

impl FromStr for Containerd {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "1" => Self::One,
            // Its default.
            "2" => Self::Two { internal_loopback: false },
            _ => bail!("there is no containerd `{text}`; there are 1 and 2"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        for containerd in [Containerd::One, Containerd::Two { internal_loopback: false }] {
            assert_eq!(containerd.to_string().parse::<Containerd>().unwrap(), containerd);
        }
        assert!("1.6".parse::<Containerd>().is_err());
    }

    #[test]
    fn each_version_gets_a_configuration_of_its_own_kind() {
        let both = [true, false].map(|internal_loopback| Containerd::Two { internal_loopback }.config());
        assert!(both[0].contains("use_internal_loopback = true") && both[1].contains("use_internal_loopback = false"));
        assert!(both.iter().all(|text| text.starts_with("version = 3") && text.contains(images::PAUSE)));
        let one = Containerd::One.config();
        assert!(one.starts_with("version = 2") && one.contains(images::PAUSE));
    }
}
