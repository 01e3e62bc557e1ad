//! `weft`: what the operators of a node ask. The agent answers over its unix socket; while it is away, the pinned maps, the state
//! directory and the kernel do.

mod ask;
mod nodes;
mod routes;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use weft_agent::config::STATE_DIRECTORY;
use weft_agent::offline::Offline;
use weft_common::layout::PIN_DIRECTORY;

use crate::ask::Answer;

/// The network of this Kubernetes node, as weft sees it.
#[derive(Parser)]
#[command(name = "weft", version)]
struct Arguments {
    #[command(subcommand)]
    question: Question,
    /// A table for people, or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
    /// Folder of the agent's socket and of what the plugin stores
    #[arg(long, global = true, default_value = STATE_DIRECTORY)]
    state_directory: PathBuf,
    /// Folder of the pinned maps
    #[arg(long, global = true, default_value = PIN_DIRECTORY)]
    pin_directory: PathBuf,
}

#[derive(Clone, Copy, Subcommand)]
enum Question {
    /// Healthy or not, why, and what to do (exit code 1 when not healthy)
    Status,
    /// Every node: its addresses, its podCIDRs, and whether this node can reach it
    Nodes,
    /// What routes should be there beside what the kernel has
    Routes,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// Exit code when there is no answer at all. 1 is for an answer that is bad news.
const NO_ANSWER: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match answer(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

async fn answer(arguments: &Arguments) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let text = match arguments.question {
        Question::Status => {
            let status = match ask::agent(&arguments.state_directory, "/status").await? {
                Answer::Agent(status) => status,
                Answer::Away => offline(arguments).await?.status()?,
            };
            if !status.healthy {
                code = ExitCode::FAILURE;
            }
            render(arguments.output, &status, status::text)?
        }
        Question::Nodes => {
            let report = match ask::agent(&arguments.state_directory, "/nodes").await? {
                Answer::Agent(report) => report,
                Answer::Away => offline(arguments).await?.nodes(),
            };
            render(arguments.output, &report, nodes::text)?
        }
        Question::Routes => {
            let report = match ask::agent(&arguments.state_directory, "/routes").await? {
                Answer::Agent(report) => report,
                Answer::Away => offline(arguments).await?.routes(),
            };
            render(arguments.output, &report, routes::text)?
        }
    };
    print!("{text}");
    Ok(code)
}

async fn offline(arguments: &Arguments) -> Result<Offline> {
    Ok(Offline::read(&arguments.pin_directory, &arguments.state_directory).await?)
}

fn render<T: Serialize>(output: Output, report: &T, text: impl FnOnce(&T) -> String) -> Result<String> {
    Ok(match output {
        Output::Table => text(report),
        Output::Json => serde_json::to_string_pretty(report)? + "\n",
    })
}
