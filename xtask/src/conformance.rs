//! `cargo xtask conformance`: the Kubernetes project's own suite against weft, in a cluster that is made for it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use nix::unistd::Uid;
use weft_tests::cache;
use weft_tests::e2e::{self, Choice, Event, Outcome, Spec};
use weft_tests::network::Network;
use weft_tests::owned_cluster::Options;
use weft_tests::plan::Family;

use crate::progress::Progress;
use crate::{image, setup, tree};

/// The folder in the cache's `log` that keeps what the suite wrote; the logs of the cluster are beside it.
const LOG: &str = "conformance";
const CLUSTER_LOG: &str = "conformance-cluster";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run the specs whose names match. Without it all of [sig-network] [Conformance] but those in tests/e2e/later.txt
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// Leave out those that match
    #[arg(long, value_name = "REGEX")]
    skip: Option<String>,
    /// Address families of nodes, Pods and Services: ipv4, ipv6 or dual
    #[arg(long, default_value_t = Family::Ipv4)]
    family: Family,
}

/// How many specs ended in which way.
#[derive(Debug, Default)]
struct Count {
    all: usize,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

/// The command itself.
pub(crate) fn command(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(Uid::effective().is_root(), "clusters are made of namespaces, which needs root: use sudo");
    let network = Network::from_environment();
    let mut progress = Progress::new();
    setup::run(&mut progress)?;
    if network == Network::Weft {
        image::build(&mut progress)?;
    }
    let cluster = progress.stage(&format!("cluster of 2 nodes ({})", arguments.family), |detail| {
        let detail = detail.clone();
        let progress: Box<dyn Fn(&str)> = Box::new(move |text| detail.say(text));
        let options = Options { log: CLUSTER_LOG, progress, ..Options::new(2, arguments.family) };
        e2e::start(network, &tree::top(), options)
    })?;
    let folder: PathBuf = cache::folder().join("log").join(LOG);
    let mut count = Count::default();
    let result = e2e::run(&cluster, &choice(arguments), &folder, |event| count.tell(event));
    let report = result.map_err(|error| cluster.with_logs(error))?;
    println!("\nJUnit: {}", report.display());
    println!("All that the suite wrote: {}", folder.display());
    let good = count.failed.is_empty() && count.passed > 0;
    if !good {
        println!("{:#}", cluster.with_logs(anyhow!("the cluster goes")));
        count.failed.iter().for_each(|name| println!("FAILED  {name}"));
    }
    let seconds = progress.elapsed().as_secs();
    println!("\n{} passed, {} failed, {} skipped ({seconds} s)", count.passed, count.failed.len(), count.skipped);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choice(arguments: &Arguments) -> Choice {
    let skip = arguments.skip.clone();
    match &arguments.focus {
        Some(focus) => Choice { focus: focus.clone(), skip: skip.unwrap_or_default() },
        None => {
            let later = Some(e2e::exactly(e2e::later())).filter(|later| !later.is_empty());
            let skip: Vec<String> = skip.into_iter().chain(later).collect();
            Choice { focus: e2e::NETWORK.to_owned(), skip: skip.join("|") }
        }
    }
}

impl Count {
    /// Prints a line for each spec when it ends.
    fn tell(&mut self, event: Event) {
        match event {
            Event::Begin(all) => {
                self.all = all;
                println!("\n{all} specs");
            }
            Event::End(spec) => self.add(spec),
        }
    }

    fn add(&mut self, Spec { name, outcome, seconds, message }: Spec) {
        let word = match outcome {
            Outcome::Passed => {
                self.passed += 1;
                "ok"
            }
            Outcome::Failed => {
                self.failed.push(name.clone());
                "FAILED"
            }
            Outcome::Skipped => {
                self.skipped += 1;
                "skipped"
            }
        };
        let done = self.passed + self.failed.len() + self.skipped;
        println!("{done:>3}/{} {word:<7} {seconds:>6.1} s  {name}", self.all);
        for line in message.lines() {
            println!("                          {line}");
        }
    }
}
