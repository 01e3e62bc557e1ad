//! What the plugin does when something is missing, taken, damaged or in the way: a named error with the next step, and nothing
//! changed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use weft_tests::netns::Namespace;
use weft_tests::{command, wait};

use crate::plugin_node::{PINS, PluginNode, ip, ip_in, of_pod, pod};

/// ADD fails with this code and these words, and leaves nothing: no device, address, file nor map entry.
fn assert_add_changes_nothing(node: &PluginNode, pod: &Namespace, code: u64, words: &[&str]) {
    // The kernel tells a moment later that the devices of pods from before have their carrier.
    let settled = || !ip(&["link"]).to_string().contains("NO-CARRIER");
    wait::until_true(Duration::from_secs(20), "the carrier of all devices", settled).unwrap();
    let before = (ip(&["link"]), ip_in(pod, &["link"]), node.leftovers());
    let details = node.add("failing", pod).failure(code);
    for word in words {
        assert!(details.contains(word), "{word:?} in {details:?}");
    }
    assert_eq!((ip(&["link"]), ip_in(pod, &["link"]), node.leftovers()), before, "{details}");
}

/// Runs a command of the test's own on the node.
fn run(words: &[&str]) {
    assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{words:?}");
}

#[test]
fn without_the_agents_word_on_the_node_add_says_try_again_and_status_not_available() {
    PluginNode::run(&[4], |node| {
        let pod = pod("pod");
        let status = || node.call(&[("CNI_COMMAND", "STATUS")], &node.configuration("1.1.0", &[]));
        status().success();
        let next_step = "kubectl -n kube-system get pods -l app=weft-agent";
        for (changes, word) in [
            ([("bootId", json!("another-boot"))], "earlier boot"),
            ([("layout", json!(99))], "layout 99"),
            ([("podCIDRs", json!([]))], "no podCIDR"),
            ([("podCIDRs", json!("10.244.1.0/24"))], "damaged"),
        ] {
            node.write_facts(&changes);
            assert_add_changes_nothing(node, &pod, 11, &[word, next_step]);
            assert!(status().failure(50).contains(word));
        }
        fs::remove_file(node.file("node.json")).unwrap();
        assert_add_changes_nothing(node, &pod, 11, &["does not exist", next_step]);
        assert!(status().failure(50).contains("does not exist"));
        node.write_facts(&[]);
        status().success();
    });
}

#[test]
fn status_does_not_mind_a_full_range_nor_missing_programs() {
    PluginNode::run(&[4], |node| {
        node.write_facts(&[("podCIDRs", json!(["10.244.1.0/30"]))]);
        node.add("abc", &pod("pod")).success();
        fs::remove_file(format!("{PINS}/from_pod")).unwrap();
        node.call(&[("CNI_COMMAND", "STATUS")], &node.configuration("1.1.0", &[])).success();
    });
}

#[test]
fn a_missing_program_or_map_is_named() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        for name in ["from_pod", "to_pod", "ENDPOINTS"] {
            let (pin, aside) = (format!("{PINS}/{name}"), format!("{PINS}/aside"));
            fs::rename(&pin, &aside).unwrap();
            assert_add_changes_nothing(node, &pod, 11, &[&pin, "kubectl -n kube-system get pods"]);
            fs::rename(&aside, &pin).unwrap();
        }
        // A map of another layout under the right name.
        let (pin, aside) = (format!("{PINS}/ENDPOINTS"), format!("{PINS}/aside"));
        fs::rename(&pin, &aside).unwrap();
        fs::rename(format!("{PINS}/CONFIG"), &pin).unwrap();
        assert_add_changes_nothing(node, &pod, 102, &[&pin, "not of this layout"]);
    });
}

#[test]
fn without_a_bpf_file_system_add_says_how_to_mount_it_and_pods_that_are_there_can_go() {
    PluginNode::run(&[4, 6], |node| {
        let (pod, gone) = (pod("pod"), pod("gone"));
        let result = node.add("gone", &gone).success();
        let covered = "/sys/fs/bpf";
        mount(Some("weft"), covered, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let words = [PINS, "no BPF file system", "mount -t bpf bpf /sys/fs/bpf", "kubectl -n kube-system get pods"];
        assert_add_changes_nothing(node, &pod, 11, &words);
        let details = node.check("gone", &gone, &result).failure(11);
        assert!(details.contains("no BPF file system"), "{details}");
        node.call(&[("CNI_COMMAND", "STATUS")], &node.configuration("1.1.0", &[])).success();
        assert_eq!(node.add("gone", &gone).success(), result);
        node.gc("weft", &[("gone", "eth0")]).success();
        node.del("gone", gone.path().to_str().unwrap()).success();
        assert_eq!(node.leftovers(), [""; 0]);
        umount2(covered, MntFlags::MNT_DETACH).unwrap();
        // Whoever gets the addresses next has the entries replaced.
        node.write_facts(&[("podCIDRs", json!(["10.244.1.0/30", "fd00:10:244:1::/126"]))]);
        let result = node.add("abc", &pod).success();
        assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
        node.check("abc", &pod, &result).success();
    });
}

#[test]
fn a_program_that_the_kernel_does_not_take_undoes_all_steps_before() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        // The pin of a map where a program should be: it opens, and the kernel refuses it as a filter.
        fs::rename(format!("{PINS}/CONFIG"), format!("{PINS}/to_pod")).unwrap();
        assert_add_changes_nothing(node, &pod, 101, &["put the program to_pod on the egress of weft"]);
    });
}

