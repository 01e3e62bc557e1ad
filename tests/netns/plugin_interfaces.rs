//! Several interfaces of one pod: each answers for its own addresses, and goes without a trace.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::command::{command, output};
use weft_tests::netns::{Namespace, View};
use weft_tests::wait;

use crate::plugin_node::{PluginNode, ip_in, of_pod, pod};

const LIMIT: Duration = Duration::from_secs(10);
/// Any port.
const PORT: u16 = 7000;

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

/// ADD of an interface of a network of its name.
fn add(node: &PluginNode, pod: &Namespace, ifname: &str) -> Value {
    node.add_as("abc", ifname, pod, &node.configuration("1.1.0", &[("name", json!(ifname))])).success()
}

fn del(node: &PluginNode, ifname: &str, netns: &str) {
    let configuration = node.configuration("1.1.0", &[("name", json!(ifname))]);
    node.call(&of_pod("DEL", "abc", ifname, netns), &configuration).success();
}

fn check(node: &PluginNode, pod: &Namespace, ifname: &str, result: &Value) -> crate::plugin_node::Answer {
    let configuration = node.configuration("1.1.0", &[("name", json!(ifname)), ("prevResult", result.clone())]);
    node.call(&of_pod("CHECK", "abc", ifname, pod.path().to_str().unwrap()), &configuration)
}

/// The rules of a pod, of both families, and its routes in all tables.
fn rules_and_routes(pod: &Namespace) -> [Value; 4] {
    [["-4", "rule"], ["-6", "rule"], ["-4", "route"], ["-6", "route"]].map(|[family, what]| {
        let words: &[&str] = if what == "rule" { &[family, what] } else { &[family, what, "show", "table", "all"] };
        ip_in(pod, words)
    })
}

/// Asks an echo over TCP, from wherever the thread is.
fn ask(address: IpAddr) {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), LIMIT)
        .unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"weft").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap_or_else(|error| panic!("answer of {address}: {error}"));
    assert_eq!(&answer, b"weft");
}

/// Serves `calls` connections in a namespace, or fewer when the next one does not come.
fn echo<'scope>(scope: &'scope thread::Scope<'scope, '_>, inside: &View, calls: usize) {
    let listener = inside.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    scope.spawn(move || {
        for _ in 0..calls {
            let Ok((mut stream, _)) = wait::until(2 * LIMIT, "a connection", || Ok(listener.accept()?)) else { return };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
        }
    });
}

#[test]
fn every_address_of_a_pod_answers_other_pods_and_the_node() {
    PluginNode::run_with_overlay(&[4, 6], |node| {
        let (server, client) = (pod("server"), pod("client"));
        node.add("client", &client).success();
        let all: Vec<_> =
            ["eth0", "net1", "net2"].iter().flat_map(|name| addresses(&add(node, &server, name))).collect();
        assert_eq!(all.len(), 6);
        thread::scope(|scope| {
            echo(scope, &server, 2 * all.len());
            for address in &all {
                let ping = ["ping", "-c", "1", "-W", "5", &address.to_string()].map(str::to_owned);
                client.run(&ping).unwrap();
                output(&mut command(&ping)).unwrap();
                client.enter(|| ask(*address)).unwrap();
                ask(*address);
            }
        });
        // What the pod itself begins leaves by the first interface, and by the next one when that is gone.
        let gateway = if all[0].is_ipv4() { "10.244.1.1" } else { "fd00:10:244:1::1" };
        server.run(["ping", "-c", "1", "-W", "5", gateway]).unwrap();
        del(node, "eth0", "");
        server.run(["ping", "-c", "1", "-W", "5", gateway]).unwrap();
    });
}

