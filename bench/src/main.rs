//! Every figure that weft publishes, with its peers measured in the same run: rounds interleaved, medians and ratios printed.

mod cni;
mod plugins;
mod sample;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about)]
struct Arguments {
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
        /// The release build of weft-cni
        #[arg(long)]
        plugin: PathBuf,
        /// Also write all samples as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Cni { rounds, at_once, plugin, json } => cni::run(rounds, at_once, &plugin, json.as_deref()),
    }
}
