//! Every figure that weft publishes, with its peers measured in the same run: rounds interleaved, medians and ratios printed.

mod agent;
mod api_server;
mod bars;
mod cni;
mod cpu;
mod endurance;
mod json_file;
mod machine;
mod objects;
mod order;
mod own_process;
mod path;
mod pins;
mod plugins;
mod process;
mod sample;
mod services;
mod size;
mod tables;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_tests::plan::Family;
use weft_tests::reexec;

#[derive(Parser)]
#[command(name = "bench", about)]
struct Arguments {
    /// Folder of the release builds of weft's programs
    #[arg(long)]
    programs: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// ADD and DEL of weft-cni against ptp and bridge, both with host-local
    Cni {
        /// Rounds; in each, every plugin has its turn
        #[arg(long, default_value_t = 50)]
        rounds: usize,
        /// Calls at once in the second half of the measurement
        #[arg(long, default_value_t = 10)]
        at_once: usize,
        /// ADD and DEL of weft-cni alone at the end, to see whether they leave anything or become slower; 0 for none
        #[arg(long, default_value_t = 10_000)]
        endurance: usize,
        /// Address families of the pods
        #[arg(long, default_value = "dual")]
        family: Family,
        /// Also write all samples as JSON
        #[arg(long)]
        json: Option<PathBuf>,
        /// Print Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Round trips, streams and small packets between pods, against a veth pair, a bridge, the kernel's VXLAN and a network like flannel's
    Path(path::Options),
    /// Connections, requests and questions to Services, and what the daemon behind them costs, against kube-proxy
    Services(services::Options),
    /// Time, memory, processor and writes that a large cluster costs the agent of a node
    Size(size::Options),
}

fn main() -> ExitCode {
    // This program is its own client and server, and its own janitor.
    let asked = path::serve::run_if_asked().or_else(services::ends::run_if_asked);
    if let Some(code) = asked.or_else(reexec::run_if_asked) {
        return code;
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { programs, what } = arguments;
    let weft = programs.join("weft-cni");
    match what {
        What::Cni { rounds, at_once, endurance, family, json, markdown } => {
            let counts = cni::Counts { rounds, at_once, endurance, markdown };
            cni::run(&counts, family, &weft, json.as_deref())
        }
        What::Path(options) => path::run(&options, &weft),
        What::Services(options) => services::run(&options, &programs),
        What::Size(options) => size::run(&options, &programs),
    }
}
