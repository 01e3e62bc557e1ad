//! `bench services`: what it costs to dial a Service, beside dialling its Pod and beside kube-proxy, and what the daemons behind it cost.

mod aims;
mod bed;
mod cluster;
pub(crate) mod ends;
mod kube_proxy;
mod measurement;
mod plot;
mod record;
mod report;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::instance::Instance;

use crate::cpu::OneCpu;
use crate::json_file;
use crate::objects::Size;
use crate::order;
use crate::pins::mount_bpffs;
use bed::Bed;
use measurement::{Measurement, Peer, Place, Target};
use record::{Daemon, Line, Record};

/// kube-proxy waits a second between two looks at what has changed; a change is never measured sooner after the last one.
const BETWEEN_CHANGES: Duration = Duration::from_millis(1200);
/// For how long daemons are watched, the share of a CPU that is as good as none, and for how long they may have more.
const LOOK: Duration = Duration::from_millis(300);
const QUIET: f64 = 0.1;
const PATIENCE: Duration = Duration::from_secs(60);
/// Changes a second while the processor's time is measured.
const CHANGES_A_SECOND: u32 = 50;

/// The command's options.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds that count; in each, everything has its turn. One before them does not count
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// Connections, requests or questions of a turn
    #[arg(long, default_value_t = 300)]
    operations: usize,
    /// Services with ten endpoints each, one number a size
    #[arg(long, value_delimiter = ',', default_value = "10,10000")]
    services: Vec<u32>,
    /// Nodes, one number a size; two of them are there
    #[arg(long, value_delimiter = ',', default_value = "10,1000")]
    nodes: Vec<u32>,
    /// How often each cluster is built up from nothing
    #[arg(long, default_value_t = 3)]
    loads: usize,
    /// Changes of a backend in each cluster, in turns
    #[arg(long, default_value_t = 30)]
    updates: usize,
    /// Seconds without any change, and seconds with fifty a second
    #[arg(long, default_value_t = 30)]
    seconds: u64,
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
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    from: Option<PathBuf>,
}

