//! `weft drops` as an operator of the node asks, while a pod sends from addresses that it does not have.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, sendto, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use serde_json::{Value, json};
use weft_tests::netns::View;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::operators::{answer, command, pods, text, weft};
use crate::plugin_node::tool;

/// Sends packets of a pod from an address that it does not have.
fn spoof(pod: &View, source: &str, destination: &str, count: usize) {
    let send = || -> Result<()> {
        let [source, destination] =
            [source, destination].map(|address| SocketAddr::new(address.parse().unwrap(), 4242));
        let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::IpTransparent, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
        for _ in 0..count {
            sendto(socket.as_raw_fd(), b"spoofed", &SockaddrStorage::from(destination), MsgFlags::empty())?;
        }
        Ok(())
    };
    pod.enter(send).unwrap().with_context(|| format!("{source} -> {destination}")).unwrap();
}

/// An address of the pod's podCIDR that is not the pod's.
fn other(address: &str) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => format!("{}.{}.{}.99", v4.octets()[0], v4.octets()[1], v4.octets()[2]),
        IpAddr::V6(_) => format!("{}99", address.strip_suffix('2').unwrap()),
    }
}

/// A running `weft drops --watch`.
struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    fn start(node: &AgentNode, words: &[&str]) -> Self {
        let mut command = command(node, &[&["drops", "--watch=0.2"], words].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line: words, then the rest.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// Reads lines until so many packets of that reason have been told of: their sum, the last total. Everything else is handed back.
    fn packets(&mut self, reason: &str, count: u64) -> (u64, u64, Vec<String>) {
        let (mut sum, mut total, mut others) = (0, 0, Vec::new());
        while sum < count {
            let line = self.line();
            let words: Vec<_> = line.split_whitespace().collect();
            if words.get(2) == Some(&reason) {
                assert_eq!(words[1], "from_pod", "{line}");
                assert!(words[0].ends_with('Z') && words[4].parse::<f64>().unwrap() > 0.0, "{line}");
                assert!(line.ends_with("The source is not an address of the pod that sent the packet.\n"), "{line}");
                (sum, total) = (sum + words[3].parse::<u64>().unwrap(), words[5].parse().unwrap());
            } else {
                assert!(!line.is_empty(), "the watch ended");
                others.push(line);
            }
        }
        (sum, total, others)
    }

    /// Ends it with SIGINT, or by closing its pipe: it must end at once, without a word.
    fn end(self, signal: Option<Signal>) -> String {
        let Self { mut child, lines } = self;
        match signal {
            Some(signal) => kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap(),
            None => drop(lines),
        }
        let status = wait::until(LIMIT, "the end of the watch", || child.try_wait()?.context("it goes on")).unwrap();
        assert!(status.success(), "{status}");
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        errors
    }
}

const SPOOFED: &str = "source_not_pod";

/// The counter of that reason, as `bpftool` adds it up.
fn counted_by_bpftool(node: &AgentNode) -> u64 {
    let dump = tool(&["bpftool", "-j", "map", "dump", "pinned", node.pins.join("DROPS").to_str().unwrap()]);
    let number = |bytes: &Value| {
        let bytes = bytes.as_array().unwrap().iter().rev();
        bytes.fold(0_u64, |sum, byte| {
            sum << 8 | u64::from_str_radix(byte.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
        })
    };
    let entries = dump.as_array().unwrap();
    // from_pod is program 0, source_not_pod is reason 3.
    let entry = entries.iter().find(|entry| number(&entry["key"]) == 3).unwrap_or_else(|| panic!("{dump}"));
    entry["values"].as_array().unwrap().iter().map(|cpu| number(&cpu["value"])).sum()
}

fn counted(node: &AgentNode, source: &str) -> u64 {
    counter(&answer(node, &["drops"], source))
}

fn counter(answer: &Value) -> u64 {
    let drop = answer["drops"].as_array().unwrap().iter().find(|drop| drop["reason"] == SPOOFED);
    drop.map_or(0, |drop| drop["packets"].as_u64().unwrap())
}

#[test]
fn weft_drops_counts_and_watches_what_a_pod_spoofs() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        let addresses = node.add_pod(0);
        let others = node.add_pod(1);
        let spoof_all = |count| {
            for (own, destination) in addresses.iter().zip(&others) {
                spoof(&node.pods[0], &other(own), destination, count);
            }
        };
        assert_eq!(counted(node, "agent"), 0);
        // Another reason may have been counted: what the kernel sends of itself.
        let before = text(&weft(node, &["drops"]).stdout);
        assert!(before == "no packet was dropped\n" || before.contains("link_local_ignored"), "{before}");

        let mut watch = Watch::start(node, &[]);
        let header = watch.line();
        assert!(header.starts_with("TIME") && header.ends_with("MEANING\n"), "{header}");
        spoof_all(5);
        let (sum, total, rest) = watch.packets(SPOOFED, 10);
        assert_eq!((sum, total), (10, 10), "both families, and not one packet more");
        assert!(rest.iter().all(|line| line.contains("link_local_ignored")), "{rest:?}");
        assert_eq!((counted(node, "agent"), counted_by_bpftool(node)), (10, 10));

        // The agent dies: the watch goes on with the same counters.
        node.stop_agent(Signal::SIGKILL);
        spoof_all(1);
        assert_eq!(watch.packets(SPOOFED, 2).1, 12);
        assert_eq!(counted(node, "offline"), 12);
        let status: Value = serde_json::from_slice(&weft(node, &["status", "-o", "json"]).stdout).unwrap();
        assert_eq!(counter(&status), 12, "one truth: {status}");

        // Its successor makes the map anew: counters begin at zero, and the watch with them.
        fs::remove_file(node.pins.join("DROPS")).unwrap();
        node.start_agent();
        node.wait_until_ready();
        assert_eq!(counted(node, "agent"), 0);
        spoof_all(1);
        assert_eq!(watch.packets(SPOOFED, 2).1, 2);
        let errors = watch.end(Some(Signal::SIGINT));
        // One line for each way in which the agent can be away, not one for each attempt.
        assert!(errors.lines().count() <= 2 && errors.lines().all(|line| line.ends_with("; trying again")), "{errors}");
    });
}

