//! Files of the state directory that are cut off, filled with something else or replaced by folders: each call gives a named
//! error with the next step or does its work, and nobody else's allocation is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_cni::lock::Lock;
use weft_cni::reclaim;
use weft_tests::netns::Namespace;

use crate::plugin_node::{Answer, PINS, PluginNode, of_pod, pod};

/// What may stand in a file after a crash or an edit.
fn garbage() -> Vec<Vec<u8>> {
    let texts = ["null", "[]", "{}", "7", "\"text\"", "{\"layout\":1}", "{\"layout\":-1}", "\u{feff}{}", "abc", " \n"];
    let mut garbage: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    garbage.extend([vec![0; 4096], vec![0xff; 300], b"[".repeat(100_000), b"{\"a\":".repeat(10_000)]);
    garbage
}

/// Every beginning of a file's content but the whole, and garbage.
fn damaged(content: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..content.len()).map(|length| content[..length].to_vec()).chain(garbage())
}

/// A node with two pods: one whose files are damaged, and its neighbour.
struct Bed<'a> {
    node: &'a PluginNode,
    pod: Namespace,
    result: Value,
    neighbour: Namespace,
    neighbours_result: Value,
    free: Namespace,
}

impl<'a> Bed<'a> {
    fn new(node: &'a PluginNode) -> Self {
        let [pod, neighbour, free] = ["pod", "neighbour", "free"].map(pod);
        let neighbours_result = node.add("neighbour", &neighbour).success();
        let result = node.add("abc", &pod).success();
        Self { node, pod, result, neighbour, neighbours_result, free }
    }

    /// A call in this process.
    fn call(&self, command: &str, id: &str) -> Answer {
        let (pod, extra) = match id {
            "abc" => (&self.pod, ("prevResult", self.result.clone())),
            "neighbour" => (&self.neighbour, ("prevResult", self.neighbours_result.clone())),
            _ => (&self.free, ("prevResult", Value::Null)),
        };
        let extra = if command == "CHECK" { vec![extra] } else { vec![] };
        let netns = pod.path();
        let variables = of_pod(command, id, "eth0", netns.to_str().unwrap());
        self.node.call_here(&variables, &self.node.configuration("1.1.0", &extra))
    }

