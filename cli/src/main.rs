//! `weft`: what the operators of a node ask. The agent answers over its unix socket; while it is away, the pinned maps, the state
//! directory and the kernel do.

mod ask;
mod drops;
mod flow_lines;
mod flows;
mod nodes;
mod pods;
mod routes;
mod service_details;
mod services;
mod status;
mod table;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use weft_agent::config::{CGROUP_ROOT, STATE_DIRECTORY};
use weft_agent::offline::{self, Offline};
use weft_agent::program_costs;
use weft_agent::report::{self, DropsReport, PodsReport};
use weft_common::layout::PIN_DIRECTORY;

use crate::ask::Answer;

/// The network of this Kubernetes node, as weft sees it.
///
/// The agent of this node answers over its socket; while it is away, the command reads the pinned maps, the state directory and the
/// kernel itself, and says so. It needs root.
#[derive(Parser)]
#[command(name = "weft", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    question: Question,
    /// A table for people, one with more columns (pods), or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
    /// Folder of the agent's socket and of what the plugin stores
    #[arg(long, global = true, default_value = STATE_DIRECTORY)]
    state_directory: PathBuf,
    /// Folder of the pinned maps
    #[arg(long, global = true, default_value = PIN_DIRECTORY)]
    pin_directory: PathBuf,
    /// Where the node's control groups are mounted
    #[arg(long, global = true, default_value = CGROUP_ROOT)]
    cgroup_root: PathBuf,
}

#[derive(Subcommand)]
enum Question {
    /// Healthy or not, why, and what to do (exit code 1 when not healthy)
    Status {
        /// Has the kernel count the time in weft's programs for so many seconds, and tells what a packet cost in each
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        measure: Option<Duration>,
    },
    /// Every node: its addresses, its podCIDRs, and whether this node can reach it
    Nodes,
    /// What routes should be there beside what the kernel has
    Routes,
    /// The pods of this node: addresses, device, counters, and whether all of it is in order (exit code 1 when one is unknown)
    Pods {
        /// Only these: namespace/name, name, address, device on the host, or the beginning of a container id (12 characters)
        #[arg(value_name = "NAME-OR-ADDRESS")]
        names: Vec<String>,
    },
    /// Services: what clients may dial, and where they get; of one, every endpoint and why it is in or out (exit code 1 when it is unknown)
    Services {
        /// Only this one: namespace/name, name, or an address that clients dial (10.96.0.10, 10.96.0.10:53, [fd00::a]:53)
        #[arg(value_name = "NAME-OR-ADDRESS")]
        name: Option<String>,
    },
    /// Translated flows, sockets that were led to a backend, and where clients stay: whose they are, how far, for how long
    Flows {
        #[command(flatten)]
        words: flows::Words,
    },
    /// Packets that weft did not let through, by program and reason, and what to do
    Drops {
        /// From now on, a line for each counter that rose, every so many seconds (default 1), until Ctrl-C; -o json: one object a line
        #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
        watch: Option<Duration>,
    },
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Wide,
    Json,
}

/// Exit code when there is no answer at all. 1 is for an answer that is bad news.
const NO_ANSWER: u8 = 2;
/// The same for people.
const EXIT_CODES: &str = "Exit codes: 0 the answer; 1 bad news (status: not healthy; pods, services, flows: none or several of that name or address); 2 no answer.";