#[test]
fn a_watch_is_json_for_programs_and_ends_when_nobody_reads() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        // Without a pod nothing is dropped: no line that cannot be written tells the watch that its reader has gone.
        let mut quiet = Watch::start(node, &[]);
        quiet.line();
        assert_eq!(quiet.end(None), "");
        let (addresses, others) = (node.add_pod(0), node.add_pod(1));
        for signal in [Some(Signal::SIGINT), None] {
            let mut watch = Watch::start(node, &["-o", "json"]);
            // Nothing says that it has begun but its lines.
            let line = thread::scope(|scope| {
                let told = scope.spawn(|| {
                    loop {
                        let line: Value = serde_json::from_str(&watch.line()).unwrap();
                        if line["reason"] == SPOOFED {
                            return line;
                        }
                    }
                });
                let spoofed = wait::until(LIMIT, "a line", || {
                    spoof(&node.pods[0], &other(&addresses[0]), &others[0], 1);
                    ensure!(told.is_finished());
                    Ok(())
                });
                spoofed.unwrap();
                told.join().unwrap()
            });
            assert_eq!((&line["program"], &line["source"]), (&json!("from_pod"), &json!("agent")));
            assert!(line["packets"].as_u64() > Some(0) && line["perSecond"].as_f64() > Some(0.0), "{line}");
            assert!(line["time"].as_str().unwrap().ends_with('Z') && line["totalPackets"].is_u64(), "{line}");
            assert!(line["nextStep"].as_str().unwrap().contains("`weft pods` shows"), "{line}");
            assert_eq!(watch.end(signal), "", "it ends without a word");
        }
        // The pod's own line says which one it is.
        let dropped = pods(node, "agent")[0]["counters"]["droppedByPrograms"].as_u64().unwrap();
        assert!(dropped >= counted(node, "agent"), "{dropped}");
    });
}