    fn gc(&self) -> Answer {
        let ids = ["abc", "neighbour"].map(|id| json!({"containerID": id, "ifname": "eth0"}));
        let configuration = self.node.configuration("1.1.0", &[("cni.dev/valid-attachments", json!(ids))]);
        self.node.call_here(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")], &configuration)
    }

    fn status(&self) -> Answer {
        self.node.call_here(&[("CNI_COMMAND", "STATUS")], &self.node.configuration("1.1.0", &[]))
    }

    /// The agent's look at what is dead.
    fn agent_looks(&self) -> reclaim::Outcome {
        let lock = Lock::acquire(&self.node.file(""), Duration::from_secs(10)).unwrap();
        reclaim::all(&self.node.file(""), Path::new(PINS), &lock)
    }

    /// An ADD for another pod gets addresses that nobody has.
    fn others_can_come_and_go(&self) {
        let result = self.call("ADD", "free").success();
        for ip in result["ips"].as_array().unwrap() {
            for others in [&self.result, &self.neighbours_result] {
                assert!(!others["ips"].as_array().unwrap().contains(ip), "{ip} is given away twice");
            }
        }
        self.node.del("free", "").success();
    }

    /// Nothing that is the neighbour's has changed.
    fn assert_neighbour_is_whole(&self) {
        self.call("CHECK", "neighbour").success();
    }

    fn addresses(&self) -> [PathBuf; 2] {
        [0, 1].map(|number: usize| {
            let address = self.result["ips"][number]["address"].as_str().unwrap().split('/').next().unwrap();
            self.node.file(&format!("addresses/{address}"))
        })
    }

    fn end(self) {
        for id in ["abc", "neighbour"] {
            self.node.del(id, "").success();
        }
        assert_eq!(self.node.leftovers(), [""; 0]);
    }
}

fn has_words(details: &str, words: &[&str]) {
    for word in words {
        assert!(details.contains(word), "{word:?} in {details:?}");
    }
}

#[test]
fn whatever_node_json_holds_is_named_and_hinders_no_pod_that_is_there() {
    PluginNode::run(&[4, 6], |node| {
        let bed = Bed::new(node);
        let path = node.file("node.json");
        let whole = fs::read(&path).unwrap();
        let words = ["node.json", "kubectl -n kube-system get pods -l app=weft-agent"];
        for content in damaged(&whole) {
            fs::write(&path, &content).unwrap();
            has_words(&bed.call("ADD", "free").failure(11), &words);
            has_words(&bed.status().failure(50), &words);
            bed.call("CHECK", "abc").success();
            assert_eq!(bed.call("ADD", "abc").success(), bed.result);
        }
        for kind in ["a folder", "a link to itself"] {
            fs::remove_file(&path).unwrap();
            if kind == "a folder" { fs::create_dir(&path) } else { std::os::unix::fs::symlink(&path, &path) }.unwrap();
            has_words(&bed.call("ADD", "free").failure(11), &words);
            bed.gc().success();
            if kind == "a folder" {
                fs::remove_dir(&path).unwrap();
                fs::write(&path, "").unwrap();
            }
        }
        // Pods go without the agent's word too.
        node.del("abc", "").success();
        bed.assert_neighbour_is_whole();
        fs::remove_file(&path).unwrap();
        fs::write(&path, whole).unwrap();
        bed.others_can_come_and_go();
        bed.end();
    });
}

#[test]
fn whatever_a_record_holds_is_named_and_costs_no_address() {
    PluginNode::run(&[4, 6], |node| {
        let bed = Bed::new(node);
        let path = node.file("attachments/abc@eth0.json");
        let whole = fs::read(&path).unwrap();
        let names = node.names("addresses");
        for (number, content) in damaged(&whole).enumerate() {
            fs::write(&path, &content).unwrap();
            for answer in [bed.call("ADD", "abc"), bed.call("CHECK", "abc"), bed.gc()] {
                has_words(&answer.failure(103), &["abc@eth0.json", "delete the pod"]);
            }
            bed.status().success();
            assert_eq!(bed.agent_looks().reclaimed, []);
            assert_eq!(node.names("addresses"), names, "nothing is lost, {number}");
            if number % 100 == 0 {
                bed.others_can_come_and_go();
                bed.assert_neighbour_is_whole();
            }
        }
        node.del("abc", "").success();
        bed.assert_neighbour_is_whole();
        bed.end();
    });
}

#[test]
fn whatever_the_file_of_an_address_holds_the_address_is_its_pods_until_del() {
    PluginNode::run(&[4, 6], |node| {
        let mut bed = Bed::new(node);
        let others: [&[u8]; 6] =
            [b"abc eth0", b"abc\n", b" \n", b"neighbour eth0\n", b"stranger eth9\n", b"../../abc eth0\n"];
        let whole = fs::read(&bed.addresses()[0]).unwrap();
        for (number, content) in damaged(&whole).chain(others.map(<[u8]>::to_vec)).enumerate() {
            let path = bed.addresses()[number % 2].clone();
            let address = path.file_name().unwrap().to_str().unwrap().to_owned();
            fs::write(&path, &content).unwrap();
            has_words(
                &bed.call("CHECK", "abc").failure(105),
                &[&format!("{address} is not allocated to it"), "Delete the pod"],
            );
            assert_eq!(bed.agent_looks().reclaimed, [], "{content:?}");
            bed.gc().success();
            assert!(path.exists(), "{content:?}");
            if number % 3 == 0 {
                bed.others_can_come_and_go();
            }
            node.del("abc", "").success();
            // Who stands in the file by mistake does not lose what is its own, and has the address until it goes itself.
            bed.assert_neighbour_is_whole();
            if ![&b"neighbour eth0\n"[..], b"stranger eth9\n"].contains(&&content[..]) {
                assert_eq!(node.leftovers().len(), 6, "{content:?}: {:?}", node.leftovers());
            }
            let reclaimed = bed.agent_looks();
            assert!(reclaimed.failures.is_empty(), "{reclaimed:?}");
            if content != b"neighbour eth0\n" {
                assert_eq!(node.leftovers().len(), 6, "{content:?}: {:?}", node.leftovers());
            }
            fs::remove_file(&path).unwrap_or_default();
            bed.result = bed.call("ADD", "abc").success();
        }
        bed.end();
    });
}

#[test]
fn a_folder_where_a_file_should_be_or_a_file_where_a_folder_should_be_is_named() {
    for (name, is_folder, refused) in [
        ("lock", true, "ADD CHECK GC DEL"),
        ("addresses/.new", true, "ADD GC DEL"),
        ("attachments/free@eth0.new", true, "ADD GC DEL"),
        ("attachments/free@eth0.json", true, "ADD GC DEL"),
        ("attachments/dead@eth0.new", true, "GC"),
        ("addresses/10.244.1.4", true, "GC"),
        ("resting/00000000000000000000-10.244.1.4", true, ""),
        ("resting/garbage", true, ""),
        ("addresses/garbage", true, ""),
        ("attachments/garbage", true, ""),
        ("addresses", false, "ADD CHECK GC DEL"),
        ("attachments", false, "ADD CHECK GC DEL"),
        ("resting", false, "ADD CHECK GC DEL"),
    ] {
        PluginNode::run(&[4, 6], |node| {
            let bed = Bed::new(node);
            let (path, aside) = (node.file(name), node.file("aside"));
            let is_there = path.exists();
            if is_there {
                fs::rename(&path, &aside).unwrap();
            }
            if is_folder { fs::create_dir(&path) } else { fs::write(&path, "") }.unwrap();
            bed.status().success();
            let answers = [
                ("ADD", bed.call("ADD", "free")),
                ("CHECK", bed.call("CHECK", "abc")),
                ("GC", bed.gc()),
                ("DEL", node.del("free", "")),
            ];
            for (command, answer) in answers {
                let error: Value = serde_json::from_str(&answer.output).unwrap_or_default();
                if refused.split(' ').any(|refused| refused == command) {
                    assert_eq!(answer.code, Some(1), "{command} with {name}: {answer:?}");
                    let details = error["details"].as_str().unwrap();
                    // DEL renames what it removes, whatever it is.
                    has_words(details, &[name.trim_end_matches("json"), "See: "]);
                } else {
                    answer.success();
                }
            }
            let renamed = path.with_extension("new");
            let path_now = if path.exists() { &path } else { &renamed };
            if is_folder { fs::remove_dir(path_now) } else { fs::remove_file(path_now) }.unwrap();
            if is_there {
                fs::rename(&aside, &path).unwrap();
            }
            bed.call("CHECK", "abc").success();
            bed.assert_neighbour_is_whole();
            bed.gc().success();
            bed.others_can_come_and_go();
            bed.end();
        });
    }
}
