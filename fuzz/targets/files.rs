//! The state directory with any content: the first line names a file, the rest is what lies in it. Nothing panics, what can be
//! read is written again the same, and DEL always gets rid of it.
#![no_main]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use weft_cni::{attachment::AttachmentId, attachments, node_facts::NodeFacts};
use weft_fuzz::{node, sandbox};

/// Files that the plugin reads.
const FILES: [&str; 5] = [
    "node.json",
    "attachments/abc@eth0.json",
    "attachments/abc@eth0.new",
    "addresses/10.244.1.2",
    "resting/1-10.244.1.3",
];

fuzz_target!(init: sandbox::enter(), |data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let Some(file) = FILES.into_iter().find(|name| name.as_bytes() == &data[..end]) else { return };
    node::lay_out();
    if fs::write(node::state(file), node::of_this_boot(&data[end + 1..])).is_err() {
        panic!("cannot write {file}");
    }
    read_and_write_again();
    let id = [("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", sandbox::PODS[0])];
    let call = |command: &str, extra: Value| {
        let mut configuration = json!({"cniVersion": "1.1.0", "name": "weft"});
        if let (Value::Object(into), Value::Object(extra)) = (&mut configuration, extra) {
            into.extend(extra);
        }
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            name => id.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
        };
        node::call(variable, configuration.to_string().as_bytes())
    };
    call("STATUS", json!({}));
    call("ADD", json!({}));
    call("CHECK", json!({"prevResult": {}}));
    call("GC", json!({}));
    assert_eq!(call("DEL", json!({})).code, 0);
    let id = AttachmentId { container_id: "abc".to_owned(), ifname: "eth0".to_owned() };
    assert!(matches!(attachments::read(Path::new(node::STATE), &id), Ok(None)), "DEL removes the record, damaged or not");
});

/// What the parsers accept, they read back as they wrote it.
fn read_and_write_again() {
    let state = Path::new(node::STATE);
    if let Ok(facts) = NodeFacts::read(state) {
        let again = facts.write(state).and_then(|()| NodeFacts::read(state));
        assert_eq!(again.ok(), Some(facts));
    }
    let (records, _) = attachments::list(state);
    for record in records {
        let again = attachments::begin(state, &record.id())
            .and_then(|()| attachments::finish(state, &record))
            .and_then(|()| attachments::read(state, &record.id()));
        assert_eq!(again.ok().flatten(), Some(record));
    }
}
