//! The plugins that are compared, each with a network of its own on the same node.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io::Write};

use anyhow::{Context, Result, ensure};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use weft_agent::overlay::plan::gateway;
use weft_cni::node_facts::{self, NodeFacts};
use weft_common::layout::LAYOUT_VERSION;
use weft_tests::netns::{Namespace, View};
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
    fn new(name: &'static str, program: PathBuf, mut configuration: Value) -> Self {
        let kind = program.file_name().unwrap_or_default().to_string_lossy();
        configuration["cniVersion"] = json!("1.0.0");
        // host-local keeps the addresses of each name apart.
        configuration["name"] = json!(kind);
        configuration["type"] = json!(kind);
        Self { name, program, configuration: configuration.to_string() }
    }

    /// weft's own, with what it needs of its node.
    pub(crate) fn weft(program: &Path, state: &Path, pins: &Path) -> Self {
        let configuration = json!({ "stateDirectory": state, "pinDirectory": pins });
        Self::new("weft-cni", program.to_owned(), configuration)
    }

    /// Debian's ptp with host-local. What host-local stores goes to `folder`.
    pub(crate) fn ptp(folder: &Path, subnets: &[IpNetwork]) -> Self {
        Self::new("ptp + host-local", debian("ptp"), json!({ "ipam": host_local(folder, subnets) }))
    }

    /// Debian's bridge with host-local. What host-local stores goes to `folder`.
    pub(crate) fn bridge(folder: &Path, bridge: &str, subnets: &[IpNetwork], mtu: u32) -> Self {
        let configuration = json!({
            "bridge": bridge, "isGateway": true, "hairpinMode": true, "mtu": mtu,
            "ipam": host_local(folder, subnets),
        });
        Self::new("bridge + host-local", debian("bridge"), configuration)
    }

    /// One call, timed from the start of the process to its end.
    pub(crate) fn call(&self, node: &Namespace, command: &str, pod: &Namespace, id: &str) -> Result<Duration> {
        self.answer(node, command, pod, id).map(|(time, _)| time)
    }

    /// ADD: gives the first address of the pod.
    pub(crate) fn add(&self, node: &View, pod: &Namespace, id: &str) -> Result<IpAddr> {
        let (_, answer) = self.answer(node, "ADD", pod, id)?;
        let result: Value = serde_json::from_str(&answer).context("the plugin wrote no JSON")?;
        let address = result["ips"][0]["address"].as_str().context("the plugin gave no address")?;
        Ok(address.parse::<IpNetwork>()?.ip())
    }

    fn answer(&self, node: &View, command: &str, pod: &Namespace, id: &str) -> Result<(Duration, String)> {
        let mut call = node.command([&self.program]);
        call.env_clear()
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_PATH", DEBIAN)])
            .env("CNI_NETNS", pod.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let begin = Instant::now();
        let answer = answer(&mut call, self.configuration.as_bytes());
        let time = begin.elapsed();
        Ok((time, answer.with_context(|| format!("{command} of {}", self.name))?))
    }
}

fn answer(call: &mut Command, input: &[u8]) -> Result<String> {
    let mut process = call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // One that ends before it has read all says why on its standard output.
    let written = process.stdin.take().context("the process has no standard input")?.write_all(input);
    let output = process.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    written?;
    Ok(out.into_owned())
}

/// A time as the table prints it.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// weft's state directory.
pub(crate) fn state(folder: &Path) -> PathBuf {
    folder.join("weft")
}

/// All of them. `folder` gets what they store; `pins` holds the programs and maps of weft.
pub(crate) fn all(weft: &Path, family: Family, folder: &Path, pins: &Path) -> Result<Vec<Plugin>> {
    let state = state(folder);
    let subnets = |[v4, v6]: [&'static str; 2]| {
        family.choose(v4, v6).into_iter().map(str::parse).collect::<Result<Vec<IpNetwork>, _>>()
    };
    write_facts(&state, "bench", &subnets(WEFT)?, 1450)?;
    let bridge = json!({ "bridge": "bench0", "isGateway": true, "ipam": host_local(folder, &subnets(BRIDGE)?) });
    Ok(vec![
        Plugin::weft(weft, &state, pins),
        Plugin::ptp(folder, &subnets(PTP)?),
        Plugin::new("bridge + host-local", debian("bridge"), bridge),
    ])
}

fn debian(name: &str) -> PathBuf {
    Path::new(DEBIAN).join(name)
}

fn host_local(folder: &Path, subnets: &[IpNetwork]) -> Value {
    let everything = |subnet: &IpNetwork| if subnet.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    json!({
        "type": "host-local", "dataDir": folder.join("host-local"),
        "ranges": subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect::<Vec<_>>(),
        "routes": subnets.iter().map(|subnet| json!({ "dst": everything(subnet) })).collect::<Vec<_>>(),
    })
}

/// Writes what the agent tells the plugin, into weft's state directory.
pub(crate) fn write_facts(state: &Path, node: &str, pod_cidrs: &[IpNetwork], mtu: u32) -> Result<()> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let facts = NodeFacts {
        layout: LAYOUT_VERSION,
        boot_id: boot_id.trim().to_owned(),
        node: node.to_owned(),
        pod_cidrs: pod_cidrs.to_vec(),
        gateways: pod_cidrs.iter().map(|pod_cidr| gateway(*pod_cidr)).collect(),
        mtu,
    };
    fs::create_dir_all(state)?;
    Ok(fs::write(state.join(node_facts::FILE), serde_json::to_vec(&facts)?)?)
}
