//! A real cluster with weft as its network, and what must work in it.
//!
//! One cluster serves all cases, one after the other; it is taken down whatever happens, and its logs are kept when a case fails.
//! `WEFT_TEST_NETWORK=ptp` runs the cases that any Pod network must pass against Debian's ptp plugin: it tells faults of the test
//! bed from ours.

mod agent;
mod fixture;
mod host;
mod kubelet;
mod large;
mod nodes;
mod pods;
mod single_stack;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use fixture::{Fixture, Network};

/// A case of the shared cluster: its name as a sentence, and its code.
type Case = (&'static str, fn(&Fixture) -> Result<()>);

fn main() -> ExitCode {
    if let Some(code) = weft_tests::reexec::run_if_asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // They share one cluster, and some of them take parts of it away.
    arguments.test_threads = Some(1);
    let network = Network::from_environment();
    let cases = cases(network);
    let fixture = if arguments.list { None } else { start(network) };
    let mut trials: Vec<Trial> = cases.into_iter().map(|case| shared(case, fixture.clone())).collect();
    trials.extend(single_stack::CASES.iter().map(|(name, case)| Trial::test(*name, move || outcome(case()))));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.has_failed()
        && let Some(fixture) = &fixture
    {
        fixture.keep_logs();
    }
    // Here the cluster goes.
    drop(fixture);
    conclusion.exit_code()
}

/// The cases in their order: those that change the cluster come last.
fn cases(network: Network) -> Vec<Case> {
    let any = [pods::CASES, large::CASES, host::CASES, kubelet::CASES, nodes::CASES].concat();
    match network {
        Network::Ptp => any,
        Network::Weft => [any, agent::CASES.to_vec()].concat(),
    }
}

/// Without a cluster every case fails, and says why once.
fn start(network: Network) -> Option<Arc<Fixture>> {
    match Fixture::start(network) {
        Ok(fixture) => Some(Arc::new(fixture)),
        Err(error) => {
            eprintln!("the cluster does not start: {error:#}");
            None
        }
    }
}

fn shared((name, case): Case, fixture: Option<Arc<Fixture>>) -> Trial {
    Trial::test(name, move || {
        let fixture = fixture.ok_or_else(|| Failed::from("the cluster did not start"))?;
        outcome(case(&fixture))
    })
}

fn outcome(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}
