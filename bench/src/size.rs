//! `bench size`: what a large cluster costs a node's agent: time, memory, processor, writes to maps.

pub(crate) mod maps;
mod node;
mod report;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use weft_tests::instance::Instance;

use crate::api_server::{CIDRS, NODES, SERVICES, SLICES, Server};
use crate::json_file;
use crate::machine;
use crate::objects::{self, NAMESPACE, Size};
use crate::pins::mount_bpffs;
use crate::process::Usage;
use crate::sample::Samples;
use maps::Maps;
use node::Node;

/// What is announced in metrics when writes succeed.
const WRITES: &str = "weft_service_writes_total{result=\"done\"}";

/// The command's options.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Services with ten endpoints each, one number a size
    #[arg(long, value_delimiter = ',', default_value = "500,10000")]
    services: Vec<u32>,
    /// Nodes, one number a size
    #[arg(long, value_delimiter = ',', default_value = "50,1000")]
    nodes: Vec<u32>,
    /// Endpoints of one Service more
    #[arg(long, default_value_t = 1000)]
    large: u32,
    /// How often each size is built up, from an empty node
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds without any change, and seconds with fifty a second
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Also write all samples as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
}

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) machine: String,
    pub(crate) seconds: u64,
    pub(crate) sizes: Vec<Figures>,
}

/// What was measured at one size, a sample a round; of changes, a sample each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    pub(crate) nodes: u32,
    /// Endpoints of the largest Service.
    pub(crate) large: u32,
    /// MiB that the lists had.
    pub(crate) listed_mebibytes: Samples,
    /// Seconds from the start until the last page of the last list was sent.
    pub(crate) lists: Samples,
    /// Seconds from then until all was in the maps.
    pub(crate) load: Samples,
    /// Writes of the full load.
    pub(crate) load_writes: Samples,
    /// The longest that the agent took for an answer about its health meanwhile, in milliseconds.
    pub(crate) load_health: Samples,
    /// MiB after the load, and of these the process's own, and the most at any time.
    pub(crate) memory: Samples,
    pub(crate) own_memory: Samples,
    pub(crate) peak_memory: Samples,
    /// Seconds from the start of a second agent until it was ready; its writes; the same from the end of the lists on.
    pub(crate) restart: Samples,
    pub(crate) restart_after_lists: Samples,
    pub(crate) restart_writes: Samples,
    /// MiB after the restart, and the most at any time.
    pub(crate) restart_memory: Samples,
    pub(crate) restart_peak: Samples,
    /// Share of a CPU without and with changes, in percent.
    pub(crate) idle: Samples,
    pub(crate) busy: Samples,
    /// Changes a second that there were, and MiB after them.
    pub(crate) changes_a_second: Samples,
    pub(crate) busy_memory: Samples,
    /// Milliseconds from the API server's write of one endpoint's change until it was in the maps; writes of each.
    pub(crate) change: Samples,
    pub(crate) change_writes: Samples,
    /// The same of the largest Service.
    pub(crate) large_change: Samples,
    pub(crate) large_change_writes: Samples,
}

/// Measures, prints, and writes what was asked for.
pub(crate) fn run(options: &Options, programs: &Path) -> Result<()> {
    let mut record = Record { machine: machine::describe()?, seconds: options.seconds, sizes: Vec::new() };
    for (services, nodes) in options.services.iter().zip(&options.nodes) {
        let size = Size { services: *services, endpoints: 10, nodes: *nodes, large: options.large };
        let mut figures = Figures {
            services: size.all_services(),
            endpoints: size.all_endpoints(),
            nodes: size.nodes,
            large: size.large,
            ..Figures::default()
        };
        for round in 1..=options.rounds {
            eprintln!("{services} Services, {nodes} nodes: round {round} of {}", options.rounds);
            measure(&size, options, programs, &mut figures)?;
        }
        record.sizes.push(figures);
    }
    report::print(&record, options.markdown);
    if let Some(path) = &options.json {
        json_file::write(path, &record)?;
    }
    Ok(())
}

/// One round, on a node of its own.
fn measure(size: &Size, options: &Options, programs: &Path, figures: &mut Figures) -> Result<()> {
    let instance = Instance::of_this_process()?;
    let folder = instance.folder().join("size");
    std::fs::create_dir_all(&folder)?;
    let bpffs = mount_bpffs(&folder)?;
    let mut node = Node::new(programs, &folder, &bpffs)?;
    let outcome = measure_on(&mut node, size, options, figures);
    let stopped = node.agent.stop();
    outcome.with_context(|| node.agent.log())?;
    stopped?;
    // The maps go with their pins.
    std::fs::remove_dir_all(&folder)
        .or_else(|_| nix::mount::umount(&bpffs).map_err(Into::into).and_then(|()| std::fs::remove_dir_all(&folder)))?;
    Ok(())
}

