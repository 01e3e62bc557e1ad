//! A node for the plugin in the sandbox: what the agent and earlier ADDs left in its state directory, laid anew for each run.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde_json::{Value, json};
use weft_cni::node_facts::{self, NodeFacts};
use weft_cni::program::{self, Plugin};

use crate::sandbox::{self, PODS};

/// Where the plugin keeps its state when the configuration does not say.
pub const STATE: &str = "/run/weft";
/// Stands in seeds for this boot's id, which no fuzzer guesses.
const BOOT: &str = "@boot@";

/// What a call gave back.
#[derive(Debug)]
pub struct Answer {
    /// The exit code.
    pub code: u8,
    /// The JSON on standard output, if there was anything.
    pub output: Option<Value>,
}

/// Calls the plugin and checks what holds for every call: an exit code of 0 or 1, nothing or JSON on standard output, and an
/// error as the specification has it.
pub fn call(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Answer {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let has_command = variable("CNI_COMMAND").is_some_and(|command| !command.is_empty());
    let code = program::run(Plugin::Weft, &[], &variable, input, &mut output, &mut errors);
    assert!(code <= 1, "exit code {code}");
    assert_eq!(errors.is_empty(), has_command, "{}", String::from_utf8_lossy(&errors));
    let output = (!output.is_empty())
        .then(|| serde_json::from_slice::<Value>(&output).unwrap_or_else(|error| panic!("{error}: {output:?}")));
    if code == 1 {
        let error = output.as_ref().unwrap_or(&Value::Null);
        assert!(error["code"].as_u64().is_some_and(|code| (1..200).contains(&code)), "{error}");
        for key in ["cniVersion", "msg", "details"] {
            assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {error}");
        }
    }
    Answer { code, output }
}

/// Files and their content.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// Lays out the node: facts of this boot, one attachment, and its address. Returns what lies there, to be compared with what a call
/// leaves: most calls are refused, and then nothing has to be laid anew.
pub fn lay_out() -> &'static Files {
    static LAID: OnceLock<Files> = OnceLock::new();
    let is_laid = LAID.get().is_some_and(|laid| *laid == state_files()) && matches!(sandbox::is_tidy(), Ok(true));
    if !is_laid && let Err(error) = try_lay_out() {
        panic!("cannot lay out the node in {STATE}: {error}");
    }
    LAID.get_or_init(state_files)
}

fn try_lay_out() -> io::Result<()> {
    sandbox::tidy()?;
    match fs::remove_dir_all(STATE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for folder in ["addresses", "attachments", "resting"] {
        fs::create_dir_all(state(folder))?;
    }
    let facts = NodeFacts {
        layout: 2,
        boot_id: node_facts::boot_id().map_err(io::Error::other)?,
        node: "node-1".to_owned(),
        pod_cidrs: ["10.244.1.0/24", "fd00:10:244:1::/64"].iter().filter_map(|text| text.parse().ok()).collect(),
        gateways: vec![[10, 244, 1, 1].into(), [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1].into()],
        mtu: 1450,
    };
    facts.write(Path::new(STATE)).map_err(io::Error::other)?;
    fs::write(state("addresses/10.244.1.2"), "abc eth0\n")?;
    let record = json!({
        "containerId": "abc", "ifname": "eth0", "network": "weft", "netns": PODS[0], "hostDevice": "weft0123456789a",
        "hostIfindex": 7, "podMac": "02:00:00:00:00:01", "hostMac": "02:00:00:00:00:02", "addresses": ["10.244.1.2"],
        "gateways": ["10.244.1.1"], "mtu": 1450,
    });
    fs::write(state("attachments/abc@eth0.json"), record.to_string())
}

/// A file or folder of the state directory.
pub fn state(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

/// All files of the state directory but for the lock, with their content.
pub fn state_files() -> Files {
    let mut files: Files = ["", "addresses", "attachments", "resting"]
        .iter()
        .filter_map(|folder| fs::read_dir(state(folder)).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.is_file() && !path.ends_with("lock"))
        .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

/// An input with this boot's id where a seed has a word for it.
pub fn of_this_boot(data: &[u8]) -> Vec<u8> {
    let Some(place) = data.windows(BOOT.len()).position(|window| window == BOOT.as_bytes()) else {
        return data.to_vec();
    };
    let id = node_facts::boot_id().unwrap_or_default();
    [&data[..place], id.as_bytes(), &data[place + BOOT.len()..]].concat()
}
