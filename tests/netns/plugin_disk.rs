//! A state directory without space, without inodes, and read-only: at each step that needs some.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use weft_tests::netns::Namespace;

use crate::plugin_node::{PluginNode, ip, ip_in, pod};

/// Bytes of a page: what a file on a tmpfs takes at least.
const PAGE: u64 = 4096;

/// A small file system on the state directory, seen by this test alone. The folder must hold `node.json`.
fn mount_on_state(node: &PluginNode, options: &str) {
    let facts = fs::read(node.file("node.json")).unwrap();
    mount(Some("weft"), &node.file(""), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
    fs::write(node.file("node.json"), facts).unwrap();
}

fn remount(node: &PluginNode, flags: MsFlags) {
    mount(None::<&str>, &node.file(""), None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).unwrap();
}

/// Takes all space but for so many pages, or gives back what was taken.
fn leave_pages(node: &PluginNode, left: Option<u64>) {
    let path = node.file("filler");
    let Some(left) = left else { return fs::remove_file(path).unwrap() };
    let mut filler = File::create(path).unwrap();
    while filler.write_all(&[0; PAGE as usize]).is_ok() {}
    let full = filler.metadata().unwrap().len() / PAGE;
    filler.set_len((full - left) * PAGE).unwrap();
}

/// Takes all inodes but for so many, or gives back what was taken.
fn leave_inodes(node: &PluginNode, left: Option<u64>) {
    let folder = node.file("filler");
    let Some(left) = left else { return fs::remove_dir_all(folder).unwrap() };
    fs::create_dir(&folder).unwrap();
    let filled = (0..).take_while(|number: &u64| File::create(folder.join(number.to_string())).is_ok()).count();
    for number in (0..filled as u64).rev().take(usize::try_from(left).unwrap()) {
        fs::remove_file(folder.join(number.to_string())).unwrap();
    }
}

/// The details of a failure, which must name a file of the state directory and the reason, and say what to do.
fn names_the_disk(node: &PluginNode, output: &str, reason: &str, see: &str) {
    let error: Value = serde_json::from_str(output).unwrap();
    let details = error["details"].as_str().unwrap();
    for words in [node.file("").to_str().unwrap(), reason, see] {
        assert!(details.contains(words), "{words:?} in {details:?}");
    }
}

/// What a failed ADD must leave as it was.
fn everything(node: &PluginNode, pod: &Namespace) -> (usize, usize, Vec<String>) {
    let count = |links: Value| links.as_array().unwrap().len();
    (count(ip(&["link"])), count(ip_in(pod, &["link"])), node.leftovers())
}

/// Lets an ADD fail for want of whatever `leave` leaves less of, for every amount until it succeeds, and DEL succeed with nothing.
fn starve(options: &str, leave: fn(&PluginNode, Option<u64>), see: &str) {
    PluginNode::run(&[4, 6], |node| {
        mount_on_state(node, options);
        let [neighbour, pod] = ["neighbour", "pod"].map(pod);
        // Nobody was ever here, and there is no room for a lock: DEL has nothing to do.
        leave(node, Some(0));
        node.del("unknown", "").success();
        names_the_disk(node, &node.add("abc", &pod).output, "No space left on device", see);
        leave(node, None);

        let result = node.add("neighbour", &neighbour).success();
        let mut failed = 0;
        for left in 0.. {
            let before = everything(node, &pod);
            leave(node, Some(left));
            let answer = node.add("abc", &pod);
            if answer.code == Some(0) {
                leave(node, None);
                break;
            }
            names_the_disk(node, &answer.output, "No space left on device", see);
            assert_eq!(everything(node, &pod), before, "with {left} left: {answer:?}");
            node.check("neighbour", &neighbour, &result).success();
            // The runtime calls DEL after a failed ADD.
            node.del("abc", "").success();
            leave(node, None);
            failed += 1;
            assert!(left < 20, "{answer:?}");
        }
        println!("ADD failed for {failed} amounts of what {options} limits");
        assert!(failed > 1, "the test starved ADD at one step only");
        // Freeing needs nothing.
        leave(node, Some(0));
        node.gc("weft", &[("abc", "eth0"), ("neighbour", "eth0")]).success();
        node.check("neighbour", &neighbour, &result).success();
        node.del("abc", pod.path().to_str().unwrap()).success();
        node.gc("weft", &[]).success();
        assert_eq!(node.leftovers(), [""; 0]);
        leave(node, None);
        umount2(&node.file(""), MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn without_space_add_names_the_file_and_undoes_all_and_del_succeeds() {
    starve("size=64k", leave_pages, "df ");
}

#[test]
fn without_inodes_add_names_the_file_and_undoes_all_and_del_succeeds() {
    starve("nr_inodes=64", leave_inodes, "df -i ");
}

#[test]
fn on_a_read_only_disk_calls_say_so_and_del_completes_when_it_is_writable_again() {
    PluginNode::run(&[4, 6], |node| {
        mount_on_state(node, "size=1m");
        let [first, second] = ["first", "second"].map(pod);
        remount(node, MsFlags::MS_RDONLY);
        // No ADD was ever here.
        node.del("unknown", "").success();
        remount(node, MsFlags::empty());
        let result = node.add("first", &first).success();
        remount(node, MsFlags::MS_RDONLY);

        let before = everything(node, &second);
        names_the_disk(node, &node.add("second", &second).output, "Read-only file system", "findmnt -T");
        assert_eq!(everything(node, &second), before);
        // What needs no writing works.
        assert_eq!(node.add("first", &first).success(), result);
        node.check("first", &first, &result).success();
        node.call(&[("CNI_COMMAND", "STATUS")], &node.configuration("1.1.0", &[])).success();
        node.del("unknown", "").success();
        // The pod goes, its addresses cannot: the runtime calls again.
        for _ in 0..2 {
            names_the_disk(node, &node.del("first", "").output, "Read-only file system", "findmnt -T");
            assert_eq!(ip(&["link", "show", "type", "veth"]), serde_json::json!([]));
            assert_eq!(node.names("addresses").len(), 2);
        }
        remount(node, MsFlags::empty());
        node.del("first", "").success();
        assert_eq!(node.leftovers(), [""; 0]);
        umount2(&node.file(""), MntFlags::MNT_DETACH).unwrap();
        assert!(Path::new(&node.file("node.json")).exists());
    });
}