fn measure_on(node: &mut Node, size: &Size, options: &Options, figures: &mut Figures) -> Result<()> {
    let address: SocketAddr = format!("{}:8080", node::SERVER).parse()?;
    let server = Server::start(&node.hub, address)?;
    fill(&server, size);

    // From nothing.
    let started = node.agent.start()?;
    let maps = Maps::open(&node.agent.pins)?;
    let (full, ready) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.agent.wait_until_ready());
        let full = maps.wait_until_full(size);
        (full, waiting.join())
    });
    let full = full?;
    let (_, longest) = ready.map_err(|_| anyhow::anyhow!("the thread that asks for health panicked"))??;
    let listed = server.all_listed().context("not everything was listed")?;
    figures.lists.push((listed - started).as_secs_f64());
    figures.load.push(full.saturating_duration_since(listed).as_secs_f64());
    figures.load_health.push(longest.as_secs_f64() * 1e3);
    figures.load_writes.push(node.agent.metric(WRITES)?);
    figures.listed_mebibytes.push(server.forget_lists() as f64 / 1024.0 / 1024.0);

    // What it costs to do nothing, the look at all maps once a minute included.
    sleep(Duration::from_secs(5));
    let idle = watched(node, options.seconds, || Ok(()))?;
    let usage = node.agent.usage()?;
    figures.idle.push(idle);
    figures.memory.push(usage.memory);
    figures.own_memory.push(usage.own_memory);
    figures.peak_memory.push(usage.peak);

    // One endpoint of one Service comes or goes, fifty times a second.
    let mut changes = Changes { server: &server, maps: &maps, size, short: HashSet::new() };
    let mut numbers = (0..size.services).cycle().step_by(7);
    let before = node.agent.metric(WRITES)?;
    let mut count = 0_u32;
    let began = Instant::now();
    let busy = watched(node, options.seconds, || {
        while began.elapsed() < Duration::from_secs(options.seconds) {
            sleep((Duration::from_millis(20) * count).saturating_sub(began.elapsed()));
            let number = numbers.next().unwrap_or_default();
            figures.change.push(changes.one(number, 0)?);
            count += 1;
        }
        Ok(())
    })?;
    figures.busy.push(busy);
    figures.changes_a_second.push(f64::from(count) / began.elapsed().as_secs_f64());
    figures.busy_memory.push(node.agent.usage()?.memory);
    sleep(Duration::from_secs(3));
    figures.change_writes.push((node.agent.metric(WRITES)? - before) / f64::from(count));

    // The same of the largest one.
    if size.large > 0 {
        let before = node.agent.metric(WRITES)?;
        const CHANGES: u32 = 50;
        for turn in 0..CHANGES {
            figures.large_change.push(changes.one(size.services, turn % size.slices_of(size.services))?);
            sleep(Duration::from_millis(50));
        }
        sleep(Duration::from_secs(3));
        figures.large_change_writes.push((node.agent.metric(WRITES)? - before) / f64::from(CHANGES));
    }

    // A second agent on the same maps.
    node.agent.stop()?;
    server.forget_lists();
    let started = node.agent.start()?;
    let (ready, _) = node.agent.wait_until_ready()?;
    let listed = server.all_listed().context("not everything was listed")?;
    figures.restart.push((ready - started).as_secs_f64());
    figures.restart_after_lists.push(ready.saturating_duration_since(listed).as_secs_f64());
    sleep(Duration::from_secs(3));
    figures.restart_writes.push(node.agent.metric(WRITES)?);
    let Usage { memory, peak, .. } = node.agent.usage()?;
    figures.restart_memory.push(memory);
    figures.restart_peak.push(peak);
    Ok(())
}

/// Does something for so many seconds, and gives the share of a CPU that the agent had meanwhile, in percent.
fn watched(node: &Node, seconds: u64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (began, before) = (Instant::now(), node.agent.usage()?.cpu);
    work()?;
    sleep(Duration::from_secs(seconds).saturating_sub(began.elapsed()));
    Ok((node.agent.usage()?.cpu - before) / began.elapsed().as_secs_f64() * 100.0)
}

/// Changes of endpoints, one after the other.
struct Changes<'a> {
    server: &'a Server,
    maps: &'a Maps,
    size: &'a Size,
    /// Slices whose first endpoint is not ready.
    short: HashSet<String>,
}

impl Changes<'_> {
    /// Has the first endpoint of a slice go, or come back where it is gone, and waits for it. Gives how many milliseconds that took.
    fn one(&mut self, number: u32, index: u32) -> Result<f64> {
        let now = self.maps.service(number).context("a Service is not in the maps")?.cluster.count;
        // Of the largest, slice after slice loses one, and then gets it back.
        let name = objects::slice_name(number, index);
        let all = !self.short.insert(name.clone());
        if all {
            self.short.remove(&name);
        }
        let expected = if all { now + 1 } else { now - 1 };
        let triggered = jiff::Timestamp::now().to_string();
        let slice = |version| objects::slice(self.size, number, index, all, version, &triggered);
        let began = self.server.change(SLICES, key(&name), slice);
        Ok((self.maps.wait_for_count(number, expected)? - began).as_secs_f64() * 1e3)
    }
}

fn key(name: &str) -> String {
    format!("{NAMESPACE}/{name}")
}

/// Makes all objects.
fn fill(server: &Server, size: &Size) {
    for number in 0..size.nodes {
        server.add(NODES, objects::node_name(number), |version| objects::node(number, version));
    }
    for number in 0..size.all_services() {
        server.add(SERVICES, key(&objects::service_name(number)), |version| objects::service(number, version));
        for index in 0..size.slices_of(number) {
            let slice = |version| objects::slice(size, number, index, true, version, "2026-11-02T09:14:51Z");
            server.add(SLICES, key(&objects::slice_name(number, index)), slice);
        }
    }
    server.add(CIDRS, "kubernetes".to_owned(), objects::service_cidr);
}
