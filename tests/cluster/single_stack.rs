//! Clusters of their own: single stack, and the test bed's proof without weft.

use anyhow::{Result, ensure};
use weft_tests::echo;
use weft_tests::plan::Family;

use crate::fixture::{Network, start};
use crate::pods::each_way;

/// A case that starts its own cluster: its name as a sentence, and its code.
type OwnCase = (&'static str, fn() -> Result<()>);

pub(crate) const CASES: &[OwnCase] =
    &[("an_ipv6_cluster_works", ipv6), ("the_test_bed_works_with_debians_ptp_plugin", ptp)];

fn ipv6() -> Result<()> {
    talk(Network::from_environment(), Family::Ipv6)
}

fn ptp() -> Result<()> {
    talk(Network::Ptp, Family::Ipv4)
}

fn talk(network: Network, family: Family) -> Result<()> {
    let cluster = start(network, family)?;
    let pods = echo::pods(&cluster)?;
    let mut count = 0;
    for (from, to, address) in each_way(&pods) {
        ensure!(family.has(address), "{} has the address {address}", to.name);
        let answer = cluster.exec(&from.name, echo::ask(address, "hostname"))?;
        ensure!(answer == to.name, "{address} answered {answer}, not {}", to.name);
        count += 1;
    }
    ensure!(count == 2, "two Pods with an address each are two ways, not {count}");
    Ok(())
}
