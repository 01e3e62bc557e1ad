//! Reads what `weft pods` tells of: the plugin's records, the pods' veths, the map ENDPOINTS. The agent and, while it is away, the
//! command do the same. What cannot be read is named, and the rest is told all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;
use weft_cni::{attachments, netns};
use weft_common::layout::program;

use crate::datapath::maps::Maps;
use crate::datapath::pod_interfaces;
use crate::datapath::programs::{PinnedProgram, ProgramsError};
use crate::model::problem::Problem;
use crate::report::{self, Evidence, PodsReport, Records, Source};

/// What is there now. `problems` are what the caller knows already.
pub async fn report(
    source: Source,
    pin_directory: &Path,
    state_directory: &Path,
    mut problems: Vec<Problem>,
) -> PodsReport {
    let Some(before) = seen("attachments", records(state_directory).await, &mut problems) else {
        return PodsReport { source, problems, pods: Vec::new() };
    };
    let programs = seen("programs", pinned(pin_directory), &mut problems);
    let interfaces = pod_interfaces::list(programs.as_ref().unwrap_or(&BTreeMap::new())).await;
    let interfaces = seen("devices", interfaces, &mut problems);
    let endpoints = Maps::open(pin_directory).and_then(|maps| maps.endpoints());
    let endpoints = seen("map ENDPOINTS", endpoints, &mut problems);
    let Some(after) = seen("attachments", records(state_directory).await, &mut problems) else {
        return PodsReport { source, problems, pods: Vec::new() };
    };
    // The agent's container may not show the folder at all: that says nothing of what is in it.
    let is_shown = |netns: &&PathBuf| netns.parent().is_some_and(Path::exists);
    let namespaces = after.whole.values().map(|record| &record.netns).filter(is_shown);
    let gone_namespaces: BTreeSet<_> = namespaces.filter(|netns| netns::is_gone(netns)).cloned().collect();
    let evidence =
        Evidence { before, after, interfaces, programs_known: programs.is_some(), endpoints, gone_namespaces };
    report::pods(source, &evidence, problems)
}

/// What was read; where it could not be, that is a problem.
fn seen<T, E: Display>(object: &str, read: Result<T, E>, problems: &mut Vec<Problem>) -> Option<T> {
    let problem = |error: E| {
        problems.push(Problem::new(object, error.to_string(), "see the reason; what depends on it is left out here"));
    };
    read.map_err(problem).ok()
}

fn pinned(pin_directory: &Path) -> Result<BTreeMap<&'static str, PinnedProgram>, ProgramsError> {
    program::ALL.into_iter().map(|name| Ok((name, PinnedProgram::open(pin_directory, name)?))).collect()
}

/// Hundreds of small files: not on the thread that the agent's loop runs on.
async fn records(state_directory: &Path) -> Result<Records, io::Error> {
    let state_directory = state_directory.to_owned();
    let read = spawn_blocking(move || read_records(&state_directory)).await;
    read.map_err(io::Error::other)?.map_err(io::Error::other)
}

fn read_records(state_directory: &Path) -> Result<Records, attachments::Error> {
    let mut records = Records::default();
    // The marks first: an ADD that ends meanwhile is found as a record, and only as that.
    let unfinished = attachments::unfinished(state_directory)?;
    for id in attachments::recorded(state_directory)? {
        match attachments::read(state_directory, &id) {
            Ok(Some(record)) => drop(records.whole.insert(id, record)),
            // DEL was faster.
            Ok(None) => {}
            Err(error) => drop(records.damaged.insert(id, error.to_string())),
        }
    }
    let is_open = |id: &_| !records.whole.contains_key(id) && !records.damaged.contains_key(id);
    records.unfinished = unfinished.into_iter().filter(is_open).collect();
    Ok(records)
}
