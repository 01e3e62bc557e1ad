//! Nodes with two devices and two addresses on each: the way to the peer moves, devices come and go, under traffic.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use weft_tests::netns::{View, veth};
use weft_tests::traffic::Traffic;
use weft_tests::wait;

use crate::agent_cluster::{AgentCluster, AgentNode, DUAL, LIMIT};
use crate::fast_path::{both_directions, wait_for_way};

/// Time between two packets of a flow.
const PERIOD: Duration = Duration::from_millis(5);
/// So many more packets say that the traffic is there: a device sends some of its own when it comes up.
const ENOUGH: u64 = 30;
/// Most that may be lost of the time in which a device has gone and the route has not been followed yet, on a busy machine.
const BLIND: Duration = Duration::from_secs(2);

/// Connects a node to the second bridge by a device with these addresses.
pub(crate) fn connect(hub: &View, node: &AgentNode, device: &str, addresses: &[String]) {
    let port = format!("{device}-{}", node.name);
    veth((&node.namespace, device), (hub, &port)).unwrap();
    hub.run(["ip", "link", "set", &port, "master", "br1"]).unwrap();
    for address in addresses {
        node.namespace.add_address(device, address).unwrap();
    }
}

/// Two addresses of each family in a network, for the node of that number.
pub(crate) fn addresses(v4: &str, v6: &str, number: u8) -> [String; 4] {
    let second = 100 + number;
    [format!("{v4}{number}/24"), format!("{v4}{second}/24"), format!("{v6}{number}/64"), format!("{v6}{second}/64")]
}

/// Somebody else's qdisc and filter on a device, and what `tc` says of the filter.
fn put_foreign_filter(node: &AgentNode, device: &str) -> String {
    let script = format!(
        "tc qdisc add dev {device} clsact
         tc filter add dev {device} ingress prio 7 protocol ip u32 match ip dst 198.51.100.99/32 flowid 1:1"
    );
    node.namespace.run(["sh", "-ec", &script]).unwrap();
    foreign_filter(node, device)
}

fn foreign_filter(node: &AgentNode, device: &str) -> String {
    node.namespace.run(["tc", "filter", "show", "dev", device, "ingress", "pref", "7"]).unwrap()
}

/// Waits until our filter is on a device, or is not.
fn wait_for_our_filter(node: &AgentNode, device: &str, wanted: bool) {
    let there = wait::until(LIMIT, "our filter", || {
        let filters = node.namespace.run(["tc", "filter", "show", "dev", device, "ingress"])?;
        ensure!(filters.contains("from_underlay") == wanted, "{filters}");
        Ok(())
    });
    there.unwrap_or_else(|error| panic!("{device} of {}: {error:#}\n{}", node.name, node.log()));
}

/// Packets that a device of this thread's namespace has sent.
fn sent(device: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{device}:")));
    line.map_or(0, |line| line.split_whitespace().nth(9).unwrap().parse().unwrap())
}