#[test]
fn a_route_that_is_taken_undoes_all_steps_before() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        run(&["ip", "link", "set", "lo", "up"]);
        run(&["ip", "route", "add", "10.244.1.2/32", "dev", "lo"]);
        assert_add_changes_nothing(node, &pod, 101, &["route to 10.244.1.2", "File exists"]);
        run(&["ip", "route", "del", "10.244.1.2/32", "dev", "lo"]);
        // The address that failed rests, so others come first.
        let result = node.add("next", &pod).success();
        assert_eq!(result["ips"][0]["address"], "10.244.1.3/32");
    });
}

#[test]
fn a_full_map_undoes_all_steps_before() {
    PluginNode::run(&[4], |node| {
        fs::rename(format!("{PINS}/ENDPOINTS"), format!("{PINS}/aside")).unwrap();
        let pin = format!("{PINS}/ENDPOINTS");
        run(&[
            "bpftool", "map", "create", &pin, "type", "hash", "key", "16", "value", "16", "entries", "1", "name",
            "small",
        ]);
        let pods = ["one", "two"].map(pod);
        node.add("abc", &pods[0]).success();
        assert_add_changes_nothing(node, &pods[1], 102, &["10.244.1.3", "Delete pods of this node"]);
    });
}

#[test]
fn a_full_range_is_named_and_free_again_after_del() {
    PluginNode::run(&[4, 6], |node| {
        // The IPv6 range is used up first, so an IPv4 address was taken when the ADD fails.
        node.write_facts(&[("podCIDRs", json!(["10.244.1.0/24", "fd00:10:244:1::/126"]))]);
        let pods = ["one", "two"].map(pod);
        for (id, pod) in ["one", "two"].iter().zip(&pods) {
            node.add(id, pod).success();
        }
        let third = pod("three");
        assert_add_changes_nothing(
            node,
            &third,
            100,
            &["all 2 addresses of the podCIDR fd00:10:244:1::/126", "Delete pods"],
        );
        node.del("one", "").success();
        node.add("three", &third).success();
    });
}

#[test]
fn an_interface_that_exists_in_the_pod_is_named_and_left_alone() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        pod.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"]).unwrap();
        assert_add_changes_nothing(node, &pod, 104, &["eth0", pod.path().to_str().unwrap(), "Remove it"]);
    });
}

