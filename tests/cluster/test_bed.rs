//! The test bed's proof without weft, on a cluster of its own.

use anyhow::{Result, ensure};
use weft_tests::echo;
use weft_tests::owned_cluster::Options;
use weft_tests::plan::Family;

use crate::fixture::{Network, start};
use crate::pods::each_way;

/// A case that starts its own cluster: its name as a sentence, and its code.
type OwnCase = (&'static str, fn() -> Result<()>);

pub(crate) const CASES: &[OwnCase] = &[("the_test_bed_works_with_debians_ptp_plugin", ptp)];

fn ptp() -> Result<()> {
    let cluster = start(Network::Ptp, Options { log: "cluster-ptp", ..Options::new(2, Family::Ipv4) })?;
    let pods = echo::pods(&cluster)?;
    let mut count = 0;
    for (from, to, address) in each_way(&pods) {
        ensure!(address.is_ipv4(), "{} has the address {address}", to.name);
        let answer = cluster.exec(&from.name, echo::ask(address, "hostname"))?;
        ensure!(answer == to.name, "{address} answered {answer}, not {}", to.name);
        count += 1;
    }
    ensure!(count == 2, "two Pods with an address each are two ways, not {count}");
    Ok(())
}
