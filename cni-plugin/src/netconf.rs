//! The network configuration on standard input.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{
    attachment::AttachmentId,
    invocation::{Command, is_name},
    version::CniVersion,
};

/// Far more than a configuration with its `prevResult` and a list of attachments needs.
const LENGTH_MAX: u64 = 8 << 20;
/// The state directory where the configuration names none.
const STATE_DIRECTORY: &str = "/run/weft";

/// A configuration that cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input failed.
    #[error("standard input: {0}")]
    Read(io::Error),
    /// More than any configuration needs.
    #[error("standard input has more than {LENGTH_MAX} bytes: this is no network configuration")]
    TooLong {},
    /// Not JSON, or a key has a value of another kind.
    #[error("standard input is not a network configuration: {0}. Look at the files of /etc/cni/net.d")]
    Decode(serde_json::Error),
    /// None of our versions.
    #[error("the configuration has cniVersion {version:?}, and weft-cni speaks {known}. Set one of these in the conflist", known = CniVersion::list())]
    Version {
        /// What stands in `cniVersion`.
        version: String,
    },
    /// The version has no such command.
    #[error("cniVersion {version} has no {command}; it came with {since}. Use it with a configuration of that version", version = version.as_str(), since = since.as_str())]
    CommandTooNew {
        /// The command.
        command: Command,
        /// The configuration's version.
        version: CniVersion,
        /// The first version with the command.
        since: CniVersion,
    },
    /// The network's name breaks the specification's rule.
    #[error(
        "the network name {0:?} must start with a letter or digit and hold only letters, digits, '_', '.' and '-'. Correct \"name\" in the conflist"
    )]
    Name(String),
    /// One of our own keys.
    #[error("{key:?} is {value:?}, which is not an absolute path. Correct or remove it in the conflist")]
    RelativeDirectory {
        /// The key.
        key: &'static str,
        /// Its value.
        value: PathBuf,
    },
    /// CHECK without the result of ADD.
    #[error(
        "CHECK needs \"prevResult\", the result of ADD, and the configuration has none. The container runtime adds it"
    )]
    NoPrevResult,
}

/// What we use of a network configuration. Other keys are the runtime's, other plugins' or newer versions' business.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// `cniVersion`.
    pub version: CniVersion,
    /// `name` of the network.
    pub name: String,
    /// `dns`, passed on to the result.
    pub dns: Option<Value>,
    /// `prevResult`: of another plugin before us in ADD, of our own ADD in CHECK.
    pub prev_result: Option<Value>,
    /// `cni.dev/valid-attachments`, in GC. None where the runtime says nothing of them, which is not the same as an empty list.
    pub valid_attachments: Option<BTreeSet<AttachmentId>>,
    /// `stateDirectory`, for tests.
    pub state_directory: PathBuf,
    /// `pinDirectory`, for tests.
    pub pin_directory: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    dns: Option<Value>,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments", deserialize_with = "present")]
    valid_attachments: Option<Option<Vec<ValidAttachment>>>,
    /// What the specification's first text called the same list. libcni writes both keys.
    #[serde(default, rename = "cni.dev/attachments", deserialize_with = "present")]
    attachments: Option<Option<Vec<ValidAttachment>>>,
    #[serde(default)]
    state_directory: Option<PathBuf>,
    #[serde(default)]
    pin_directory: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// Tells `null`, which is what Go writes for an empty list, from no key at all.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Standard input to its end.
pub fn read(input: impl Read) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let length = input.take(LENGTH_MAX + 1).read_to_end(&mut text).map_err(Error::Read)?;
    if length as u64 > LENGTH_MAX { Err(Error::TooLong {}) } else { Ok(text) }
}

/// The JSON object on standard input.
pub fn decode(text: &[u8]) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(text).map_err(Error::Decode)
}

/// `cniVersion` of a configuration, whatever else is wrong with it: an error is answered in the version that was asked in.
pub fn asked_version(object: &Map<String, Value>) -> Option<&str> {
    object.get("cniVersion").and_then(Value::as_str).filter(|asked| !asked.is_empty())
}

impl NetConf {
    /// Reads and checks a configuration for a command.
    pub fn parse(object: Map<String, Value>, command: Command) -> Result<Self, Error> {
        // The specification counts a configuration without a version as 0.1.0.
        let asked = asked_version(&object).unwrap_or("0.1.0");
        let version = CniVersion::parse(asked).ok_or_else(|| Error::Version { version: asked.to_owned() })?;
        let since = match command {
            Command::Check => CniVersion::V0_4_0,
            Command::Status | Command::Gc => CniVersion::V1_1_0,
            Command::Add | Command::Del | Command::Version => CniVersion::V0_3_1,
        };
        if version < since {
            return Err(Error::CommandTooNew { command, version, since });
        }
        let text: Text = serde_json::from_value(Value::Object(object)).map_err(Error::Decode)?;
        let name = text.name.unwrap_or_default();
        if !is_name(&name) {
            return Err(Error::Name(name));
        }
        if command == Command::Check && text.prev_result.is_none() {
            return Err(Error::NoPrevResult);
        }
        Ok(Self {
            version,
            name,
            dns: text.dns,
            prev_result: text.prev_result,
            valid_attachments: text.valid_attachments.or(text.attachments).map(|list| {
                let id =
                    |valid: ValidAttachment| AttachmentId { container_id: valid.container_id, ifname: valid.ifname };
                list.unwrap_or_default().into_iter().map(id).collect()
            }),
            state_directory: directory("stateDirectory", text.state_directory, STATE_DIRECTORY)?,
            pin_directory: directory("pinDirectory", text.pin_directory, weft_common::layout::PIN_DIRECTORY)?,
        })
    }
}