#[test]
fn a_device_that_exists_on_the_host_is_named_and_left_alone() {
    PluginNode::run(&[4], |node| {
        let pod = pod("pod");
        let result = node.add("failing", &pod).success();
        let device = result["interfaces"][0]["name"].as_str().unwrap();
        node.del("failing", "").success();
        run(&["ip", "link", "add", device, "type", "veth", "peer", "name", "other"]);
        assert_add_changes_nothing(node, &pod, 101, &[device, "ip -d link show"]);
        // It is not in our link group: DEL says so and leaves it too.
        let details = node.del("failing", "").failure(101);
        assert!(details.contains(device) && details.contains("link group"), "{details}");
        assert_eq!(ip(&["link", "show", device]).as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_pod_with_ipv6_switched_off_gets_its_ipv6_address() {
    PluginNode::run(&[4, 6], |node| {
        for scope in ["default", "all"] {
            let pod = pod("pod");
            pod.set_sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
            let result = node.add(scope, &pod).success();
            node.check(scope, &pod, &result).success();
            let shown = ip_in(&pod, &["-6", "address", "show", "dev", "eth0"]);
            assert_eq!(shown[0]["addr_info"].as_array().unwrap().len(), 1, "{shown}");
        }
    });
}

#[test]
fn del_succeeds_for_whatever_is_gone_already() {
    PluginNode::run(&[4, 6], |node| {
        node.del("unknown", "").success();
        node.del("unknown", "/run/netns/gone").success();
        for (number, netns) in ["", "/run/netns/gone", "/proc/1/ns/net", "/etc/hostname"].iter().enumerate() {
            let id = format!("id-{number}");
            node.add(&id, &pod("pod")).success();
            node.del(&id, netns).success();
            node.del(&id, netns).success();
            assert_eq!(node.leftovers(), [""; 0], "{netns}");
        }
    });
}

#[test]
fn del_frees_by_the_container_and_never_by_what_prev_result_says() {
    PluginNode::run(&[4], |node| {
        let pods = ["one", "two"].map(pod);
        let [_, second] = [0, 1].map(|number: usize| node.add(pods[number].name(), &pods[number]).success());
        let configuration = node.configuration("1.0.0", &[("prevResult", second.clone())]);
        node.call(&of_pod("DEL", pods[0].name(), "eth0", ""), &configuration).success();
        node.check(pods[1].name(), &pods[1], &second).success();
        assert_eq!(node.names("addresses"), ["10.244.1.3"]);
    });
}

#[test]
fn del_needs_neither_the_agents_word_nor_its_maps() {
    PluginNode::run(&[4, 6], |node| {
        node.add("abc", &pod("pod")).success();
        fs::remove_file(node.file("node.json")).unwrap();
        let pin = format!("{PINS}/ENDPOINTS");
        fs::rename(&pin, format!("{PINS}/aside")).unwrap();
        node.del("abc", "").success();
        assert_eq!(node.names("addresses"), [""; 0]);
        fs::rename(format!("{PINS}/aside"), pin).unwrap();
    });
}

#[test]
fn a_damaged_record_is_named_and_del_frees_what_it_stood_for() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        let result = node.add("abc", &pod).success();
        let record = node.file("attachments/abc@eth0.json");
        let text = fs::read_to_string(&record).unwrap();
        for damaged in ["", "{}", &text[..text.len() / 2], "\u{0}\u{0}"] {
            fs::write(&record, damaged).unwrap();
            for answer in [node.add("abc", &pod), node.check("abc", &pod, &result), node.gc("weft", &[])] {
                let details = answer.failure(103);
                assert!(details.contains("abc@eth0.json") && details.contains("delete the pod"), "{details}");
            }
            assert_eq!(node.names("addresses").len(), 2, "nothing is lost");
        }
        // Others are not disturbed.
        let other = Namespace::new("other").unwrap();
        node.add("other", &other).success();
        node.del("other", "").success();
        node.del("abc", "").success();
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn an_add_that_was_killed_is_undone_by_the_next_call() {
    PluginNode::run(&[4, 6], |node| {
        let dead = pod("dead");
        for undo in ["ADD", "DEL", "GC", "the same ADD"] {
            node.add("dead", &dead).success();
            // As if it had been killed before the last step: the mark instead of the record.
            let record = node.file("attachments/dead@eth0.json");
            fs::rename(&record, node.file("attachments/dead@eth0.new")).unwrap();
            fs::write(node.file("addresses/.new"), "dead").unwrap();
            match undo {
                "ADD" => {
                    node.add("next", &pod("next")).success();
                    node.del("next", "").success();
                }
                "DEL" => drop(node.del("dead", "").success()),
                "GC" => drop(node.gc("other", &[]).success()),
                _ => {
                    let result = node.add("dead", &dead).success();
                    node.check("dead", &dead, &result).success();
                    node.del("dead", "").success();
                }
            }
            assert_eq!(node.leftovers(), [""; 0], "{undo}");
        }
    });
}

#[test]
fn pods_that_went_away_without_del_are_reclaimed_by_the_next_add() {
    PluginNode::run(&[4, 6], |node| {
        node.write_facts(&[("podCIDRs", json!(["10.244.1.0/30", "fd00:10:244:1::/64"]))]);
        for number in 0..3 {
            let id = format!("id-{number}");
            let pod = pod("pod");
            // The kernel removes a namespace's links some time after its last user has gone.
            wait::until_true(Duration::from_secs(20), "the address to be free", || node.add(&id, &pod).code == Some(0))
                .unwrap();
            assert_eq!(node.names("attachments"), [format!("{id}@eth0.json")]);
        }
    });
}

#[test]
fn an_add_for_a_new_pod_with_a_known_id_replaces_what_is_left_of_the_old_one() {
    PluginNode::run(&[4], |node| {
        let pod = pod("pod");
        let first = node.add("abc", &pod).success();
        pod.run(["ip", "link", "del", "eth0"]).unwrap();
        let second = node.add("abc", &pod).success();
        node.check("abc", &pod, &second).success();
        assert_ne!(first["ips"], second["ips"]);
        assert_eq!(node.names("addresses").len(), 1);
        // A living attachment of that id in another namespace is a mistake of the caller's.
        let other = Namespace::new("other").unwrap();
        let details = node.add("abc", &other).failure(104);
        assert!(details.contains("Call DEL"), "{details}");
        node.check("abc", &pod, &second).success();
    });
}

#[test]
fn a_lock_held_by_others_is_waited_for() {
    PluginNode::run(&[4], |node| {
        let pod = pod("pod");
        let lock = node.file("lock");
        let mut holder = command::command(["flock", lock.to_str().unwrap(), "sh", "-c", "echo held; read go"]);
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        holder.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| node.add("abc", &pod).success());
            let inode = fs::metadata(&lock).unwrap().ino().to_string();
            wait::until_true(Duration::from_secs(20), "a call that waits for the lock", || {
                let locks = fs::read_to_string("/proc/locks").unwrap();
                locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&format!(":{inode} ")))
            })
            .unwrap();
            assert!(!waiting.is_finished());
            drop(holder.stdin.take());
            let result: Value = waiting.join().unwrap();
            assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
        });
        holder.wait().unwrap();
    });
}
