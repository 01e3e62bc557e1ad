//! The program: reads environment and standard input, runs the command, prints the answer.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    path::Path,
};

use serde_json::Value;

use crate::{
    add, check, del,
    error::Failure,
    gc,
    invocation::Invocation,
    loopback,
    netconf::{self, NetConf},
    status,
    version::{self, CniVersion},
};

/// What a person sees who calls the plugin by hand.
const USAGE: &str = "\
It gives pods of this node their network interfaces and is called by the container runtime, not by people. What to do stands
in CNI_COMMAND (ADD, DEL, CHECK, STATUS, GC, VERSION), the network's configuration is on standard input. See
/etc/cni/net.d/10-weft.conflist for the configuration, and `weft status` for the state of this node.";

/// Which plugin the program is. Its file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// weft's own.
    Weft,
    /// The loopback plugin.
    Loopback,
}

impl Plugin {
    /// The plugin that is called by this path.
    pub fn of_path(path: &OsStr) -> Self {
        if Path::new(path).file_name() == Some(OsStr::new("loopback")) { Self::Loopback } else { Self::Weft }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::Loopback => "weft loopback",
        }
    }
}

/// Runs one call and returns the exit code. `arguments` are those after the program's name; `variable` looks up one of the
/// environment.
pub fn run(
    plugin: Plugin,
    arguments: &[String],
    variable: impl Fn(&str) -> Option<String>,
    input: impl Read,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let about = format!(
        "CNI {} plugin v{}\nCNI protocol versions supported: {}\n",
        plugin.name(),
        env!("CARGO_PKG_VERSION"),
        CniVersion::list()
    );
    match arguments.first().map(String::as_str) {
        None if variable("CNI_COMMAND").is_some_and(|command| !command.is_empty()) => {}
        // Without a command it was called by a person. Standard output is for runtimes.
        None => return print(errors, &format!("{about}{USAGE}\n"), 0),
        Some("--version" | "-V") => return print(output, &about, 0),
        Some("--help" | "-h") => return print(output, &format!("{about}{USAGE}\n"), 0),
        Some(other) => return print(errors, &format!("unknown argument {other:?}\n{about}{USAGE}\n"), 2),
    }
    let mut version = None;
    match answer(plugin, variable, input, &mut version) {
        Ok(Value::Null) => 0,
        Ok(answer) => print(output, &format!("{answer}\n"), 0),
        Err(failure) => print(output, &format!("{}\n", failure.to_json(version)), 1),
    }
}

/// Prints and returns the exit code, which is 1 when printing fails.
fn print(to: &mut dyn Write, text: &str, code: u8) -> u8 {
    if to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_ok() { code } else { 1 }
}

