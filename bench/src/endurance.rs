//! What thousands of calls leave behind, and whether the last ones are as fast as the first.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_common::layout::map::ENDPOINTS;
use weft_tests::netns::Namespace;

use crate::plugins::{Plugin, milliseconds};
use crate::sample::Samples;

/// Parts that the calls are divided into to see whether they become slower.
const PARTS: usize = 10;
/// Pods that live all the time, as on a node in use.
const LIVING: usize = 20;

/// ADD and DEL of one container after the other, and a comparison of the node before and after.
pub(crate) fn run(plugin: &Plugin, node: &Namespace, state: &Path, pins: &Path, calls: usize) -> Result<()> {
    let living = (0..LIVING).map(|_| Namespace::new("pod")).collect::<Result<Vec<_>>>()?;
    for (number, pod) in living.iter().enumerate() {
        plugin.call(node, "ADD", pod, &format!("living-{number}"))?;
    }
    let pod = Namespace::new("pod")?;
    // The first pod of a node makes what stays, such as the kernel's tables of a family.
    for command in ["ADD", "DEL"] {
        plugin.call(node, command, &pod, "first")?;
    }
    let before = Everything::on(node, state, pins)?;

    let mut parts = vec![(Samples::default(), Samples::default()); PARTS];
    for number in 0..calls {
        let (add, del) = &mut parts[number * PARTS / calls];
        let id = format!("endurance-{number}");
        add.push(milliseconds(plugin.call(node, "ADD", &pod, &id)?));
        del.push(milliseconds(plugin.call(node, "DEL", &pod, &id)?));
    }
    println!("\n{calls} ADD and DEL of {}, one after the other beside {LIVING} pods; p50 in milliseconds", plugin.name);
    for (name, of) in [("ADD", 0), ("DEL", 1)] {
        let medians: Vec<_> = parts.iter().map(|part| format!("{:.2}", [&part.0, &part.1][of].median())).collect();
        println!(" {name}  each tenth of them: {}", medians.join("  "));
    }

    let after = Everything::on(node, state, pins)?;
    let (new, gone) = (after.0.difference(&before.0), before.0.difference(&after.0));
    let differences: Vec<_> =
        new.map(|new| format!("new: {new}")).chain(gone.map(|gone| format!("gone: {gone}"))).collect();
    ensure!(differences.is_empty(), "{calls} ADD and DEL left a difference:\n{}", differences.join("\n"));
    println!(
        " nothing was left: {} links, addresses, routes, neighbours, map entries and files compared",
        before.0.len()
    );
    for (number, pod) in living.iter().enumerate() {
        plugin.call(node, "DEL", pod, &format!("living-{number}"))?;
    }
    Ok(())
}

/// All that a pod makes on a node, a line each.
struct Everything(BTreeSet<String>);

impl Everything {
    fn on(node: &Namespace, state: &Path, pins: &Path) -> Result<Self> {
        let mut lines = BTreeSet::new();
        let listings: [&[&str]; 5] = [
            &["ip", "-oneline", "link"],
            &["ip", "-oneline", "address"],
            &["ip", "-4", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "neighbour", "show", "nud", "permanent"],
        ];
        for words in listings {
            let text = node.run(words)?;
            lines.extend(text.lines().map(|line| format!("{}: {}", words.join(" "), line.trim())));
        }
        let map = pins.join(ENDPOINTS);
        let entries = node.run(["bpftool", "-j", "map", "dump", "pinned", &map.to_string_lossy()])?;
        let entries: Vec<serde_json::Value> = serde_json::from_str(&entries).context("bpftool wrote no JSON")?;
        lines.extend(entries.iter().map(|entry| format!("{ENDPOINTS}: {}", entry["key"])));
        for folder in ["", "addresses", "attachments"] {
            for entry in fs::read_dir(state.join(folder))? {
                lines.insert(format!("file: {}", entry?.path().display()));
            }
        }
        // Freed addresses rest; how many are remembered is limited.
        let resting = fs::read_dir(state.join("resting"))?.count();
        ensure!(resting <= 2 * 256, "{resting} addresses rest");
        Ok(Self(lines))
    }
}