fn directory(key: &'static str, value: Option<PathBuf>, default: &str) -> Result<PathBuf, Error> {
    match value {
        None => Ok(default.into()),
        Some(value) if value.is_absolute() => Ok(value),
        Some(value) => Err(Error::RelativeDirectory { key, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &Value, command: Command) -> Result<NetConf, Error> {
        NetConf::parse(decode(text.to_string().as_bytes())?, command)
    }

    #[test]
    fn keys_of_the_specification_and_unknown_ones_are_never_refused() {
        let text = json!({
            "cniVersion": "1.1.0", "cniVersions": ["1.0.0"], "name": "weft", "type": "weft-cni", "args": {"cni": {"labels": [1]}},
            "runtimeConfig": {"portMappings": []}, "prevResult": {"ips": []}, "capabilities": {"portMappings": true},
            "dns": {"nameservers": ["192.0.2.1"]}, "ipMasq": true, "disableCheck": true, "disableGC": false,
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}], "cni.dev/attachments": [], "cni.dev/new": 1,
            "unknown": {"of": "another plugin"},
        });
        for command in [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status] {
            let conf = parse(&text, command).unwrap();
            assert_eq!(conf.version, CniVersion::V1_1_0);
            assert_eq!(conf.dns, Some(json!({"nameservers": ["192.0.2.1"]})));
            assert_eq!(conf.state_directory, PathBuf::from("/run/weft"));
        }
    }

    #[test]
    fn null_is_the_same_as_no_key_at_all() {
        let text =
            json!({"cniVersion": "1.0.0", "name": "weft", "dns": null, "prevResult": null, "stateDirectory": null});
        let conf = parse(&text, Command::Add).unwrap();
        assert_eq!((conf.dns, conf.prev_result), (None, None));
    }

    #[test]
    fn commands_are_refused_by_versions_that_had_none() {
        for (version, command, allowed) in [
            ("0.3.1", Command::Add, true),
            ("0.3.1", Command::Check, false),
            ("0.4.0", Command::Check, true),
            ("1.0.0", Command::Gc, false),
            ("1.0.0", Command::Status, false),
            ("1.1.0", Command::Gc, true),
            ("1.1.0", Command::Status, true),
        ] {
            let text =
                json!({"cniVersion": version, "name": "weft", "prevResult": {}, "cni.dev/valid-attachments": []});
            let result = parse(&text, command);
            assert_eq!(result.is_ok(), allowed, "{version} {command}");
            assert!(allowed || matches!(result, Err(Error::CommandTooNew { .. })));
        }
    }

    #[test]
    fn other_versions_are_refused() {
        for version in [json!("0.1.0"), json!("0.2.0"), json!("0.3.0"), json!("2.0.0"), json!(""), Value::Null] {
            let result = parse(&json!({"cniVersion": version, "name": "weft"}), Command::Add);
            assert!(matches!(result, Err(Error::Version { .. })), "{version}");
        }
    }

    #[test]
    fn names_follow_the_specification() {
        for name in [json!(""), json!("-a"), json!("a/b"), json!("a b"), Value::Null] {
            let result = parse(&json!({"cniVersion": "1.0.0", "name": name}), Command::Add);
            assert!(matches!(result, Err(Error::Name(_))), "{name}");
        }
    }

    #[test]
    fn check_needs_the_result_of_add() {
        let result = parse(&json!({"cniVersion": "1.0.0", "name": "weft"}), Command::Check);
        assert!(matches!(result, Err(Error::NoPrevResult)));
    }

    #[test]
    fn gc_tells_an_empty_list_from_none() {
        let without = json!({"cniVersion": "1.1.0", "name": "weft"});
        assert_eq!(parse(&without, Command::Gc).unwrap().valid_attachments, None);
        for list in [json!([]), Value::Null] {
            let text = json!({"cniVersion": "1.1.0", "name": "weft", "cni.dev/valid-attachments": list});
            assert_eq!(parse(&text, Command::Gc).unwrap().valid_attachments, Some(BTreeSet::new()));
        }
    }

    #[test]
    fn the_list_of_valid_attachments_has_two_names() {
        let list = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
        let valid = |text: Value| parse(&text, Command::Gc).unwrap().valid_attachments.unwrap();
        let mut text = json!({"cniVersion": "1.1.0", "name": "weft", "cni.dev/attachments": list("old")});
        assert_eq!(valid(text.clone()).first().unwrap().container_id, "old");
        text["cni.dev/valid-attachments"] = list("new");
        assert_eq!(valid(text).first().unwrap().container_id, "new");
    }

    #[test]
    fn directories_are_absolute() {
        let text = json!({"cniVersion": "1.0.0", "name": "weft", "pinDirectory": "pins"});
        assert!(matches!(parse(&text, Command::Add), Err(Error::RelativeDirectory { key: "pinDirectory", .. })));
    }

    #[test]
    fn other_input_is_refused() {
        for text in ["", "{", "[]", "null", "3", "\u{0}"] {
            assert!(matches!(decode(text.as_bytes()), Err(Error::Decode(_))), "{text:?}");
        }
        let text = json!({"cniVersion": "1.0.0", "name": ["weft"]});
        assert!(matches!(parse(&text, Command::Add), Err(Error::Decode(_))));
        assert!(matches!(read(io::repeat(b' ')), Err(Error::TooLong {})));
    }
}