/// The answer to a call, `null` for those without one. Sets `version` as soon as it is known.
fn answer(
    plugin: Plugin,
    variable: impl Fn(&str) -> Option<String>,
    input: impl Read,
    version: &mut Option<CniVersion>,
) -> Result<Value, Failure> {
    // Errors of the environment are answered in the configuration's version, so that is read first.
    let text = netconf::read(input);
    let object = text.and_then(|text| netconf::decode(&text));
    let asked = object.as_ref().ok().and_then(netconf::asked_version).map(str::to_owned);
    *version = asked.as_deref().and_then(CniVersion::parse);

    let invocation = Invocation::from_environment(variable)?;
    let command = invocation.command();
    let conf = || Ok::<_, Failure>(NetConf::parse(object?, command)?);
    let nothing = |()| Value::Null;
    match (plugin, invocation) {
        (_, Invocation::Version) => Ok(version::version(asked.as_deref())),
        (Plugin::Weft, Invocation::Add { id, netns, pod }) => add::add(&conf()?, &id, &netns, &pod),
        (Plugin::Weft, Invocation::Del { id, .. }) => del::del(&conf()?, &id).map(nothing),
        (Plugin::Weft, Invocation::Check { id, netns }) => check::check(&conf()?, &id, &netns).map(nothing),
        (Plugin::Weft, Invocation::Status) => status::status(&conf()?).map(nothing),
        (Plugin::Weft, Invocation::Gc) => gc::gc(&conf()?).map(nothing),
        (Plugin::Loopback, Invocation::Add { netns, .. }) => loopback::add(&conf()?, &netns),
        (Plugin::Loopback, Invocation::Del { netns, .. }) => {
            conf()?;
            loopback::del(netns.as_ref()).map(nothing)
        }
        (Plugin::Loopback, Invocation::Check { netns, .. }) => {
            conf()?;
            loopback::check(&netns).map(nothing)
        }
        // The loopback plugin keeps nothing and needs nothing.
        (Plugin::Loopback, Invocation::Status | Invocation::Gc) => conf().map(|_| Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Outcome {
        code: u8,
        output: String,
        errors: String,
    }

    fn call(plugin: Plugin, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Outcome {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let code = run(plugin, &arguments, variable, input.as_bytes(), &mut output, &mut errors);
        Outcome { code, output: String::from_utf8(output).unwrap(), errors: String::from_utf8(errors).unwrap() }
    }

    fn failure(variables: &[(&str, &str)], input: &str) -> Value {
        let outcome = call(Plugin::Weft, &[], variables, input);
        assert_eq!((outcome.code, outcome.errors.as_str()), (1, ""));
        serde_json::from_str(&outcome.output).unwrap()
    }

    #[test]
    fn a_person_is_told_what_it_is() {
        for (plugin, name) in [(Plugin::Weft, "CNI weft plugin v"), (Plugin::Loopback, "CNI weft loopback plugin v")] {
            let by_hand = call(plugin, &[], &[], "");
            assert_eq!((by_hand.code, by_hand.output.as_str()), (0, ""));
            assert!(by_hand.errors.starts_with(name), "{}", by_hand.errors);
            let version = call(plugin, &["--version"], &[], "");
            assert_eq!(version.code, 0);
            assert!(version.output.starts_with(name) && version.output.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"));
        }
        assert_eq!(call(Plugin::Weft, &["--frobnicate"], &[], "").code, 2);
    }

    #[test]
    fn the_file_name_tells_which_plugin_it_is() {
        for (path, plugin) in [
            ("/opt/cni/bin/weft-cni", Plugin::Weft),
            ("/opt/cni/bin/loopback", Plugin::Loopback),
            ("loopback", Plugin::Loopback),
            ("/opt/loopback/weft-cni", Plugin::Weft),
            ("", Plugin::Weft),
        ] {
            assert_eq!(Plugin::of_path(OsStr::new(path)), plugin, "{path}");
        }
    }

    #[test]
    fn version_answers_in_any_version() {
        for asked in ["0.1.0", "1.0.0", "7.0.0"] {
            let input = json!({"cniVersion": asked}).to_string();
            let outcome = call(Plugin::Weft, &[], &[("CNI_COMMAND", "VERSION")], &input);
            assert_eq!(outcome.code, 0);
            assert_eq!(serde_json::from_str::<Value>(&outcome.output).unwrap()["cniVersion"], asked);
        }
        assert_eq!(call(Plugin::Weft, &[], &[("CNI_COMMAND", "VERSION")], "").code, 0);
    }

    #[test]
    fn an_error_of_the_environment_is_told_in_the_version_of_the_configuration() {
        let error = failure(&[("CNI_COMMAND", "ADD")], r#"{"cniVersion": "0.4.0", "name": "weft"}"#);
        assert_eq!((&error["cniVersion"], &error["code"]), (&json!("0.4.0"), &json!(4)));
        assert!(error["details"].as_str().unwrap().contains("CNI_CONTAINERID"));
    }

    #[test]
    fn each_wrong_configuration_has_the_code_of_the_specification() {
        let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0")];
        for (input, code) in [
            ("", 6),
            ("{", 6),
            (r#"{"cniVersion": "2.0.0", "name": "weft"}"#, 1),
            (r#"{"cniVersion": "1.0.0", "name": "we ft"}"#, 7),
            (r#"{"cniVersion": "1.0.0", "name": "weft", "stateDirectory": "weft"}"#, 7),
            (r#"{"cniVersion": "1.0.0", "name": 3}"#, 6),
        ] {
            let error = failure(&variables, input);
            assert_eq!(error["code"], code, "{input}");
            for key in ["cniVersion", "msg", "details"] {
                assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {error}");
            }
        }
        assert_eq!(failure(&[("CNI_COMMAND", "STATUS")], r#"{"cniVersion": "1.0.0", "name": "weft"}"#)["code"], 1);
        assert_eq!(failure(&[("CNI_COMMAND", "NEW")], r#"{"cniVersion": "1.0.0", "name": "weft"}"#)["code"], 4);
    }

    #[test]
    fn a_namespace_that_is_none_is_refused_before_anything_changes() {
        let state = tempfile::tempdir().unwrap();
        let input = json!({"cniVersion": "1.0.0", "name": "weft", "stateDirectory": state.path()}).to_string();
        for netns in ["/nonexistent", "/proc/self/ns/net", "/proc/self/stat"] {
            let variables =
                [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", netns)];
            let error = failure(&variables, &input);
            assert_eq!(error["code"], 8);
            assert!(error["details"].as_str().unwrap().contains(netns), "{error}");
        }
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_loopback_plugin_needs_no_node() {
        for command in ["STATUS", "GC"] {
            let input = json!({"cniVersion": "1.1.0", "name": "lo", "cni.dev/valid-attachments": []}).to_string();
            assert_eq!(call(Plugin::Loopback, &[], &[("CNI_COMMAND", command)], &input).code, 0);
        }
        let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "lo")];
        assert_eq!(call(Plugin::Loopback, &[], &variables, r#"{"cniVersion": "0.3.1", "name": "lo"}"#).code, 0);
    }
}
