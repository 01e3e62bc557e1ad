//! The plugins that are compared, each with a network of its own on the same node.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io::Write};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cni::node_facts::{self, NodeFacts};
use weft_common::layout::LAYOUT_VERSION;
use weft_tests::netns::Namespace;
use weft_tests::plan::Family;

/// Where Debian's package containernetworking-plugins puts them.
const DEBIAN: &str = "/usr/lib/cni";
/// IPv4 and IPv6 ranges; each plugin has its own, so that their routes do not meet.
const WEFT: [&str; 2] = ["10.201.0.0/16", "fd00:201::/112"];
const PTP: [&str; 2] = ["10.202.0.0/16", "fd00:202::/112"];
const BRIDGE: [&str; 2] = ["10.203.0.0/16", "fd00:203::/112"];

/// A plugin and its configuration.
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    program: PathBuf,
    configuration: String,
}

impl Plugin {
    /// One call, timed from the start of the process to its end.
    pub(crate) fn call(&self, node: &Namespace, command: &str, pod: &Namespace, id: &str) -> Result<Duration> {
        let mut call = node.command([&self.program]);
        call.env_clear()
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_PATH", DEBIAN)])
            .env("CNI_NETNS", pod.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let begin = Instant::now();
        let answer = answer(&mut call, self.configuration.as_bytes());
        let time = begin.elapsed();
        answer.with_context(|| format!("{command} of {}", self.name))?;
        Ok(time)
    }
}

fn answer(call: &mut Command, input: &[u8]) -> Result<()> {
    let mut process = call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // One that ends before it has read all says why on its standard output.
    let written = process.stdin.take().context("the process has no standard input")?.write_all(input);
    let output = process.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    Ok(written?)
}

/// weft's state directory.
pub(crate) fn state(folder: &Path) -> PathBuf {
    folder.join("weft")
}

/// All of them. `folder` gets what they store; `pins` holds the programs and maps of weft.
pub(crate) fn all(weft: &Path, family: Family, folder: &Path, pins: &Path) -> Result<Vec<Plugin>> {
    let state = state(folder);
    fs::create_dir_all(&state)?;
    fs::write(state.join(node_facts::FILE), serde_json::to_vec(&facts(family)?)?)?;
    let debian = |name| Path::new(DEBIAN).join(name);
    let ours = json!({ "type": "weft-cni", "stateDirectory": state, "pinDirectory": pins });
    let ptp = json!({ "type": "ptp", "ipam": host_local(folder, family, PTP) });
    let bridge = json!({
        "type": "bridge", "bridge": "bench0", "isGateway": true,
        "ipam": host_local(folder, family, BRIDGE),
    });
    Ok(vec![
        Plugin { name: "weft-cni", program: weft.to_owned(), configuration: configuration("weft", ours) },
        Plugin { name: "ptp + host-local", program: debian("ptp"), configuration: configuration("ptp", ptp) },
        Plugin {
            name: "bridge + host-local",
            program: debian("bridge"),
            configuration: configuration("bridge", bridge),
        },
    ])
}

fn configuration(name: &str, mut plugin: Value) -> String {
    plugin["cniVersion"] = json!("1.0.0");
    plugin["name"] = json!(name);
    plugin.to_string()
}

fn host_local(folder: &Path, family: Family, ranges: [&'static str; 2]) -> Value {
    let choose = |[v4, v6]: [&'static str; 2]| family.choose(v4, v6).into_iter();
    json!({
        "type": "host-local", "dataDir": folder.join("host-local"),
        "ranges": choose(ranges).map(|subnet| json!([{ "subnet": subnet }])).collect::<Vec<_>>(),
        "routes": choose(["0.0.0.0/0", "::/0"]).map(|dst| json!({ "dst": dst })).collect::<Vec<_>>(),
    })
}

fn facts(family: Family) -> Result<NodeFacts> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(NodeFacts {
        layout: LAYOUT_VERSION,
        boot_id: boot_id.trim().to_owned(),
        node: "bench".to_owned(),
        pod_cidrs: family.choose(WEFT[0], WEFT[1]).into_iter().map(str::parse).collect::<Result<_, _>>()?,
        gateways: family.choose("10.201.0.1", "fd00:201::1").into_iter().map(str::parse).collect::<Result<_, _>>()?,
        mtu: 1450,
    })
}
