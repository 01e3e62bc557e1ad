//! The kinds of clusters that cases run on, and which cases run on which.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow};
use libtest_mimic::Trial;
use weft_tests::containerd::Containerd;
use weft_tests::owned_cluster::Options;
use weft_tests::plan::Family;
use weft_tests::wiring::Wiring;

use crate::fixture::{Fixture, Network};
use crate::{
    Case, agent, api_server, churn, fast_path, host, ipv6_alone, kubelet, large, names, nodes, outcome, pods, rbac,
    reboot, runtimes, services, services_outside, services_policy, survival_agent, survival_runtime, twofold,
};

/// A kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    /// Two nodes with both families, one device each, and Debian's containerd. What depends on none of these runs here alone.
    Common,
    /// Two nodes with IPv6 and nothing else.
    Ipv6Alone,
    /// Three nodes with two devices and two addresses of each family on each device. The first runs Debian's containerd, the
    /// others containerd 2, with either way to set up `lo`.
    Twofold,
}

impl Topology {
    pub(crate) const ALL: [Self; 3] = [Self::Common, Self::Ipv6Alone, Self::Twofold];

    /// What a cluster of this kind starts with.
    pub(crate) fn options(self) -> Options {
        match self {
            Self::Common => Options::new(2, Family::Dual),
            Self::Ipv6Alone => Options { log: "cluster-ipv6", ..Options::new(2, Family::Ipv6) },
            Self::Twofold => Options {
                log: "cluster-twofold",
                wiring: Wiring::Twofold,
                containerd: Box::new(|number| match number {
                    1 => Containerd::One,
                    number => Containerd::Two { internal_loopback: number == 3 },
                }),
                ..Options::new(3, Family::Dual)
            },
        }
    }

    /// What the names of its cases begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Common => "",
            Self::Ipv6Alone => "ipv6_alone::",
            Self::Twofold => "twofold_nodes::",
        }
    }

    /// Its cases in their order: those that change the cluster come last.
    fn cases(self, network: Network) -> Vec<Case> {
        // What any Pod network must pass on any cluster.
        let mut cases =
            [pods::CASES, services::EVERYWHERE, large::PACKETS, host::CASES, kubelet::EXEC_AND_LOGS].concat();
        cases.extend(match self {
            Self::Common => [
                services::CASES,
                services_policy::CASES,
                services_outside::CASES,
                names::CASES,
                large::STREAMS,
                kubelet::PROBES,
                nodes::CASES,
            ]
            .concat(),
            Self::Ipv6Alone => ipv6_alone::CASES.to_vec(),
            Self::Twofold => twofold::ANY_NETWORK.to_vec(),
        });
        if network == Network::Weft {
            cases.extend(agent::REPORTS);
            cases.extend(fast_path::CASES);
            cases.extend(match self {
                Self::Common => [
                    services_policy::WEFT,
                    services_outside::WEFT,
                    agent::CASES,
                    rbac::CASES,
                    survival_agent::CASES,
                    survival_runtime::CASES,
                    api_server::CASES,
                    churn::CASES,
                    reboot::CASES,
                ]
                .concat(),
                Self::Ipv6Alone => Vec::new(),
                Self::Twofold => [twofold::CASES, runtimes::CASES].concat(),
            });
        }
        cases
    }

    /// Its cases as trials that share one cluster, which the first of them starts and the last one ends.
    pub(crate) fn trials(self, network: Network) -> Vec<Trial> {
        let shared =
            Arc::new(Shared { topology: self, network, fixture: OnceLock::new(), failed: AtomicBool::new(false) });
        let trial = |(name, case): Case| {
            let shared = Arc::clone(&shared);
            Trial::test(format!("{}{name}", self.prefix()), move || outcome(shared.run(case)))
        };
        self.cases(network).into_iter().map(trial).collect()
    }
}

/// The cluster that the cases of a topology share.
struct Shared {
    topology: Topology,
    network: Network,
    fixture: OnceLock<Result<Fixture, String>>,
    /// Whether a case did not come to a good end, by an error or by a panic.
    failed: AtomicBool,
}

impl Shared {
    fn run(&self, case: fn(&Fixture) -> Result<()>) -> Result<()> {
        let start = || Fixture::start(self.network, self.topology).map_err(|error| format!("{error:#}"));
        let started = self.fixture.get_or_init(start);
        let fixture = started.as_ref().map_err(|reason| anyhow!("the cluster did not start: {reason}"))?;
        let failed_before = self.failed.swap(true, Ordering::Relaxed);
        case(fixture)?;
        self.failed.store(failed_before, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // After this the cluster goes, and its logs with it.
        if let Some(Ok(fixture)) = self.fixture.get()
            && self.failed.load(Ordering::Relaxed)
        {
            fixture.keep_logs();
        }
    }
}
