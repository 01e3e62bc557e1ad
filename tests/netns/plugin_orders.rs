//! Calls in odd orders and all at once: each gets the specification's answer, and what is left is whole or nothing.

use std::collections::HashSet;
use std::thread;

use serde_json::{Value, json};
use weft_tests::netns::Namespace;

use crate::plugin_node::{Answer, PluginNode, ip, ip_in, map_entries, of_pod, pod};

/// Runs calls at once and returns their answers in order.
fn at_once<T: Send>(calls: Vec<Box<dyn FnOnce() -> T + Send + '_>>) -> Vec<T> {
    thread::scope(|scope| {
        let running: Vec<_> = calls.into_iter().map(|call| scope.spawn(call)).collect();
        running.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

fn path(pod: &Namespace) -> String {
    pod.path().to_str().unwrap().to_owned()
}

#[test]
fn fifty_mixed_calls_at_once_do_not_get_in_each_others_way() {
    PluginNode::run(&[4, 6], |node| {
        let pods = |count: usize| (0..count).map(|_| pod("pod")).collect::<Vec<_>>();
        let (kept, going, new) = (pods(15), pods(15), pods(15));
        let add = |pod: &Namespace| node.add(pod.name(), pod).success();
        let results: Vec<_> = kept.iter().map(add).collect();
        going.iter().for_each(|pod| drop(add(pod)));
        let known: Vec<_> = kept.iter().chain(&new).map(|pod| (pod.name(), "eth0")).collect();
        let mut calls: Vec<Box<dyn FnOnce() -> Value + Send + '_>> = Vec::new();
        for number in 0..15 {
            calls.push(Box::new({
                let (pod, result) = (&kept[number], &results[number]);
                move || node.check(pod.name(), pod, result).success()
            }));
            calls.push(Box::new({
                let pod = &going[number];
                move || node.del(pod.name(), &path(pod)).success()
            }));
            calls.push(Box::new({
                let pod = &new[number];
                move || node.add(pod.name(), pod).success()
            }));
            if number % 3 == 0 {
                let known = &known;
                calls.push(Box::new(move || node.gc("weft", known).success()));
            }
        }
        assert_eq!(calls.len(), 50);
        let answers = at_once(calls);
        let added: Vec<_> = answers.into_iter().filter(|answer| !answer.is_null()).collect();
        assert_eq!(added.len(), new.len());
        let addresses: HashSet<_> =
            results.iter().chain(&added).map(|result| result["ips"][0]["address"].to_string()).collect();
        assert_eq!(addresses.len(), 30);
        assert_eq!((map_entries().len(), node.names("addresses").len()), (60, 60));
        for (pod, result) in kept.iter().chain(&new).zip(results.iter().chain(&added)) {
            node.check(pod.name(), pod, result).success();
        }
        node.gc("weft", &[]).success();
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn the_same_call_many_times_at_once_is_done_once() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        let many = |call: &(dyn Fn() -> Answer + Sync)| {
            at_once((0..10).map(|_| Box::new(call) as Box<dyn FnOnce() -> Answer + Send + '_>).collect::<Vec<_>>())
        };
        let results: Vec<_> = many(&|| node.add("abc", &pod)).iter().map(Answer::success).collect();
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
        assert_eq!(node.names("addresses").len(), 2);
        assert_eq!(ip(&["link", "show", "type", "veth"]).as_array().unwrap().len(), 1);
        many(&|| node.check("abc", &pod, &results[0])).iter().for_each(|answer| drop(answer.success()));
        many(&|| node.del("abc", &path(&pod))).iter().for_each(|answer| drop(answer.success()));
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn add_and_del_of_one_container_at_once_leave_all_or_nothing() {
    PluginNode::run(&[4, 6], |node| {
        for round in 0..20 {
            let pod = pod("pod");
            // Every other time there is an attachment already.
            if round % 2 == 0 {
                node.add("abc", &pod).success();
            }
            let answers = at_once(vec![
                Box::new(|| node.add("abc", &pod)) as Box<dyn FnOnce() -> Answer + Send + '_>,
                Box::new(|| node.del("abc", &path(&pod))),
            ]);
            answers[1].success();
            if node.names("attachments").is_empty() {
                assert_eq!(node.leftovers(), [""; 0], "round {round}: {answers:?}");
            } else {
                node.check("abc", &pod, &answers[0].success()).success();
                node.del("abc", "").success();
                assert_eq!(node.leftovers(), [""; 0], "round {round}");
            }
            assert_eq!(ip_in(&pod, &["link"]).as_array().unwrap().len(), 1, "only lo is left in round {round}");
        }
    });
}

#[test]
fn an_interface_may_have_any_name_that_the_kernel_takes() {
    PluginNode::run(&[4, 6], |node| {
        for ifname in ["net1", "a@b", "abcdefghijklmno", "-", "eth0.json", "weft0"] {
            let pod = pod("pod");
            let result = node.add_as("abc", ifname, &pod, &node.configuration("1.0.0", &[])).success();
            assert_eq!(result["interfaces"][1]["name"], ifname);
            assert_eq!(ip_in(&pod, &["link", "show", ifname])[0]["address"], result["interfaces"][1]["mac"]);
            // Another interface of the same container is another attachment, which there is none of.
            let configuration = node.configuration("1.0.0", &[("prevResult", result)]);
            node.call(&of_pod("CHECK", "abc", "eth9", &path(&pod)), &configuration).failure(3);
            node.call(&of_pod("DEL", "abc", "eth9", &path(&pod)), &configuration).success();
            node.call(&of_pod("CHECK", "abc", ifname, &path(&pod)), &configuration).success();
            node.call(&of_pod("DEL", "abc", ifname, &path(&pod)), &configuration).success();
            assert_eq!(node.leftovers(), [""; 0], "{ifname}");
        }
        let pod = pod("pod");
        for ifname in ["lo", "abcdefghijklmnop", "a/b", "..", "a b"] {
            let answer = node.add_as("abc", ifname, &pod, &node.configuration("1.0.0", &[]));
            assert_eq!(answer.code, Some(1), "{ifname}: {answer:?}");
            assert_eq!(node.leftovers(), [""; 0], "{ifname}");
        }
    });
}

#[test]
fn del_needs_no_add_before_it_and_no_namespace() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        let netns = path(&pod);
        let result = json!({"cniVersion": "1.0.0", "interfaces": [], "ips": [{"address": "10.244.1.2/32"}]});
        let before = (ip(&["link"]), ip_in(&pod, &["link"]));
        for netns in [netns.as_str(), "", "/run/netns/weft-gone", "/proc/self/ns/net", "/proc/self/stat"] {
            for extra in [vec![], vec![("prevResult", result.clone())]] {
                for _ in 0..2 {
                    let configuration = node.configuration("1.0.0", &extra);
                    node.call(&of_pod("DEL", "never-added", "eth0", netns), &configuration).success();
                }
            }
        }
        assert_eq!((ip(&["link"]), ip_in(&pod, &["link"])), before);
        assert_eq!(node.leftovers(), [""; 0]);
    });
}
