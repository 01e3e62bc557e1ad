//! Real clusters with weft as their network, and what must work in them.
//!
//! All cases of a topology share one cluster, one after the other. It starts with the first case that is asked for, it is taken down
//! whatever happens, and its logs are kept when a case fails. `WEFT_TEST_NETWORK=ptp` runs the cases that any Pod network must pass
//! against Debian's ptp plugin: it tells faults of the test bed from ours.

mod agent;
mod api_server;
mod churn;
mod fast_path;
mod fixture;
mod host;
mod ipv6_alone;
mod kubelet;
mod large;
mod leavings;
mod names;
mod nodes;
mod pods;
mod rbac;
mod reboot;
mod restart;
mod runtimes;
mod services;
mod services_bed;
mod services_outside;
mod services_policy;
mod survival;
mod survival_agent;
mod survival_runtime;
mod test_bed;
mod topology;
mod twofold;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use fixture::{Fixture, Network};
use topology::Topology;

/// A case of a shared cluster: its name as a sentence, and its code.
type Case = (&'static str, fn(&Fixture) -> Result<()>);

fn main() -> ExitCode {
    if let Some(code) = weft_tests::reexec::run_if_asked() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // They share clusters, and some of them take parts of these away.
    arguments.test_threads = Some(1);
    let network = Network::from_environment();
    let mut trials: Vec<Trial> = Topology::ALL.into_iter().flat_map(|topology| topology.trials(network)).collect();
    trials.extend(test_bed::CASES.iter().map(|(name, case)| Trial::test(*name, move || outcome(case()))));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn outcome(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}
