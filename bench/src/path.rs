//! `bench path`: what a packet costs on its way, with every peer in the same run.

mod addresses;
mod aims;
mod beds;
mod measurement;
mod peer;
mod plot;
mod program_cost;
mod record;
mod report;
pub(crate) mod serve;
mod weft_nodes;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use weft_tests::instance::Instance;
use weft_tests::plan::Family;

use crate::cpu::OneCpu;
use crate::json_file;
use crate::machine;
use crate::order;
use crate::pins::mount_bpffs;
use addresses::Addresses;
use beds::Bed;
use measurement::{Ends, Measurement};
use peer::{LINES, Line, Peer, Place};
use record::{Collection, Record};
use weft_nodes::WeftNodes;

/// The command's options.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds that count; in each, everything has its turn. One before them does not count
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long a turn measures
    #[arg(long, default_value_t = 350, value_name = "MILLISECONDS")]
    turn: u64,
    /// Address family of underlay and pods: ipv4 or ipv6
    #[arg(long, default_value = "ipv4")]
    family: Family,
    /// Measure only lines like this, such as `cross node: TCP round trip: (weft|underlay)`
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,
    /// Also write all samples, and what they were taken on, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the medians and their spread, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print Markdown, with the picture of --plot beside it
    #[arg(long)]
    markdown: bool,
    /// Measure nothing: print and draw what an earlier run wrote with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "only"])]
    from: Option<PathBuf>,
}

/// Measures, prints, and writes what was asked for.
pub(crate) fn run(options: &Options, weft: &Path) -> Result<()> {
    let record = match &options.from {
        Some(file) => json_file::read(file)?,
        None => measure(options, weft)?,
    };
    let picture = options.plot.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
    report::print(&record, options.markdown, picture);
    if let Some(path) = &options.json {
        json_file::write(path, &record)?;
    }
    if let Some(path) = &options.plot {
        plot::draw(&record, path).with_context(|| format!("cannot draw {}", path.display()))?;
    }
    Ok(())
}

/// Everything that is measured, in networks of its own.
struct Beds {
    weft: BTreeMap<Peer, WeftNodes>,
    others: BTreeMap<Line, Bed>,
}

impl Beds {
    fn new(lines: &[Line], addresses: Addresses, weft: &Path, folder: &Path) -> Result<Self> {
        let bpffs = mount_bpffs(folder)?;
        let mut beds = Self { weft: BTreeMap::new(), others: BTreeMap::new() };
        for line in lines {
            let bed = match line.1 {
                peer @ (Peer::Weft | Peer::WeftByDevice) => {
                    // One bed has both places.
                    if let Entry::Vacant(place) = beds.weft.entry(peer) {
                        place.insert(WeftNodes::new(addresses, peer == Peer::Weft, weft, folder, &bpffs)?);
                    }
                    continue;
                }
                Peer::VethPair | Peer::Underlay => beds::bare(addresses),
                Peer::Bridge => beds::bridge(addresses, folder),
                Peer::KernelVxlan => beds::kernel_vxlan(addresses),
                Peer::FlannelLike => beds::flannel_like(addresses, folder),
            };
            beds.others.insert(*line, bed.with_context(|| format!("cannot make the peer `{}`", line.1.name()))?);
        }
        Ok(beds)
    }

    fn ends(&self, line: Line) -> Result<&Ends> {
        let weft = self.weft.get(&line.1).map(|nodes| match line.0 {
            Place::SameNode => &nodes.same_node,
            Place::CrossNode => &nodes.cross_node,
        });
        weft.or_else(|| self.others.get(&line).map(|bed| &bed.ends)).context("this line has no bed")
    }

    /// Fails where the pods of weft do not use the way that they are measured for.
    fn check_ways(&self, time: Duration) -> Result<()> {
        for (peer, nodes) in &self.weft {
            let before = nodes.by_device()?;
            let turn = Measurement::UdpRoundTrip.turn(&nodes.cross_node, time)?;
            nodes
                .check_way(before, turn.round_trips as u64)
                .with_context(|| format!("`{}` is not what it says", peer.name()))?;
        }
        Ok(())
    }

    /// What weft's programs cost, place by place.
    fn program_costs(&self, time: Duration) -> Result<Vec<program_cost::ProgramCost>> {
        let mut costs = Vec::new();
        for (peer, nodes) in &self.weft {
            for place in Place::ALL.into_iter().filter(|place| LINES.contains(&(*place, *peer))) {
                costs.extend(program_cost::measure(place, *peer, &nodes.pins, self.ends((place, *peer))?, time)?);
            }
        }
        Ok(costs)
    }
}

fn measure(options: &Options, weft: &Path) -> Result<Record> {
    let Options { rounds, only, family, .. } = options;
    let (time, addresses) = (Duration::from_millis(options.turn), Addresses::of(*family)?);
    let wanted = |measurement: &Measurement, (place, peer): &Line| {
        let name = format!("{}: {}: {}", place.name(), measurement.name(), peer.name());
        only.as_ref().is_none_or(|only| only.is_match(&name))
    };
    let turns: Vec<(Measurement, Vec<Line>)> = Measurement::ALL
        .into_iter()
        .map(|measurement| (measurement, LINES.into_iter().filter(|line| wanted(&measurement, line)).collect()))
        .filter(|(_, lines): &(_, Vec<Line>)| !lines.is_empty())
        .collect();
    ensure!(!turns.is_empty(), "nothing is called so; without --only all names are in the table");
    let used: Vec<Line> =
        LINES.into_iter().filter(|line| turns.iter().any(|(_, lines)| lines.contains(line))).collect();

    let instance = Instance::of_this_process()?;
    let beds = Beds::new(&used, addresses, weft, instance.folder())?;
    let cpu = OneCpu::last()?;
    beds.check_ways(time)?;
    let mut collection = Collection::default();
    for round in 0..=*rounds {
        for kind in order::of_round(round, turns.len()) {
            let (measurement, lines) = &turns[kind];
            for index in order::of_round(round, lines.len()) {
                let line = lines[index];
                let turn = measurement
                    .turn(beds.ends(line)?, time)
                    .with_context(|| format!("{}: {}: {}", line.0.name(), measurement.name(), line.1.name()))?;
                // The first round is for caches, and for neighbours that have to be asked for.
                if round > 0 {
                    collection.push(line, *measurement, turn);
                }
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    let mut record = Record {
        date: machine::date(),
        command: machine::command_line("path"),
        commit: machine::commit(),
        kernel: machine::kernel()?,
        processor: machine::processor()?,
        cpu: cpu.number(),
        family: addresses.name().to_owned(),
        rounds: *rounds,
        turn_milliseconds: options.turn,
        figures: collection.into_figures(),
        aims: Vec::new(),
        programs: beds.program_costs(time)?,
    };
    record.aims = record.outcomes();
    Ok(record)
}
