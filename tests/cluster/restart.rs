//! Programs of a node that are killed, and started again as a service manager does: with the same words, into the same log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::node::Node;
use weft_tests::wait;

const LIMIT: Duration = Duration::from_secs(30);

/// A program that is not running, and how to start it.
pub(crate) struct Killed<'a> {
    node: &'a Node,
    program: &'static str,
    /// A folder of the node that holds its words, its environment and its log.
    kept: String,
}

/// Kills a program of a node.
pub(crate) fn kill<'a>(node: &'a Node, program: &'static str) -> Result<Killed<'a>> {
    let pid = node.run(["pgrep", "--exact", program])?.trim().to_owned();
    let kept = format!("/run/killed-{program}");
    // Its log is a file of the host; a process that keeps it open is the node's way to it. It is opened before anything is killed.
    let keep = format!(
        "rm -rf {kept} && mkdir {kept} && cp /proc/{pid}/cmdline /proc/{pid}/environ {kept} && exec 3>>/proc/{pid}/fd/1 && \
         {{ setsid sleep 600 >&3 2>&1 </dev/null 3>&- & echo $! >{kept}/log; }} && kill -KILL {pid}"
    );
    node.run(["sh", "-c", &keep])?;
    wait::until(LIMIT, "a killed process to end", || {
        let still = node.run(["sh", "-c", &format!("test -e /proc/{pid} && echo yes || true")])?;
        ensure!(still.is_empty(), "{program} still runs on {}", node.name());
        Ok(())
    })?;
    Ok(Killed { node, program, kept })
}

impl Killed<'_> {
    /// Starts it again.
    pub(crate) fn start(self) -> Result<()> {
        let Self { node, program, kept } = self;
        // Whoever starts it ends, so that it belongs to the node's first process. What ends by itself is started again, as kubelet
        // does while containerd is not ready; xargs then answers 123, and something else where the program was killed.
        let start = format!(
            "keeper=$(cat {kept}/log); \
             xargs -0 -a {kept}/environ sh -c 'until xargs -0 -a {kept}/cmdline setsid env -i \"$@\"; [ $? -ne 123 ]; do sleep 0.2; done' sh \
             >>/proc/$keeper/fd/1 2>&1 </dev/null & \
             until pgrep --exact {program} >/dev/null; do sleep 0.05; done; kill $keeper"
        );
        node.run(["timeout", "20", "bash", "-c", &start]).map(drop).with_context(|| format!("{program} did not start"))
    }
}
