//! Ranges that are used up and freed again, that change while pods live, and addresses in the state directory that are of no
//! range of this node.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use weft_tests::netns::Namespace;

use crate::plugin_node::{PluginNode, of_pod, pod};

/// The addresses of an answer, without their prefixes.
fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

/// ADD in this process.
fn add(node: &PluginNode, id: &str, pod: &Namespace) -> Vec<String> {
    let netns = pod.path();
    let variables = of_pod("ADD", id, "eth0", netns.to_str().unwrap());
    addresses(&node.call_here(&variables, &node.configuration("1.1.0", &[])).success())
}

#[test]
fn a_slash_28_and_a_slash_124_are_used_up_and_freed_and_used_again() {
    PluginNode::run(&[4, 6], |node| {
        let cidrs = json!(["10.244.1.0/28", "fd00:10:244:1::/124"]);
        node.write_facts(&[("podCIDRs", cidrs)]);
        // An IPv4 range of this size has one address less for pods, because of its broadcast address.
        let pods: Vec<_> = (0..13).map(|number| pod(&number.to_string())).collect();
        let too_many = pod("many");
        let mut used = Vec::new();
        for round in 0..2 {
            let taken: Vec<_> = pods.iter().map(|pod| add(node, pod.name(), pod)).collect();
            let distinct: BTreeSet<_> = taken.iter().flatten().cloned().collect();
            assert_eq!(distinct.len(), 26, "round {round}: {taken:?}");
            let before = node.leftovers();
            let details = node.add("many", &too_many).failure(100);
            for words in
                ["all 13 addresses of the podCIDR 10.244.1.0/28", "addresses has a file for each", "Delete pods"]
            {
                assert!(details.contains(words), "{details}");
            }
            assert_eq!(node.leftovers(), before, "the ADD without an address left nothing");
            // In the middle of a full range, the address that is freed is the one that is given away.
            node.del(pods[7].name(), "").success();
            assert_eq!(add(node, pods[7].name(), &pods[7])[0], taken[7][0]);
            // Nobody lost anything by it.
            for (id, addresses) in pods.iter().map(|pod| pod.name()).zip(&taken).filter(|(id, _)| *id != pods[7].name())
            {
                let owner = fs::read_to_string(node.file(&format!("addresses/{}", addresses[0]))).unwrap();
                assert_eq!(owner, format!("{id} eth0\n"));
            }
            for pod in &pods {
                node.del(pod.name(), "").success();
            }
            assert_eq!(node.leftovers(), [""; 0]);
            used.push(distinct.into_iter().filter(|address| address.starts_with("10.")).collect::<Vec<_>>());
        }
        assert_eq!(used[0], used[1]);
    });
}

#[test]
fn pods_keep_their_addresses_when_the_podcidrs_change_and_new_ones_get_new_ones() {
    PluginNode::run(&[4, 6], |node| {
        let pods = ["old", "new", "single"].map(pod);
        let old = node.add("old", &pods[0]).success();
        node.write_facts(&[
            ("podCIDRs", json!(["10.99.0.0/24", "fd00:99::/64"])),
            ("gateways", json!(["10.99.0.1", "fd00:99::1"])),
        ]);
        let new = node.add("new", &pods[1]).success();
        assert_eq!(addresses(&new), ["10.99.0.2", "fd00:99::2"]);
        // One family less, and another MTU: what is there stays what it is.
        node.write_facts(&[
            ("podCIDRs", json!(["10.98.0.0/24"])),
            ("gateways", json!(["10.98.0.1"])),
            ("mtu", json!(1300)),
        ]);
        let single = node.add("single", &pods[2]).success();
        assert_eq!(addresses(&single), ["10.98.0.2"]);
        let results = [("old", &old), ("new", &new), ("single", &single)];
        for ((id, result), pod) in results.iter().zip(&pods) {
            node.check(id, pod, result).success();
            assert_eq!(node.add(id, pod).success(), **result, "the same ADD again gets the same answer");
        }
        node.gc("weft", &results.map(|(id, _)| (id, "eth0"))).success();
        for ((id, result), pod) in results.iter().zip(&pods) {
            node.check(id, pod, result).success();
            node.del(id, pod.path().to_str().unwrap()).success();
        }
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn addresses_of_other_ranges_in_the_state_directory_do_no_harm() {
    PluginNode::run(&[4, 6], |node| {
        let pods = ["one", "two"].map(pod);
        let one = node.add("one", &pods[0]).success();
        for address in ["192.0.2.7", "2001:db8::7", "10.244.1.1", "10.244.1.255", "10.244.1.0"] {
            fs::write(node.file(&format!("addresses/{address}")), "stranger eth0\n").unwrap();
            fs::write(node.file(&format!("resting/{:020}-{address}", 0)), "").unwrap();
        }
        let two = node.add("two", &pods[1]).success();
        assert_eq!(addresses(&two), ["10.244.1.3", "fd00:10:244:1::3"]);
        for (id, pod, result) in [("one", &pods[0], &one), ("two", &pods[1], &two)] {
            node.check(id, pod, result).success();
        }
        // Nobody stands for them: GC takes them back.
        node.gc("weft", &[("one", "eth0"), ("two", "eth0")]).success();
        assert_eq!(node.names("addresses").len(), 4);
        for id in ["one", "two"] {
            node.del(id, "").success();
        }
        assert_eq!(node.leftovers(), [""; 0]);
    });
}
