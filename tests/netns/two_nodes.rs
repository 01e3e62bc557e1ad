//! Two namespaces as two nodes, joined by their `weft0` over a veth: what the hosts send each other through the overlay.

use std::io::Read;
use std::process::Stdio;

use weft_agent::overlay::diff::diff;
use weft_agent::overlay::state::OverlayState;
use weft_tests::netns::{Namespace, veth};

use crate::kernel_session::{NodePlan, Session, add_internal_ips, gateway, pod_cidr};

/// Two nodes of a cluster with these families (4, 6), with everything applied.
fn nodes(underlay: &[u8], pods: &[u8]) -> [Namespace; 2] {
    let nodes = ["one", "two"].map(|name| Namespace::new(name).unwrap());
    veth((&nodes[0], "eth0"), (&nodes[1], "eth0")).unwrap();
    for (number, node) in (1..).zip(&nodes) {
        add_internal_ips(node, "eth0", number);
        let desired = NodePlan::of(number, underlay, pods).desired();
        Session::run(node, |session| session.converge(&desired));
    }
    nodes
}

fn ping(from: &Namespace, source: &str, destination: &str, bytes: &str) {
    let words = ["ping", "-c", "2", "-i", "0.2", "-W", "5", "-M", "do", "-s", bytes, "-I", source, destination];
    if let Err(error) = from.run(words) {
        let state = from.run(["sh", "-c", "ip -s link show weft0; nstat -az 2>/dev/null | grep -i error"]);
        panic!("{error:#}\n{}", state.unwrap_or_default());
    }
}

#[test]
fn gateways_reach_each_other_over_either_underlay() {
    for (underlay, pods) in [(&[4_u8][..], &[4_u8, 6][..]), (&[6], &[6, 4]), (&[6, 4], &[4, 6])] {
        let nodes = nodes(underlay, pods);
        for family in pods {
            let [own, peer] = [1, 2].map(|number| gateway(pod_cidr(number, *family)).to_string());
            // The MTU is 1430; 28 and 48 bytes are headers.
            let full = if *family == 4 { "1402" } else { "1382" };
            for bytes in ["56", full] {
                ping(&nodes[0], &own, &peer, bytes);
                ping(&nodes[1], &peer, &own, bytes);
            }
        }
    }
}

#[test]
fn an_unused_pod_address_of_the_own_node_is_unreachable_and_does_not_leave() {
    let nodes = nodes(&[4], &[4, 6]);
    nodes[0].run(["ip", "route", "add", "default", "via", "192.0.2.2"]).unwrap();
    for address in ["10.244.1.77", "fd00:10:244:1::77"] {
        let error = format!("{:#}", nodes[0].run(["ip", "route", "get", address]).unwrap_err());
        assert!(error.contains("No route to host"), "{error}");
    }
}

/// A new agent with new maps and programs takes over, and then everything is written again and again: no packet is lost.
#[test]
fn no_packet_is_lost_while_everything_is_replaced() {
    let nodes = nodes(&[4], &[4, 6]);
    let [own, peer] = [1, 2].map(|number| gateway(pod_cidr(number, 4)).to_string());
    let words = ["ping", "-q", "-i", "0.002", "-c", "1000", "-W", "5", "-I", &own, &peer];
    let mut pings = nodes[0].command(words).stdout(Stdio::piped()).spawn().unwrap();
    let desired = NodePlan::of(2, &[4], &[4, 6]).desired();
    let mut rounds = 0;
    Session::run(&nodes[1], |session| {
        let all = diff(&desired, &OverlayState::default());
        session.converge(&desired);
        while pings.try_wait().unwrap().is_none() {
            all.iter().for_each(|change| session.apply(change));
            rounds += 1;
        }
    });
    let mut report = String::new();
    pings.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert!(report.contains("1000 received") || report.contains(" 0% packet loss"), "{report}");
    assert!(rounds > 3, "{rounds} rounds are no test");
}