/// The seconds between two looks. More often than ten times a second would measure the looking.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no number of seconds between 0.1 and 86400");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.1..=86400.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

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
    let text = match &arguments.question {
        Question::Status { measure } => {
            let measured = match measure {
                Some(span) => Some(program_costs::measure(&arguments.pin_directory, *span).await?),
                None => None,
            };
            let mut status = match ask::agent(&arguments.state_directory, "/status").await? {
                Answer::Agent(status) => status,
                Answer::Away => offline(arguments).await?.status(&arguments.cgroup_root)?,
            };
            status.programs = measured.or(status.programs);
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
        Question::Pods { names } => {
            let report = match ask::agent(&arguments.state_directory, "/pods").await? {
                Answer::Agent(report) => report,
                Answer::Away => offline::pods(&arguments.pin_directory, &arguments.state_directory).await,
            };
            let PodsReport { source, problems, pods } = report;
            let (pods, unknown) = report::select(pods, names);
            for name in &unknown {
                eprintln!(
                    "weft: no pod of this node has the name, address, device or container id {name}. `weft pods` shows all; \
                     `kubectl get pods -A -o wide` shows who runs where (pods with hostNetwork have no interface of weft)"
                );
            }
            if !unknown.is_empty() {
                code = ExitCode::FAILURE;
            }
            // A heading without lines would say less than the sentence.
            if pods.is_empty() && !unknown.is_empty() && arguments.output != Output::Json {
                return Ok(code);
            }
            let wide = arguments.output == Output::Wide;
            render(arguments.output, &PodsReport { source, problems, pods }, |report| pods::text(report, wide))?
        }
        Question::Services { name: None } => {
            let report = match ask::agent(&arguments.state_directory, "/services").await? {
                Answer::Agent(report) => report,
                Answer::Away => offline::services(&arguments.pin_directory, None)?,
            };
            render(arguments.output, &report, services::text)?
        }
        Question::Services { name: Some(name) } => {
            let report = match ask::agent(&arguments.state_directory, &services::path(name)).await? {
                Answer::Agent(report) => report,
                Answer::Away => offline::services(&arguments.pin_directory, Some(name))?,
            };
            if let Some(wrong) = services::wrong(&report, name)? {
                eprintln!("weft: {wrong}");
                code = ExitCode::FAILURE;
                if arguments.output != Output::Json {
                    return Ok(code);
                }
            }
            render(arguments.output, &report, service_details::details)?
        }
        Question::Flows { words } => return flows::run(arguments, words).await,
        Question::Drops { watch: Some(period) } => {
            return watch::run(*period, arguments.output == Output::Json, || drops(arguments)).await;
        }
        Question::Drops { watch: None } => render(arguments.output, &drops(arguments).await?, drops::text)?,
    };
    // Whoever reads may have seen enough.
    watch::print(&text)?;
    Ok(code)
}

async fn drops(arguments: &Arguments) -> Result<DropsReport> {
    Ok(match ask::agent(&arguments.state_directory, "/drops").await? {
        Answer::Agent(report) => report,
        Answer::Away => offline::drops(&arguments.pin_directory)?,
    })
}

async fn offline(arguments: &Arguments) -> Result<Offline> {
    Ok(Offline::read(&arguments.pin_directory, &arguments.state_directory).await?)
}

fn render<T: Serialize>(output: Output, report: &T, text: impl FnOnce(&T) -> String) -> Result<String> {
    Ok(match output {
        Output::Table | Output::Wide => text(report),
        Output::Json => serde_json::to_string_pretty(report)? + "\n",
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn period(words: &[&str]) -> Result<Option<Duration>, String> {
        match Arguments::try_parse_from([&["weft", "drops"], words].concat()) {
            Ok(Arguments { question: Question::Drops { watch }, .. }) => Ok(watch),
            Ok(_) => panic!("it is weft drops"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_verb_in_one_line_and_the_exit_codes() {
        let help = Arguments::command().render_help().to_string();
        for verb in ["status", "nodes", "routes", "pods", "services", "flows", "drops"] {
            let lines: Vec<_> =
                help.lines().filter(|line| line.trim_start().starts_with(&format!("{verb} "))).collect();
            assert!(lines.len() == 1 && lines[0].len() > 30, "{verb} in\n{help}");
        }
        assert!(help.contains("Exit codes: 0 "), "{help}");
    }

    #[test]
    fn watch_takes_seconds_or_none() {
        assert_eq!(period(&[]), Ok(None));
        assert_eq!(period(&["--watch"]), Ok(Some(Duration::from_secs(1))));
        assert_eq!(period(&["-w", "2.5"]), Ok(Some(Duration::from_millis(2500))));
        assert_eq!(period(&["--watch=3", "-o", "json"]), Ok(Some(Duration::from_secs(3))));
        for wrong in ["0", "-1", "soon", "NaN", "inf"] {
            assert!(period(&[&format!("--watch={wrong}")]).unwrap_err().contains("between 0.1"), "{wrong}");
        }
    }
}
