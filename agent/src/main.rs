//! The weft agent: one process a node. Everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use tracing::error;
use weft_agent::config::{Command, CommandLine};
use weft_agent::{app, bootstrap, logging, memory};

fn main() -> ExitCode {
    memory::share_one_heap();
    let command_line = CommandLine::parse();
    logging::start(command_line.log_format);
    match run(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(reason = format!("{error:#}"), "ended by an error");
            ExitCode::FAILURE
        }
    }
}

fn run(command_line: CommandLine) -> anyhow::Result<()> {
    match (command_line.command, command_line.agent) {
        (Some(Command::Bootstrap(arguments)), _) => {
            Ok(bootstrap::run(&arguments.host_root, &arguments.kubeconfigs, &arguments.output)?)
        }
        (None, Some(config)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(app::run(config));
            // Nothing that still runs may hold up the end.
            runtime.shutdown_background();
            ended
        }
        (None, None) => anyhow::bail!("--node-name (NODE_NAME) is not set: name this node's Node object"),
    }
}
