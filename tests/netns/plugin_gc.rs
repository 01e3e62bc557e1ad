//! GC removes what the runtime does not know, and nothing else.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::wait;

use crate::plugin_node::{Answer, PluginNode, pod};

#[test]
fn gc_removes_what_the_runtime_does_not_know_of_its_own_network() {
    PluginNode::run(&[4, 6], |node| {
        let pods = ["kept", "unknown", "other"].map(pod);
        let kept = node.add("kept", &pods[0]).success();
        node.add("unknown", &pods[1]).success();
        node.add_as("other", "net1", &pods[2], &node.configuration("1.1.0", &[("name", json!("second"))])).success();
        node.gc("weft", &[("kept", "eth0"), ("never-seen", "eth0")]).success();
        assert_eq!(node.names("attachments"), ["kept@eth0.json", "other@net1.json"]);
        assert_eq!(node.names("addresses").len(), 4);
        node.check("kept", &pods[0], &kept).success();
        // The same container with another interface is another attachment.
        node.gc("weft", &[("kept", "net1")]).success();
        node.gc("second", &[]).success();
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn gc_frees_addresses_that_nobody_stands_for() {
    PluginNode::run(&[4], |node| {
        let pod = pod("pod");
        let result = node.add("abc", &pod).success();
        for (address, content) in [("10.244.1.50", "gone eth0\n"), ("10.244.1.51", "")] {
            std::fs::write(node.file("addresses").join(address), content).unwrap();
        }
        // Damaged, but a record stands for it.
        std::fs::write(node.file("addresses/10.244.1.2"), "").unwrap();
        node.gc("weft", &[("abc", "eth0")]).success();
        assert_eq!(node.names("addresses"), ["10.244.1.2"]);
        assert!(node.check("abc", &pod, &result).failure(105).contains("10.244.1.2 is not allocated to it"));
    });
}

/// GC with what a runtime may write beside the list, or in its place.
fn gc_with(node: &PluginNode, extra: &[(&str, Value)]) -> Answer {
    node.call(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")], &node.configuration("1.1.0", extra))
}

#[test]
fn gc_without_a_list_removes_only_what_is_dead() {
    PluginNode::run(&[4, 6], |node| {
        let (living, dead) = (pod("living"), pod("dead"));
        let result = node.add("living", &living).success();
        let device = node.add("dead", &dead).success()["interfaces"][0]["name"].as_str().unwrap().to_owned();
        drop(dead);
        // The kernel removes what was in a namespace some time after its last name is gone.
        let is_gone = || !Path::new("/proc/sys/net/ipv4/conf").join(&device).exists();
        wait::until_true(Duration::from_secs(10), "the end of the dead pod's link", is_gone).unwrap();
        gc_with(node, &[]).success();
        assert_eq!(node.names("attachments"), ["living@eth0.json"]);
        node.check("living", &living, &result).success();
        // The list has an older name, which libcni writes too. The newer one counts.
        let list = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
        gc_with(node, &[("cni.dev/attachments", list("living"))]).success();
        gc_with(node, &[("cni.dev/attachments", list("other")), ("cni.dev/valid-attachments", list("living"))])
            .success();
        node.check("living", &living, &result).success();
        // This is how Go writes an empty list.
        gc_with(node, &[("cni.dev/valid-attachments", Value::Null)]).success();
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn gc_with_only_strangers_removes_all_of_its_network_and_one_that_is_no_list_changes_nothing() {
    PluginNode::run(&[4], |node| {
        let pods = ["one", "two"].map(pod);
        let results = pods.each_ref().map(|pod| node.add(pod.name(), pod).success());
        let other = node.configuration("1.1.0", &[("name", json!("second"))]);
        node.add_as("one", "net1", &pods[0], &other).success();
        for wrong in [json!("all"), json!({}), json!(["one"]), json!([{"containerID": "one"}]), json!([{"ifname": 1}])]
        {
            assert!(gc_with(node, &[("cni.dev/valid-attachments", wrong)]).failure(6).contains("/etc/cni/net.d"));
        }
        for (pod, result) in pods.iter().zip(&results) {
            node.check(pod.name(), pod, result).success();
        }
        let strangers: Vec<_> = (0..5000).map(|number| format!("stranger-{number}")).collect();
        let strangers: Vec<_> = strangers.iter().map(|id| (id.as_str(), "eth0")).collect();
        for _ in 0..2 {
            node.gc("weft", &strangers).success();
            assert_eq!(node.names("attachments"), ["one@net1.json"]);
        }
        node.gc("second", &[]).success();
        assert_eq!(node.leftovers(), [""; 0]);
    });
}