/// Changes something of a node, and says how long it took until the traffic left by this device, and until `weft status` says so.
fn moves(node: &AgentNode, change: &str, device: &str) -> Duration {
    let took = node.namespace.enter(|| {
        let (before, began) = (sent(device), Instant::now());
        let done = Command::new("sh").args(["-ec", change]).status().unwrap();
        assert!(done.success(), "{change}");
        while sent(device) < before + ENOUGH {
            assert!(began.elapsed() < LIMIT, "{change}: nothing leaves by {device}\n{}", node.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        began.elapsed()
    });
    wait_for_way(node, Ok(device));
    let took = took.unwrap();
    println!("{}: {change}: packets leave by {device} after {took:?}", node.name);
    took
}

#[test]
fn the_way_follows_the_route_from_device_to_device_and_what_others_have_there_stays() {
    AgentCluster::run_without_agents(DUAL, 2, |cluster| {
        let [one, two] = cluster.nodes.as_slice() else { panic!("two nodes") };
        cluster.hub.run(["sh", "-ec", "ip link add br1 type bridge; ip link set br1 up"]).unwrap();
        let mut foreign = Vec::new();
        for (number, node) in (1..).zip([one, two]) {
            cluster.register(number);
            // The first of each family are the InternalIPs, and there.
            let [_, second, _, second_of_ipv6] = addresses("192.0.2.", "2001:db8::", number);
            for address in [second, second_of_ipv6] {
                node.namespace.add_address("eth0", &address).unwrap();
            }
            connect(&cluster.hub, node, "eth1", &addresses("198.51.100.", "2001:db8:1::", number));
            foreign.extend(["eth0", "eth1"].map(|device| (node, device, put_foreign_filter(node, device))));
            node.start_agent();
        }
        let mine_is_on = |devices: [(&AgentNode, &str, bool); 4]| {
            devices.into_iter().for_each(|(node, device, wanted)| wait_for_our_filter(node, device, wanted));
        };
        for node in [one, two] {
            node.wait_until_ready();
            wait_for_way(node, Ok("eth0"));
        }
        mine_is_on([(one, "eth0", true), (two, "eth0", true), (one, "eth1", false), (two, "eth1", false)]);
        let ways = both_directions(one, two);

        // With both devices alive nothing is lost, from the first device to the second, to one that comes, and back.
        let traffic = Traffic::start(&ways, PERIOD).unwrap();
        moves(one, "ip route replace 192.0.2.2/32 via 198.51.100.2", "eth1");
        moves(two, "ip route replace 192.0.2.1/32 via 198.51.100.1", "eth1");
        mine_is_on([(one, "eth0", true), (two, "eth0", true), (one, "eth1", true), (two, "eth1", true)]);
        for (number, node) in (1..).zip([one, two]) {
            connect(&cluster.hub, node, "eth2", &addresses("203.0.113.", "2001:db8:2::", number));
        }
        // The kernel takes a second until a new device sends; whoever moves a route waits for that.
        one.namespace.run(["ping", "-q", "-c", "10", "-i", "0.3", "-w", "30", "203.0.113.2"]).unwrap();
        moves(one, "ip route replace 192.0.2.2/32 via 203.0.113.2", "eth2");
        wait_for_our_filter(one, "eth2", true);
        moves(one, "ip route replace 192.0.2.2/32 via 198.51.100.102", "eth1");
        wait_for_our_filter(one, "eth2", false);
        one.namespace.run(["ip", "link", "del", "eth2"]).unwrap();
        moves(two, "ip route del 192.0.2.1/32", "eth0");
        mine_is_on([(one, "eth0", true), (two, "eth0", true), (one, "eth1", true), (two, "eth1", false)]);
        traffic.stop().whole().unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", one.log(), two.log()));
        for (node, device, before) in &foreign {
            assert_eq!(&foreign_filter(node, device), before, "{device} of {}", node.name);
        }

        // A device that goes takes along what it had; then the next route counts.
        let traffic = Traffic::start(&ways, PERIOD).unwrap();
        moves(one, "ip link set eth1 down", "eth0");
        wait_for_our_filter(one, "eth1", false);
        moves(one, "ip link set eth1 up; ip route replace 192.0.2.2/32 via 198.51.100.2", "eth1");
        moves(one, "ip link del eth1", "eth0");
        let report = traffic.stop();
        let lost = report.lost().unwrap_or_else(|error| panic!("{error:#}\n{}", one.log()));
        println!("{lost} packets of 8 flows were lost, {PERIOD:?} apart, while two devices went");
        // Twice, of each flow that sends or answers by the device.
        let most = 2 * BLIND.as_millis() / PERIOD.as_millis() * 8;
        assert!(u128::from(lost) < most, "{lost} packets were lost\n{}", one.log());
        assert_eq!(foreign_filter(one, "eth0"), foreign[0].2);
        for node in [one, two] {
            node.wait_until_ready();
        }
    });
}