#[test]
fn interfaces_go_in_any_order_and_leave_no_rule_nor_route() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        let netns = pod.path();
        let before = rules_and_routes(&pod);
        let names = ["eth0", "net1", "net2"];
        for (order, netns) in
            [([0, 1, 2], netns.to_str().unwrap()), ([2, 1, 0], ""), ([1, 0, 2], "/run/netns/weft-gone")]
        {
            let results = names.map(|name| add(node, &pod, name));
            assert_ne!(rules_and_routes(&pod), before);
            for (place, number) in order.into_iter().enumerate() {
                del(node, names[number], netns);
                for left in &order[place + 1..] {
                    check(node, &pod, names[*left], &results[*left]).success();
                }
            }
            assert_eq!(rules_and_routes(&pod), before, "{order:?}");
        }
        // GC takes the same way.
        for name in names {
            add(node, &pod, name);
        }
        for name in names {
            node.gc(name, &[]).success();
        }
        assert_eq!(rules_and_routes(&pod), before);
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn an_add_replaces_rules_that_were_left_for_its_addresses() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        add(node, &pod, "eth0");
        // Of calls that were killed before anything said where they were; and one of somebody else, which stays.
        for (number, (address, protocol, table)) in [
            ("10.244.1.3", "119", "4000"),
            ("10.244.1.3", "119", "4001"),
            ("fd00:10:244:1::3", "119", "4000"),
            ("10.244.1.3", "4", "77"),
        ]
        .into_iter()
        .enumerate()
        {
            let (family, priority) = (if address.contains(':') { "-6" } else { "-4" }, (10_000 + number).to_string());
            let rule = ["from", address, "table", table, "protocol", protocol, "priority", &priority];
            pod.run(["ip", family, "rule", "add"].iter().chain(&rule)).unwrap();
        }
        let result = add(node, &pod, "net1");
        check(node, &pod, "net1", &result).success();
        for (rules, ours) in rules_and_routes(&pod)[..2].iter().zip(["10.244.1.3", "fd00:10:244:1::3"]) {
            let of_it =
                rules.as_array().unwrap().iter().filter(|rule| rule["src"] == ours && rule["protocol"] == "119");
            assert_eq!(of_it.count(), 1, "{rules}");
        }
        del(node, "net1", "");
        let left = rules_and_routes(&pod)[0].to_string();
        assert!(left.contains("77") && !left.contains("\"119\""), "{left}");
    });
}

#[test]
fn an_add_that_was_killed_behind_its_rules_is_taken_back_with_them() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        add(node, &pod, "eth0");
        let before = rules_and_routes(&pod);
        add(node, &pod, "net1");
        // What it leaves on the disk when it does not come to its end.
        let record = |ending: &str| node.file(&format!("attachments/abc@net1.{ending}"));
        std::fs::rename(record("json"), record("new")).unwrap();
        node.gc("net1", &[]).success();
        assert_eq!(rules_and_routes(&pod), before);
        assert_eq!(node.names("attachments"), ["abc@eth0.json"]);
    });
}

#[test]
fn check_sees_a_missing_rule_and_a_missing_route_of_a_later_interface() {
    PluginNode::run(&[4, 6], |node| {
        for (damage, words) in [
            (&["ip", "rule", "del", "from", "10.244.1.3"][..], "no rule from 10.244.1.3 to the table"),
            (&["ip", "-6", "rule", "del", "from", "fd00:10:244:1::3"], "no rule from fd00:10:244:1::3 to the table"),
            (&["ip", "route", "flush", "table", "TABLE"], "has no default route via 10.244.1.1"),
            (&["ip", "-6", "route", "flush", "table", "TABLE"], "has no default route via fd00:10:244:1::1"),
        ] {
            let pod = pod("pod");
            add(node, &pod, "eth0");
            let result = add(node, &pod, "net1");
            check(node, &pod, "net1", &result).success();
            let rules = ip_in(&pod, &["-4", "rule"]);
            let rule = rules.as_array().unwrap().iter().find(|rule| rule["src"] == "10.244.1.3").unwrap();
            let table = rule["table"].as_str().unwrap();
            pod.run(damage.iter().map(|word| if *word == "TABLE" { table } else { word })).unwrap();
            let details = check(node, &pod, "net1", &result).failure(105);
            assert!(details.contains(words), "after {damage:?}: {words:?} in {details:?}");
            for name in ["eth0", "net1"] {
                del(node, name, "");
            }
            // So that the next round has the same addresses.
            for resting in node.names("resting") {
                std::fs::remove_file(node.file("resting").join(resting)).unwrap();
            }
        }
    });
}