/// Measures, prints, and writes what was asked for.
pub(crate) fn run(options: &Options, programs: &Path) -> Result<()> {
    let record = match &options.from {
        Some(file) => json_file::read(file)?,
        None => measure(options, programs)?,
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

fn measure(options: &Options, programs: &Path) -> Result<Record> {
    let Options { rounds, operations, services, nodes, loads, .. } = options;
    ensure!(services.len() == nodes.len(), "--services and --nodes need a number each for every size");
    ensure!(nodes.iter().all(|nodes| *nodes >= 2), "--nodes must be 2 or more: the backends are on two");
    ensure!(services.iter().all(|services| *services > 0), "--services must be 1 or more: theirs are the changes");
    ensure!(*loads > 0, "--loads must be 1 or more");
    let sizes = services.iter().zip(nodes).map(|(services, nodes)| Size {
        services: *services,
        endpoints: 10,
        nodes: *nodes,
        large: 0,
    });
    let places: Vec<(Size, Peer)> = sizes.flat_map(|size| Peer::ALL.map(|peer| (size, peer))).collect();

    let instance = Instance::of_this_process()?;
    let bpffs = mount_bpffs(instance.folder())?;
    let mut daemons: Vec<Daemon> = places.iter().map(|(size, peer)| Daemon::new(size, *peer)).collect();
    let mut beds = Vec::new();
    for load in 1..=*loads {
        beds.clear();
        for (number, (size, peer)) in places.iter().enumerate() {
            eprintln!("load {load} of {loads}: {}, {} Services", peer.name(), size.services);
            let name = format!("load{load}-{number}");
            let bed = Bed::new(*peer, size, programs, &instance.folder().join(&name), &bpffs.join(&name))?;
            daemons[number].load.push(bed.load);
            beds.push(bed);
        }
    }
    let mut record = Record::of_this_run(options)?;
    let measured = in_turns(&beds, &mut record, *rounds, *operations)
        .and_then(|()| watch(&beds, &mut daemons, options))
        .and_then(|()| changes(&beds, &mut daemons, options));
    measured.with_context(|| beds.iter().map(Bed::log).collect::<String>())?;
    record.daemons = daemons;
    Ok(record)
}

/// All that a client can do, in turns.
fn in_turns(beds: &[Bed], record: &mut Record, rounds: usize, operations: usize) -> Result<()> {
    let mut lines: Vec<(usize, Line)> = Vec::new();
    for measurement in Measurement::ALL {
        for place in Place::ALL {
            for (index, bed) in beds.iter().enumerate() {
                for target in Target::ALL {
                    lines.push((index, Line::new(bed.services(), place, measurement, bed.peer, target)));
                }
            }
        }
    }
    let cpu = OneCpu::last()?;
    record.cpu = cpu.number();
    for round in 0..=rounds {
        for index in order::of_round(round, lines.len()) {
            let (bed, line) = &mut lines[index];
            let turn = beds[*bed]
                .turn(line.measurement, line.place, line.target, operations)
                .with_context(|| format!("{}, {}, {}", line.measurement.name(), line.place.name(), line.label()))?;
            // The first round is for caches, and for neighbours that have to be asked for.
            if round > 0 {
                line.push(turn);
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    record.lines = lines.into_iter().map(|(_, line)| line).collect();
    Ok(())
}

/// Memory, and the processor's time without any change and with fifty a second.
fn watch(beds: &[Bed], daemons: &mut [Daemon], options: &Options) -> Result<()> {
    let time = Duration::from_secs(options.seconds);
    eprintln!("{} seconds without changes", options.seconds);
    // All at once: none does anything that could disturb the others.
    let before = beds.iter().map(Bed::usage).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    sleep(time);
    for ((bed, daemon), before) in beds.iter().zip(&mut *daemons).zip(before) {
        let usage = bed.usage()?;
        daemon.idle = (usage.cpu - before.cpu) / began.elapsed().as_secs_f64() * 100.0;
        daemon.memory = usage.memory;
    }
    for (bed, daemon) in beds.iter().zip(daemons) {
        eprintln!("{} seconds with changes: {}", options.seconds, daemon.label());
        let (began, before, mut count) = (Instant::now(), bed.usage()?.cpu, 0);
        while began.elapsed() < time {
            bed.change_another(count);
            count += 1;
            sleep((Duration::from_secs(1) / CHANGES_A_SECOND * count).saturating_sub(began.elapsed()));
        }
        daemon.changes_a_second = f64::from(count) / began.elapsed().as_secs_f64();
        daemon.busy = (bed.usage()?.cpu - before) / began.elapsed().as_secs_f64() * 100.0;
        settle(beds)?;
        let usage = bed.usage()?;
        daemon.busy_memory = usage.memory;
        daemon.peak = usage.peak;
    }
    Ok(())
}

/// Changes of a backend, in turns.
fn changes(beds: &[Bed], daemons: &mut [Daemon], options: &Options) -> Result<()> {
    let mut last = vec![Instant::now(); beds.len()];
    for update in 0..options.updates {
        for index in order::of_round(update, beds.len()) {
            sleep(BETWEEN_CHANGES.saturating_sub(last[index].elapsed()));
            settle(beds)?;
            // The Service begins with the backend 0.
            let time = beds[index].update(u8::from(update % 2 == 0))?;
            daemons[index].update.push(time);
            last[index] = Instant::now();
        }
    }
    Ok(())
}

/// Waits until no daemon works on what came before: the next change has the machine to itself.
fn settle(beds: &[Bed]) -> Result<()> {
    let used = || beds.iter().map(Bed::cpu).sum::<Result<f64>>();
    let began = Instant::now();
    loop {
        let before = used()?;
        sleep(LOOK);
        if used()? - before < QUIET * LOOK.as_secs_f64() {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the daemons do not come to rest after a change");
    }
}
