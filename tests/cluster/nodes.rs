//! Nodes come and go while the cluster runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::echo;
use weft_tests::wait;

use crate::Case;
use crate::fixture::{Fixture, Network, top};
use crate::pods::each_way;

pub(crate) const CASES: &[Case] = &[
    ("pods_of_a_node_that_joins_are_reached", join),
    ("a_node_that_left_is_forgotten_by_the_others", leave),
    ("a_node_that_comes_back_with_another_range_is_reached", come_back),
];

const NAME: &str = "node3";
const NUMBER: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);

fn add(fixture: &Fixture) -> Result<()> {
    let mut cluster = fixture.change()?;
    cluster.add_node(NUMBER)?;
    if fixture.network == Network::Ptp {
        fixture.network.install(&mut cluster, &top())?;
    }
    cluster.wait_for_nodes()
}

/// Every Pod of every node reaches every other one, as soon as all agents have heard of the node.
fn all_reach_all(fixture: &Fixture) -> Result<()> {
    let (cluster, pods) = (fixture.cluster()?, fixture.pods()?);
    ensure!(pods.len() == NUMBER, "{} Pods on {NUMBER} nodes", pods.len());
    for (from, to, address) in each_way(&pods) {
        let answer = wait::until(LIMIT, &format!("{} to reach {address}", from.name), || {
            cluster.exec(&from.name, echo::ask(address, "hostname"))
        })?;
        ensure!(answer == to.name, "{address} answered {answer}, not {}", to.name);
    }
    Ok(())
}

fn ranges(fixture: &Fixture) -> Result<Vec<String>> {
    let node = fixture.cluster()?.get(["node", NAME])?;
    let ranges = node["spec"]["podCIDRs"].as_array().context("the node has podCIDRs")?;
    Ok(ranges.iter().filter_map(|range| range.as_str()).map(String::from).collect())
}

fn join(fixture: &Fixture) -> Result<()> {
    add(fixture)?;
    all_reach_all(fixture)
}

fn leave(fixture: &Fixture) -> Result<()> {
    let gone = ranges(fixture)?;
    fixture.change()?.remove_node(NAME)?;
    if fixture.network == Network::Ptp {
        // Static routes stay.
        return Ok(());
    }
    let cluster = fixture.cluster()?;
    for node in cluster.nodes() {
        wait::until(LIMIT, "the routes of the node to go", || {
            let routes = node.run(["ip", "-4", "route"])? + &node.run(["ip", "-6", "route"])?;
            ensure!(!gone.iter().any(|range| routes.contains(range)), "{} still has {gone:?}:\n{routes}", node.name());
            Ok(())
        })?;
    }
    Ok(())
}

fn come_back(fixture: &Fixture) -> Result<()> {
    add(fixture)?;
    all_reach_all(fixture)?;
    fixture.change()?.remove_node(NAME)
}
