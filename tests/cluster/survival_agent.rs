//! The agents are killed again and again, at every moment of their lives. Traffic does not notice.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use weft_tests::node::Node;
use weft_tests::wait;

use crate::Case;
use crate::agent::{agents, picture};
use crate::fixture::Fixture;
use crate::survival::undisturbed;

pub(crate) const CASES: &[Case] =
    &[("agents_killed_every_second_lose_no_packet_reset_no_stream_and_change_no_route", killed_every_second)];

/// How often every agent is killed.
const KILLS: u32 = 12;
/// The first is killed when it has just begun; each next one lives so much longer.
const LONGER: Duration = Duration::from_millis(90);
const LIMIT: Duration = Duration::from_secs(60);

fn killed_every_second(fixture: &Fixture) -> Result<()> {
    undisturbed(fixture, |cluster| {
        let (before, began) = (picture(cluster)?, Instant::now());
        std::thread::scope(|scope| {
            let kill = |node| move || kill_again_and_again(node);
            let killers: Vec<_> = cluster.nodes().iter().map(|node| scope.spawn(kill(node))).collect();
            let ended = killers.into_iter().map(|killer| killer.join().map_err(|_| anyhow!("a killer panicked"))?);
            ended.collect::<Result<()>>()
        })?;
        eprintln!("survival: every agent was killed {KILLS} times in {:.1?}", began.elapsed());
        agents(cluster)?;
        let after = picture(cluster)?;
        ensure!(before == after, "the network of a node changed:\n{}\nis now\n{}", before.join("\n"), after.join("\n"));
        Ok(())
    })
}

/// Kills the agent of a node as soon as kubelet has started it again, a little later in its life each time.
fn kill_again_and_again(node: &Node) -> Result<()> {
    for kill in 0..KILLS {
        kill_agent(node, LONGER * kill)?;
    }
    Ok(())
}

/// Kills a node's agent when it is there and has lived so long, and waits until it is gone: else the next one that asks for its process
/// would find this one still.
pub(crate) fn kill_agent(node: &Node, alive: Duration) -> Result<()> {
    let pid = wait::until(LIMIT, "kubelet to start the agent", || agent_process(node))?;
    std::thread::sleep(alive);
    node.run(["kill", "-KILL", &pid])?;
    wait::until(LIMIT, "the agent to end", || {
        ensure!(agent_process(node).ok().as_ref() != Some(&pid), "{pid} is still there");
        Ok(())
    })
}

/// The process of a node's agent, as the node numbers it.
pub(crate) fn agent_process(node: &Node) -> Result<String> {
    Ok(node.run(["pgrep", "--exact", "weft-agent"])?.trim().to_owned())
}
