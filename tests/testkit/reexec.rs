//! The test bed's own programs: this very executable, called again with a hidden first argument.

use std::env;
use std::io::Read;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::{leftovers, node_init, process};

const NODE_INIT: &str = "weft-node-init";
const JANITOR: &str = "weft-janitor";

static MAIN_ASKS: AtomicBool = AtomicBool::new(false);

/// Must be the first thing in `main` of every program that starts clusters. An answer is the exit code of a hidden program.
pub fn run_if_asked() -> Option<ExitCode> {
    MAIN_ASKS.store(true, Ordering::Relaxed);
    let mut arguments = env::args().skip(1);
    let result = match arguments.next()?.as_str() {
        NODE_INIT => node_init::main(arguments),
        JANITOR => janitor(arguments),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    })
}

/// The command of a node's pid 1, see [`node_init`].
pub(crate) fn node_init() -> Result<Command> {
    hidden(NODE_INIT)
}

/// Starts the process that removes an instance when its owner ends, however that happens. It waits for the end of the answer.
/// Programs that do not ask for hidden ones have none: what a crash of theirs leaves goes with the next start.
pub(crate) fn start_janitor(id: &str) -> Result<Option<ChildStdin>> {
    if !MAIN_ASKS.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let mut command = hidden(JANITOR)?;
    command.arg(id).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    process::leave_terminal(&mut command);
    let mut janitor = command.spawn().context("cannot start the janitor of the test bed")?;
    Ok(janitor.stdin.take())
}

fn janitor(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let id = arguments.next().context("the janitor needs an id")?;
    // Nothing is ever written: the read ends when the owner has gone.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    leftovers::remove_unless_kept(&id)
}

fn hidden(name: &str) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program's own file")?);
    command.arg(name);
    Ok(command)
}
