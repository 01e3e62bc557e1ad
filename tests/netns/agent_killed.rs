//! The agent as a process is killed at every moment of its start and after it, under traffic of every kind.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weft_tests::netns::View;
use weft_tests::traffic::{Traffic, Way};

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, internal_ips};

/// Kills of each agent while it starts, and of an agent that is ready.
const WHILE_STARTING: u32 = 12;
const WHEN_READY: u32 = 3;

fn way(name: &str, from: &View, to: &View, address: &str) -> Way {
    let address: IpAddr = address.parse().unwrap();
    Way { name: name.to_owned(), from: from.clone(), to: to.clone(), address }
}

/// Between pods of one node, of two nodes in both directions, and from a pod to another node, which masquerades it.
fn ways(one: &AgentNode, two: &AgentNode) -> Vec<Way> {
    let (first, neighbour, far) = (one.add_pod(0), one.add_pod(1), two.add_pod(0));
    let to = |name, from: &View, to: &View, addresses: Vec<String>| -> Vec<Way> {
        addresses.iter().map(|address| way(name, from, to, address)).collect()
    };
    [
        to("pod to pod on one node", &one.pods[0], &one.pods[1], neighbour),
        to("pod to pod of the second node", &one.pods[0], &two.pods[0], far),
        to("pod to pod of the first node", &two.pods[0], &one.pods[0], first),
        to("pod to the second node", &one.pods[0], &two.namespace, internal_ips(2, DUAL)),
    ]
    .concat()
}

/// How long this machine takes to start an agent.
fn start_time(node: &AgentNode) -> Duration {
    node.stop_agent(Signal::SIGKILL);
    let began = Instant::now();
    node.start_agent();
    node.wait_until_ready();
    began.elapsed()
}

#[test]
fn agents_killed_at_every_moment_of_their_start_lose_no_packet_and_reset_no_stream() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let ways = ways(one, two);
        let took = start_time(one);
        let before = [one.kernel(), two.kernel()];
        let traffic = Traffic::start(&ways, Duration::from_millis(5)).unwrap();
        for kill in 0..WHILE_STARTING + WHEN_READY {
            for node in [one, two] {
                node.stop_agent(Signal::SIGKILL);
                node.start_agent();
            }
            if kill < WHILE_STARTING {
                std::thread::sleep(took * kill / WHILE_STARTING);
            } else {
                one.wait_until_ready();
                two.wait_until_ready();
            }
        }
        let report = traffic.stop();
        report.whole().unwrap();
        assert_eq!([one.kernel(), two.kernel()], before);
    });
}
