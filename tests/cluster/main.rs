//! A real cluster with weft as its network, and what must work in it.
//!
//! One cluster serves all cases, one after the other; it is taken down whatever happens, and its logs are kept when a case fails.
//! `WEFT_TEST_NETWORK=ptp` runs the cases that any Pod network must pass against Debian's ptp plugin: it tells faults of the test
//! bed from ours.

mod agent;
mod churn;
mod fixture;
mod host;
mod kubelet;
mod large;
mod leavings;
mod nodes;
mod pods;
mod rbac;
mod restart;
mod single_stack;
mod survival;
mod survival_agent;
mod survival_runtime;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow};
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
    let shared = Shared { network, fixture: Arc::new(OnceLock::new()) };
    let mut trials: Vec<Trial> = cases(network).into_iter().map(|case| trial(case, shared.clone())).collect();
    trials.extend(single_stack::CASES.iter().map(|(name, case)| Trial::test(*name, move || outcome(case()))));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(fixture)) = shared.fixture.get()
        && conclusion.has_failed()
    {
        fixture.keep_logs();
    }
    // Here the cluster goes.
    drop(shared);
    conclusion.exit_code()
}

/// The cluster that the cases share. The first one that needs it starts it.
#[derive(Clone)]
struct Shared {
    network: Network,
    fixture: Arc<OnceLock<Result<Fixture, String>>>,
}

impl Shared {
    fn fixture(&self) -> Result<&Fixture> {
        let started = self.fixture.get_or_init(|| Fixture::start(self.network).map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|reason| anyhow!("the cluster did not start: {reason}"))
    }
}

/// The cases in their order: those that change the cluster come last.
fn cases(network: Network) -> Vec<Case> {
    let any = [pods::CASES, large::CASES, host::CASES, kubelet::CASES, nodes::CASES].concat();
    match network {
        Network::Ptp => any,
        Network::Weft => {
            [&any, agent::CASES, rbac::CASES, survival_agent::CASES, survival_runtime::CASES, churn::CASES].concat()
        }
    }
}

fn trial((name, case): Case, shared: Shared) -> Trial {
    Trial::test(name, move || outcome(shared.fixture().and_then(case)))
}

fn outcome(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}
