//! `bench cni`: what a pod's network costs to make and to take away.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::json;
use weft_agent::datapath::{object::OBJECT, programs};
use weft_tests::instance::Instance;
use weft_tests::netns::Namespace;
use weft_tests::plan::Family;

use crate::cpu::OneCpu;
use crate::pins::mount_bpffs;
use crate::plugins::{self, Plugin, milliseconds};
use crate::sample::Samples;
use crate::{endurance, machine};

/// Samples by plugin and kind of call.
type Results = BTreeMap<(usize, &'static str), Samples>;

const KINDS: [&str; 4] = ["ADD", "DEL", "ADD at once", "DEL at once"];

/// How much is measured.
pub(crate) struct Counts {
    /// Rounds, in each of which every plugin has its turn.
    pub(crate) rounds: usize,
    /// Calls at once in the second half of a turn.
    pub(crate) at_once: usize,
    /// ADD and DEL of weft-cni alone, at the end.
    pub(crate) endurance: usize,
    /// Whether the table is printed as Markdown.
    pub(crate) markdown: bool,
}

/// Measures, prints a table and, when asked, writes the samples.
pub(crate) fn run(counts: &Counts, family: Family, weft: &Path, json: Option<&Path>) -> Result<()> {
    let Counts { rounds, at_once, endurance, markdown } = *counts;
    let instance = Instance::of_this_process()?;
    let pins = mount_bpffs(instance.folder())?.join("weft");
    programs::load(&pins, OBJECT)?;
    let plugins = plugins::all(weft, family, instance.folder(), &pins)?;
    let node = Namespace::new("node")?;
    for family in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        node.set_sysctl(family, "1")?;
    }

    let mut results = Results::new();
    for round in 0..rounds {
        // Another one begins each round, so none has always the warm caches.
        for turn in 0..plugins.len() {
            let index = (round + turn) % plugins.len();
            one(&plugins[index], index, &node, round, &mut results)?;
            many(&plugins[index], index, &node, round, at_once, &mut results)?;
        }
    }
    println!("{family} pods; {}\n", machine::describe()?);
    println!(
        "{rounds} rounds interleaved, one call alone (on one CPU) and {at_once} at once; milliseconds from start to end of the process\n"
    );
    println!("{}", table(&plugins, &results, markdown));
    if let Some(path) = json {
        write(path, &plugins, &results).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if endurance > 0 {
        // A node without the bridge of a peer, which goes down with its last pod.
        let node = Namespace::new("node")?;
        endurance::run(&plugins[0], &node, &plugins::state(instance.folder()), &pins, endurance)?;
    }
    Ok(())
}

fn one(plugin: &Plugin, index: usize, node: &Namespace, round: usize, results: &mut Results) -> Result<()> {
    let pod = Namespace::new("pod")?;
    let id = format!("one-{index}-{round}");
    let pinned = OneCpu::last()?;
    for command in ["ADD", "DEL"] {
        results.entry((index, command)).or_default().push(milliseconds(plugin.call(node, command, &pod, &id)?));
    }
    drop(pinned);
    Ok(())
}

fn many(
    plugin: &Plugin,
    index: usize,
    node: &Namespace,
    round: usize,
    at_once: usize,
    results: &mut Results,
) -> Result<()> {
    let pods = (0..at_once).map(|_| Namespace::new("pod")).collect::<Result<Vec<_>>>()?;
    for (command, kind) in [("ADD", "ADD at once"), ("DEL", "DEL at once")] {
        let times = thread::scope(|scope| {
            let call = |number: usize, pod| {
                scope.spawn(move || plugin.call(node, command, pod, &format!("many-{index}-{round}-{number}")))
            };
            let calls: Vec<_> = pods.iter().enumerate().map(|(number, pod)| call(number, pod)).collect();
            calls.into_iter().map(|call| call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let times: Result<Vec<_>> = times;
        times?.into_iter().for_each(|time| results.entry((index, kind)).or_default().push(milliseconds(time)));
    }
    Ok(())
}

fn table(plugins: &[Plugin], results: &Results, markdown: bool) -> Table {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    table.set_header(["call", "plugin", "p50", "p10", "p90", "ratio to ptp"]);
    for kind in KINDS {
        for (index, plugin) in plugins.iter().enumerate() {
            let (Some(own), Some(ptp)) = (results.get(&(index, kind)), results.get(&(1, kind))) else { continue };
            let figures = [own.median(), own.quantile(0.1), own.quantile(0.9), own.ratio_to(ptp)];
            let mut row = vec![Cell::new(kind), Cell::new(plugin.name)];
            row.extend(figures.map(|figure| Cell::new(format!("{figure:.2}")).set_alignment(CellAlignment::Right)));
            table.add_row(row);
        }
    }
    table
}

fn write(path: &Path, plugins: &[Plugin], results: &Results) -> Result<()> {
    let samples: Vec<_> = results
        .iter()
        .map(
            |((index, kind), samples)| json!({ "plugin": plugins[*index].name, "call": kind, "milliseconds": samples }),
        )
        .collect();
    Ok(fs::write(path, serde_json::to_vec_pretty(&samples)?)?)
}
