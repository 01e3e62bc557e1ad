//! The environment of a call: which command, for which container and interface.

use std::path::PathBuf;

use crate::attachment::AttachmentId;

/// A `CNI_*` variable that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not set, or empty.
    #[error("{variable} is not set, and {command} needs it. The container runtime sets it")]
    Missing {
        /// The variable.
        variable: &'static str,
        /// The command that needs it.
        command: Command,
    },
    /// Set to something that cannot be used.
    #[error("{variable}={value:?}: {reason}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The commands of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Is the attachment as ADD made it?
    Check,
    /// Can ADD succeed?
    Status,
    /// Remove what belongs to no container any more.
    Gc,
    /// Which versions do you speak?
    Version,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        })
    }
}

/// The pod that an attachment is for, as Kubernetes' runtimes say in `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

/// A command with what it is about, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// ADD, with the pod's netns.
    Add {
        /// The attachment.
        id: AttachmentId,
        /// `CNI_NETNS`.
        netns: PathBuf,
        /// From `CNI_ARGS`.
        pod: Pod,
    },
    /// DEL. The netns may be gone, and a runtime may then leave it out.
    Del {
        /// The attachment.
        id: AttachmentId,
        /// `CNI_NETNS`, if it is set.
        netns: Option<PathBuf>,
    },
    /// CHECK, with the pod's netns.
    Check {
        /// The attachment.
        id: AttachmentId,
        /// `CNI_NETNS`.
        netns: PathBuf,
    },
    /// STATUS.
    Status,
    /// GC.
    Gc,
    /// VERSION.
    Version,
}

/// The longest file name on Linux less the longest interface name, `@` and the ending of a record's name.
const CONTAINER_ID_MAX: usize = 255 - 15 - 1 - ".json".len();
/// `IFNAMSIZ` less the final zero.
const IFNAME_MAX: usize = 15;

impl Invocation {
    /// Reads and checks the environment. `variable` looks one up.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let command = match variable("CNI_COMMAND").unwrap_or_default().as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            other => {
                return Err(invalid("CNI_COMMAND", other, "it is none of ADD, DEL, CHECK, STATUS, GC and VERSION"));
            }
        };
        let needed = |name: &'static str| variable(name).ok_or(Error::Missing { variable: name, command });
        let id = || {
            Ok(AttachmentId {
                container_id: container_id(needed("CNI_CONTAINERID")?)?,
                ifname: ifname(needed("CNI_IFNAME")?)?,
            })
        };
        Ok(match command {
            Command::Add => Self::Add {
                id: id()?,
                netns: needed("CNI_NETNS")?.into(),
                pod: pod(&variable("CNI_ARGS").unwrap_or_default())?,
            },
            Command::Del => Self::Del { id: id()?, netns: variable("CNI_NETNS").map(PathBuf::from) },
            Command::Check => Self::Check { id: id()?, netns: needed("CNI_NETNS")?.into() },
            Command::Status => Self::Status,
            Command::Gc => Self::Gc,
            Command::Version => Self::Version,
        })
    }

    /// Which command it is.
    pub fn command(&self) -> Command {
        match self {
            Self::Add { .. } => Command::Add,
            Self::Del { .. } => Command::Del,
            Self::Check { .. } => Command::Check,
            Self::Status => Command::Status,
            Self::Gc => Command::Gc,
            Self::Version => Command::Version,
        }
    }
}

/// The specification's rule for container IDs and for network names.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn invalid(variable: &'static str, value: &str, reason: &'static str) -> Error {
    Error::Invalid { variable, value: value.to_owned(), reason }
}

fn container_id(value: String) -> Result<String, Error> {
    if !is_name(&value) {
        let reason = "it must start with a letter or digit and hold only letters, digits, '_', '.' and '-'";
        return Err(invalid("CNI_CONTAINERID", &value, reason));
    }
    if value.len() > CONTAINER_ID_MAX {
        return Err(invalid("CNI_CONTAINERID", &value, "it is too long to be part of a file name"));
    }
    Ok(value)
}

