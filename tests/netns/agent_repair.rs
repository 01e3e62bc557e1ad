//! The whole agent puts back what somebody else changes: within seconds, counted, and told in one line.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};

/// Most seconds until something is back, on a machine that has other things to do.
const SECONDS: Duration = Duration::from_secs(10);
/// The line that tells of repairs.
const REPAIRED: &str = "somebody else changed it; repaired";

/// Damage, the kind of repair that is counted, and what the line says. `$dev`, `$v4` and `$v6` are a pod's, `$pins` is the folder.
const DAMAGE: &[(&str, &str, &str)] = &[
    ("ip route delete 10.244.2.0/24", "set_route", "route 10.244.2.0/24 (missing)"),
    ("ip address delete 10.244.1.1/32 dev weft0", "add_address", "address 10.244.1.1 of weft0 (missing"),
    ("ip link set weft0 mtu 1300", "set_device", "device weft0 (had the MTU 1300)"),
    ("ip link delete weft0", "create_device", "device weft0 (missing)"),
    ("nft delete table inet weft", "set_masquerade", "nftables table weft (missing"),
    ("sysctl -q -w net.ipv4.conf.eth0.forwarding=0", "set_sysctl", "net/ipv4/conf/eth0/forwarding (was \"0\")"),
    ("ip link set $dev down", "set_pod_device", "device $dev (down)"),
    ("ip neighbour delete $v4 dev $dev", "set_pod_neighbour", "neighbour $v4 of $dev (missing)"),
    ("tc qdisc delete dev $dev clsact", "set_filter", "filter $dev ingress (missing)"),
    ("rm -r $pins", "set_pin", "pin ENDPOINTS (missing)"),
];

/// A pod on a node, as scripts name it.
struct Names {
    device: String,
    addresses: Vec<String>,
}

impl Names {
    fn of_new_pod(node: &AgentNode) -> Self {
        let addresses = node.add_pod(0);
        let route = node.namespace.run(["ip", "route", "show", &format!("{}/32", addresses[0])]).unwrap();
        let device = route.split("dev ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
        Self { device, addresses }
    }

    fn fill_in(&self, node: &AgentNode, text: &str) -> String {
        text.replace("$dev", &self.device)
            .replace("$v4", &self.addresses[0])
            .replace("$v6", &self.addresses[1])
            .replace("$pins", node.pins.to_str().unwrap())
    }
}

fn reach(node: &AgentNode, addresses: &[String]) {
    for address in addresses {
        let words = ["ping", "-c", "1", "-W", "1", address.as_str()];
        wait::until(LIMIT, "a ping", || node.pods[0].run(words).map(drop)).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

#[test]
fn what_somebody_changes_is_back_within_seconds_counted_and_told_in_one_line() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [node, other] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let pod = Names::of_new_pod(node);
        let far = other.add_pod(0);
        reach(node, &far);
        for (damage, kind, words) in DAMAGE {
            let (damage, words) = (pod.fill_in(node, damage), pod.fill_in(node, words));
            // A pass that the last repair or ADD gave rise to must not fall into this damage.
            settled(node);
            let (before, counted) = (node.log().len(), repairs(node, kind));
            node.namespace.run(["sh", "-ec", &damage]).unwrap();
            let told = wait::until(SECONDS, &damage, || {
                let log = node.log().split_off(before);
                ensure!(log.contains(REPAIRED), "{log}");
                ensure!(repairs(node, kind) > counted, "not counted as {kind}");
                Ok(log)
            });
            let told = told.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
            reach(node, &far);
            let lines: Vec<&str> = told.lines().filter(|line| line.contains(REPAIRED)).collect();
            assert!(lines.len() == 1 && unescaped(lines[0]).contains(&words), "{damage}: {words:?} in {lines:#?}");
        }
        node.wait_until_ready();
    });
}

/// The log quotes quotes.
fn unescaped(line: &str) -> String {
    line.replace('\\', "")
}

