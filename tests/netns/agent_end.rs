//! How things end. SIGTERM ends the agent in under a second, whatever it is doing, and leaves everything as it is.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use weft_cni::lock::Lock;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::fake_api_server::Fault;

/// Ends the agent with SIGTERM. Its exit code is seen to be 0.
fn ends_at_once(node: &AgentNode, doing: &str) {
    let took = node.stop_agent(Signal::SIGTERM);
    assert!(took < Duration::from_secs(1), "{doing}: {took:?}\n{}", node.log());
}

fn wait_for(node: &AgentNode, what: &str, probe: impl Fn() -> bool) {
    wait::until_true(LIMIT, what, probe).unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
}

#[test]
fn whatever_the_agent_waits_for_sigterm_ends_it_in_under_a_second() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod(0);
        let before = node.kernel();
        let is_alive = || node.health("/livez").is_ok_and(|(code, _)| code == 200);
        node.stop_agent(Signal::SIGTERM);

        // It has just begun: programs and maps are being opened.
        let starts = node.log().matches("starting").count();
        node.start_agent();
        wait_for(node, "the agent to start", || node.log().matches("starting").count() > starts);
        ends_at_once(node, "starting");

        cluster.api.set_away(true);
        node.start_agent();
        wait_for(node, "the agent to find no API server", || node.log().contains("cannot be used"));
        ends_at_once(node, "without an API server");
        cluster.api.set_away(false);

        cluster.api.set_fault(Fault::Hang);
        node.start_agent();
        wait_for(node, "the agent to be alive", is_alive);
        ends_at_once(node, "listing");
        cluster.api.set_fault(Fault::None);

        node.start_agent();
        node.wait_until_ready();
        // A client that asks half a question, and one that reads no answer.
        let socket = node.folder.join("run/agent.sock");
        let mut half = UnixStream::connect(&socket).unwrap();
        half.write_all(b"GET /routes HT").unwrap();
        let mut deaf = UnixStream::connect(&socket).unwrap();
        deaf.write_all(&b"GET /routes HTTP/1.1\r\nHost: weft\r\n\r\n".repeat(200)).unwrap();
        ends_at_once(node, "answering an operator");

        let lock = Lock::acquire(&node.folder.join("run"), LIMIT).unwrap();
        node.start_agent();
        let waits = format!(" {} ", node.agent_pid());
        wait_for(node, "the agent to wait for the lock", || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains("->") && line.contains(&waits))
        });
        ends_at_once(node, "waiting for the lock");
        drop(lock);
        assert_eq!(node.kernel(), before);
    });
}

#[test]
fn sigterm_in_the_middle_of_a_thousand_routes_ends_the_agent_and_the_next_one_goes_on() {
    AgentCluster::run_without_agents(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        cluster.register(1);
        for number in 1..=1000_u32 {
            let (high, low) = (number / 250, number % 250 + 1);
            let addresses = [format!("198.18.{high}.{low}")];
            cluster.api.set_node(&format!("far-{number}"), &addresses, &[format!("10.{}.{low}.0/24", 100 + high)]);
        }
        // On a busy machine all of them may be there before anybody has looked.
        let done = (0..20).find_map(|_| {
            node.namespace.run(["ip", "route", "flush", "protocol", "119"]).unwrap();
            node.start_agent();
            wait_for(node, "the first routes", || node.routes().len() > 10);
            ends_at_once(node, "setting routes");
            Some(node.routes()).filter(|done| done.len() < 1002)
        });
        let done = done.expect("one of the ends came in the middle");
        node.start_agent();
        wait::until(LIMIT, "the other routes", || {
            let now = node.routes();
            ensure!(now.len() == 1002 && done.iter().all(|route| now.contains(route)), "{}", now.len());
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        node.wait_until_ready();
    });
}

#[test]
fn what_a_killed_call_of_the_plugin_left_is_taken_back_within_seconds() {
    AgentCluster::run(DUAL, 1, |cluster| {
        let node = &cluster.nodes[0];
        node.add_pod(0);
        let before = node.kernel();
        let mark = node.folder.join("run/attachments/killed@eth0.new");
        fs::write(&mark, "").unwrap();
        wait::until_true(Duration::from_secs(20), "the mark to go", || !mark.exists())
            .unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
        assert!(node.log().contains("taken back"), "{}", node.log());
        assert_eq!(node.kernel(), before, "nothing of a living pod is touched");
    });
}
