//! The commands of weft's contributors: `cargo xtask --help`.

mod bench;
mod build;
mod conformance;
mod demo;
mod fuzz;
mod image;
mod kubectl;
mod licenses;
mod logs;
mod node;
mod progress;
mod setup;
mod test;
mod tree;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Build, try and test weft.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring this machine to where everything works: packages, eBPF toolchain, Kubernetes. The other commands do it when needed
    Setup,
    /// Start a real Kubernetes cluster in namespaces, with weft as its network, and show Pods that talk across its nodes
    Demo(demo::Arguments),
    /// Run kubectl against the demo's cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl gets
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a command on a node of the demo's cluster: `node 1 -- ip route`
    Node {
        /// Number or name of the node
        node: String,
        /// The command; a shell without one
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// List the logs of the demo's cluster, or print one: `logs node1/kubelet`
    Logs {
        /// Which log
        name: Option<String>,
    },
    /// Build weft's container image, an OCI layout in a tar archive
    Image,
    /// Measure weft beside its peers in one run: `bench cni --rounds 100`
    #[command(disable_help_flag = true)]
    Bench {
        /// What to measure, and how: `bench --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Feed the parsers, and the plugin as a whole, with made-up input: `fuzz plugin --seconds 600`
    Fuzz(fuzz::Arguments),
    /// Run the Kubernetes project's own suite against weft, in a cluster of its own: `conformance --focus 'session affinity'`
    Conformance(conformance::Arguments),
    /// Check format and lints and run every test
    Test(test::Arguments),
}

fn main() -> ExitCode {
    if let Some(code) = weft_tests::reexec::run_if_asked() {
        return code;
    }
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => setup::command().map(|()| ExitCode::SUCCESS),
        Verb::Demo(arguments) => demo::command(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Kubectl { arguments } => kubectl::command(&arguments),
        Verb::Node { node, command } => node::command(&node, &command),
        Verb::Logs { name } => logs::command(name.as_deref()).map(|()| ExitCode::SUCCESS),
        Verb::Bench { arguments } => bench::command(&arguments),
        Verb::Image => image::command().map(|()| ExitCode::SUCCESS),
        Verb::Conformance(arguments) => conformance::command(&arguments),
        Verb::Fuzz(arguments) => fuzz::command(&arguments),
        Verb::Test(arguments) => test::command(&arguments),
    }
}