/// Waits until a pass has found nothing to do, and nothing is left to look at.
fn settled(node: &AgentNode) {
    let state = || (number(node, "weft_passes_total "), number(node, "weft_changes_applied_total{"));
    let mut last = state();
    let quiet = wait::until(LIMIT, "the agent to come to rest", || {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            let now = state();
            if now != last {
                last = now;
                anyhow::bail!("it still works");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    });
    quiet.unwrap_or_else(|error| panic!("{error:#}"));
}

/// The sum of all metrics whose line begins like this.
fn number(node: &AgentNode, beginning: &str) -> u64 {
    let metrics = node.metrics();
    let values =
        metrics.lines().filter(|line| line.starts_with(beginning)).filter_map(|line| line.split(' ').next_back());
    values.map(|value| value.parse::<u64>().unwrap()).sum()
}

fn repairs(node: &AgentNode, kind: &str) -> u64 {
    number(node, &format!("weft_repairs_total{{kind=\"{kind}\"}}"))
}

#[test]
fn a_fight_over_a_route_is_one_problem_and_no_flood_of_lines() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let node = &cluster.nodes[0];
        node.wait_for_routes(
            &["10.244.1.0/24", "10.244.2.0/24", "fd00:10:244:1::/64", "fd00:10:244:2::/64"].map(str::to_owned),
        );
        for round in 1..=8 {
            node.namespace.run(["ip", "route", "delete", "10.244.2.0/24"]).unwrap();
            wait::until(SECONDS, "the route to be back", || {
                let found = repairs(node, "set_route");
                ensure!(found >= round, "{found} of {round}");
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        }
        let log = node.log();
        assert_eq!(log.matches(REPAIRED).count(), 5, "{log}");
        assert_eq!(log.matches("somebody keeps changing it").count(), 1, "{log}");
        let status = node.ask("/status").unwrap();
        let problem = &status["problems"][0];
        assert_eq!(problem["object"], "route 10.244.2.0/24", "{status}");
        assert!(problem["nextStep"].as_str().unwrap().contains("ip monitor"), "{status}");
        assert_eq!(status["healthy"], true, "{status}");
    });
}

#[test]
fn pins_that_are_gone_when_the_agent_starts_are_made_anew_under_traffic() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [node, other] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let pod = Names::of_new_pod(node);
        let far = other.add_pod(0);
        reach(node, &far);
        let (streams, old) =
            (far.iter().map(|address| stream(node, address)).collect::<Vec<_>>(), programs(node, &pod.device));
        for damage in ["rm -r $pins", "rm $pins/ENDPOINTS $pins/to_pod"] {
            node.stop_agent(Signal::SIGKILL);
            node.namespace.run(["sh", "-ec", &pod.fill_in(node, damage)]).unwrap();
            node.start_agent();
            node.wait_until_ready();
            assert_ne!(programs(node, &pod.device), old, "they have other maps now");
            let pinned = node
                .namespace
                .run(["sh", "-ec", &pod.fill_in(node, "bpftool prog show pinned $pins/from_pod")])
                .unwrap();
            let id = pinned.split(':').next().unwrap().to_owned();
            assert!(programs(node, &pod.device).contains(&format!(" id {id} ")), "{pinned}");
        }
        // A pod that starts now talks to those that were there before.
        let new = node.add_pod(1);
        for address in far.iter().chain(&pod.addresses) {
            node.pods[1].run(["ping", "-c", "1", "-W", "5", address]).unwrap();
        }
        reach(other, &new);
        for stream in streams {
            let summary = end(stream);
            assert!(summary.contains(" 0% packet loss"), "{summary}");
        }
    });
}

/// The programs in the filters of a device.
fn programs(node: &AgentNode, device: &str) -> String {
    let script = format!("tc filter show dev {device} ingress; tc filter show dev {device} egress");
    node.namespace.run(["sh", "-ec", &script]).unwrap()
}

/// Pings until it is ended.
fn stream(node: &AgentNode, address: &str) -> Child {
    let mut ping = node.pods[0].command(["ping", "-q", "-i", "0.01", "-W", "5", address]);
    ping.stdout(Stdio::piped()).spawn().unwrap()
}

fn end(stream: Child) -> String {
    kill(Pid::from_raw(i32::try_from(stream.id()).unwrap()), Signal::SIGINT).unwrap();
    String::from_utf8(stream.wait_with_output().unwrap().stdout).unwrap()
}