/// The kernel's rule for interface names.
fn ifname(value: String) -> Result<String, Error> {
    if value.len() > IFNAME_MAX {
        return Err(invalid("CNI_IFNAME", &value, "an interface name has at most 15 bytes"));
    }
    // The kernel goes by bytes and calls 0xa0 a space, so we take no byte beyond ASCII.
    let forbidden = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':');
    if value == "." || value == ".." || value.contains(forbidden) {
        return Err(invalid(
            "CNI_IFNAME",
            &value,
            "the kernel allows no '/', ':', space, '.' or '..' as an interface name",
        ));
    }
    Ok(value)
}

fn pod(arguments: &str) -> Result<Pod, Error> {
    let mut pod = Pod::default();
    for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid("CNI_ARGS", arguments, "it is not a list of KEY=VALUE with ';' in between"));
        };
        let field = match key {
            "K8S_POD_NAMESPACE" => &mut pod.namespace,
            "K8S_POD_NAME" => &mut pod.name,
            "K8S_POD_UID" => &mut pod.uid,
            // Other arguments are other plugins'.
            _ => continue,
        };
        *field = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(variables: &[(&str, &str)]) -> Result<Invocation, Error> {
        Invocation::from_environment(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const ADD: [(&str, &str); 4] =
        [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "abc"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];

    fn add_with(variable: &'static str, value: &str) -> Result<Invocation, Error> {
        let mut variables = ADD.to_vec();
        variables.retain(|(name, _)| *name != variable);
        variables.push((variable, value));
        invocation(&variables)
    }

    fn variable(error: &Error) -> &'static str {
        match error {
            Error::Missing { variable, .. } | Error::Invalid { variable, .. } => variable,
        }
    }

    #[test]
    fn add_takes_the_pod_from_the_arguments() {
        let arguments =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=";
        let Invocation::Add { pod, .. } = add_with("CNI_ARGS", arguments).unwrap() else { panic!("not ADD") };
        assert_eq!(pod, Pod { namespace: Some("default".into()), name: Some("web-0".into()), uid: None });
    }

    #[test]
    fn a_missing_variable_is_named() {
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            let error = add_with(name, "").unwrap_err();
            assert!(matches!(error, Error::Missing { .. }));
            assert_eq!(variable(&error), name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn del_needs_no_netns() {
        let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0")];
        let id = AttachmentId { container_id: "abc".into(), ifname: "eth0".into() };
        assert_eq!(invocation(&variables), Ok(Invocation::Del { id, netns: None }));
    }

    #[test]
    fn status_gc_and_version_need_nothing_else() {
        for (name, expected) in
            [("STATUS", Invocation::Status), ("GC", Invocation::Gc), ("VERSION", Invocation::Version)]
        {
            assert_eq!(invocation(&[("CNI_COMMAND", name)]), Ok(expected));
        }
    }

    #[test]
    fn other_commands_are_refused() {
        for command in ["", "add", "UPDATE"] {
            assert_eq!(variable(&invocation(&[("CNI_COMMAND", command)]).unwrap_err()), "CNI_COMMAND");
        }
    }

    #[test]
    fn container_ids_follow_the_specification() {
        for good in ["a", "0", "A-b_c.d", &"f".repeat(64)] {
            assert!(add_with("CNI_CONTAINERID", good).is_ok(), "{good}");
        }
        for bad in ["-a", ".", "../../etc", "a b", "a@b", "ä", &"f".repeat(250)] {
            assert_eq!(variable(&add_with("CNI_CONTAINERID", bad).unwrap_err()), "CNI_CONTAINERID", "{bad}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "net1", "a@b", "abcdefghijklmno", "e-0.1"] {
            assert!(add_with("CNI_IFNAME", good).is_ok(), "{good}");
        }
        for bad in [".", "..", "a/b", "a:b", "a b", "abcdefghijklmnop", "e\u{a0}", "e\t"] {
            assert_eq!(variable(&add_with("CNI_IFNAME", bad).unwrap_err()), "CNI_IFNAME", "{bad}");
        }
    }

    #[test]
    fn arguments_that_are_no_pairs_are_refused() {
        assert_eq!(variable(&add_with("CNI_ARGS", "K8S_POD_NAME").unwrap_err()), "CNI_ARGS");
    }
}
