//! What changes of a node while it works: its addresses, and the MTU of its network.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::netns::Namespace;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};

const SOON: Duration = Duration::from_secs(10);

fn soon(node: &AgentNode, what: &str, probe: impl FnMut() -> Result<()>) {
    wait::until(SOON, what, probe).unwrap_or_else(|error| panic!("{error:#}\n{}", node.log()));
}

fn ping(from: &Namespace, address: &str) {
    from.run(["ping", "-q", "-i", "0.05", "-c", "3", "-W", "5", address]).unwrap();
}

#[test]
fn a_node_whose_addresses_change_is_reached_at_the_new_ones_and_its_pods_go_on() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        let (mine, theirs) = (one.add_pod(0), two.add_pod(0));
        let talk = || {
            theirs.iter().for_each(|address| ping(&one.pods[0], address));
            mine.iter().for_each(|address| ping(&two.pods[0], address));
        };
        talk();
        // Else the kernel removes the second address of a network together with the first.
        one.namespace.set_sysctl("ipv4/conf/eth0/promote_secondaries", "1").unwrap();
        // As when a kubelet is started with another --node-ip.
        for address in ["192.0.2.101/24", "2001:db8::101/64"] {
            one.namespace.add_address("eth0", address).unwrap();
        }
        let addresses =
            ["192.0.2.101", "2001:db8::101"].map(|address| json!({"type": "InternalIP", "address": address}));
        cluster.api.patch_node("node-1", &json!({"addresses": addresses}));
        for (node, word) in [(one, "src 192.0.2.101"), (two, "dst 192.0.2.101")] {
            soon(node, "the routes to have the new address", || {
                let routes =
                    ["-4", "-6"].map(|family| node.namespace.run(["ip", family, "route", "show", "proto", "119"]));
                for routes in routes {
                    let routes = routes?;
                    ensure!(routes.contains(word) && !routes.contains("192.0.2.1 "), "{routes}");
                }
                Ok(())
            });
        }
        talk();
        one.namespace.run(["ip", "address", "del", "192.0.2.1/24", "dev", "eth0"]).unwrap();
        one.namespace.run(["ip", "address", "del", "2001:db8::1/64", "dev", "eth0"]).unwrap();
        talk();
        for node in [one, two] {
            node.wait_until_ready();
        }
        // The agent's own connection came from an address that is gone: it finds another one.
        cluster.register(3);
        wait::until(LIMIT, "node 1 to hear of another node", || {
            let routes = one.routes();
            ensure!(routes.contains(&"10.244.3.0/24".to_owned()), "{routes:?}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", one.log()));
    });
}

/// Both ends of a TCP connection between Pods.
pub(crate) fn connect(from: &Namespace, to: &Namespace, address: &str) -> (TcpStream, TcpStream) {
    let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let listener = to.enter(|| TcpListener::bind(any).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = from.enter(|| TcpStream::connect((address, port)).unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    for end in [&client, &server] {
        end.set_read_timeout(Some(LIMIT)).unwrap();
        end.set_write_timeout(Some(LIMIT)).unwrap();
    }
    (client, server)
}

/// Sends so many bytes through and sees them arrive.
pub(crate) fn stream((mut from, mut to): (&TcpStream, &TcpStream), bytes: usize) {
    thread::scope(|scope| {
        scope.spawn(move || from.write_all(&vec![7; bytes]).unwrap());
        let mut received = vec![0; bytes];
        to.read_exact(&mut received).unwrap();
        assert!(received.iter().all(|byte| *byte == 7));
    });
}

#[test]
fn an_underlay_whose_mtu_changes_is_followed_and_pods_with_the_old_one_go_on() {
    AgentCluster::run(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        one.add_pod(0);
        let theirs = two.add_pod(0);
        let connections: Vec<_> = theirs.iter().map(|address| connect(&one.pods[0], &two.pods[0], address)).collect();
        let both_ways = |bytes| {
            for (client, server) in &connections {
                stream((client, server), bytes);
                stream((server, client), bytes);
            }
        };
        both_ways(1 << 20);
        let set = |mtu: &str| {
            for node in [one, two] {
                node.namespace.run(["ip", "link", "set", "eth0", "mtu", mtu]).unwrap();
            }
        };
        let followed = |mtu: u32| {
            for node in [one, two] {
                soon(node, "weft0 and node.json to follow", || {
                    let device = node.namespace.run(["ip", "link", "show", "weft0"])?;
                    ensure!(device.contains(&format!("mtu {mtu} ")), "{device}");
                    let facts: serde_json::Value =
                        serde_json::from_slice(&std::fs::read(node.folder.join("run/node.json"))?)?;
                    ensure!(facts["mtu"] == mtu, "{facts}");
                    Ok(())
                });
            }
            one.add_pod(1);
            let device = one.pods[1].run(["ip", "link", "show", "eth0"]).unwrap();
            assert!(device.contains(&format!("mtu {mtu} ")), "{device}");
            theirs.iter().for_each(|address| ping(&one.pods[1], address));
            assert_eq!(one.plugin("DEL", 1).code, Some(0));
        };
        set("1400");
        followed(1350);
        both_ways(1 << 20);
        // Packets that are longer than the new MTU are answered with it where they must not be divided, and arrive where they may.
        for address in &theirs {
            let header = if address.contains(':') { 48 } else { 28 };
            let length = (1450 - header).to_string();
            let ping = |divide| {
                let words = ["ping", "-M", divide, "-s", &length, "-i", "0.05", "-c", "3", "-W", "5", address];
                one.pods[0].run(words)
            };
            let told = format!("{:#}", ping("do").unwrap_err());
            assert!(told.contains("1350"), "{told}");
            ping("dont").unwrap();
        }
        set("1500");
        followed(1450);
        both_ways(1 << 16);
        for (client, _) in &connections {
            client.shutdown(Shutdown::Both).unwrap();
        }
    });
}
