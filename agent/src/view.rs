//! What every server of the agent may look at: snapshots of the loop and of the watch. Nobody writes through it.

use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::time::Instant;
use weft_common::layout::LAYOUT_VERSION;

use crate::datapath::maps::{Maps, MapsError};
use crate::datapath::requirements::Requirements;
use crate::kubernetes::watch::ApiServer;
use crate::model::problem::Problem;
use crate::overlay::driver::Snapshot;
use crate::readiness;
use crate::report::{self, ApiServerStatus, DropsReport, KernelStatus, Source, Status};

/// The agent as others see it.
#[derive(Clone, Debug)]
pub struct View {
    /// Our Node's name.
    pub node: String,
    /// Folder of maps and programs.
    pub pin_directory: PathBuf,
    /// What the kernel lacks.
    pub requirements: Requirements,
    /// The reconcile loop.
    pub overlay: watch::Receiver<Snapshot>,
    /// The API server.
    pub api_server: watch::Receiver<ApiServer>,
}

impl View {
    /// Why this node is not ready.
    pub fn reasons(&self) -> Vec<Problem> {
        readiness::reasons(&self.overlay.borrow(), &self.node)
    }

    /// The API server, as data for people and programs.
    pub fn api_server_status(&self) -> ApiServerStatus {
        let server = self.api_server.borrow();
        ApiServerStatus {
            address: server.address.clone(),
            source: server.source.clone(),
            connected: server.connected,
            last_error: server.last_error.clone().filter(|_| !server.connected),
            sync_age_seconds: server.heard.map(age_seconds),
            list_age_seconds: server.listed.map(age_seconds),
        }
    }

    /// `weft status`.
    pub fn status(&self) -> Status {
        let snapshot = self.overlay.borrow().clone();
        let reasons = readiness::reasons(&snapshot, &self.node);
        let mut problems = readiness::other_problems(&snapshot);
        let drops = self.drops().unwrap_or_else(|error| {
            problems.push(Problem::new("map DROPS", error.to_string(), "see the message"));
            DropsReport { source: Source::Agent, problems: Vec::new(), map_id: 0, drops: Vec::new() }
        });
        let comparison = snapshot.pass.as_ref().and_then(|pass| pass.comparison.as_ref().ok().cloned());
        let own = snapshot.cluster.as_ref().and_then(|cluster| cluster.nodes.get(&self.node));
        Status {
            source: Source::Agent,
            healthy: reasons.is_empty(),
            reasons,
            problems,
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_server: Some(self.api_server_status()),
            kernel: kernel_status(&self.requirements),
            layout: LAYOUT_VERSION,
            pod_cidrs: own.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            internal_ips: own.map(|node| node.internal_ips.clone()).unwrap_or_default(),
            pod_mtu_bytes: comparison
                .as_ref()
                .and_then(|comparison| comparison.desired.device.as_ref())
                .map(|device| device.mtu),
            underlay: comparison.map(|comparison| comparison.underlay.clone()),
            sync_age_seconds: snapshot.in_sync.map(age_seconds),
            drops: drops.drops,
        }
    }

    /// `weft drops`. `weft status` shows the same counters.
    pub fn drops(&self) -> Result<DropsReport, MapsError> {
        drops(Source::Agent, &self.pin_directory, Vec::new())
    }
}

/// The counters of dropped packets, as data for people and programs.
pub fn drops(source: Source, pin_directory: &Path, problems: Vec<Problem>) -> Result<DropsReport, MapsError> {
    let (map_id, counters) = Maps::open(pin_directory)?.numbered_drops()?;
    Ok(DropsReport { source, problems, map_id, drops: report::drops(&counters) })
}

/// The kernel of this node, as data for people and programs.
pub fn kernel_status(requirements: &Requirements) -> KernelStatus {
    KernelStatus {
        release: requirements.release().to_owned(),
        missing: requirements.missing().iter().map(ToString::to_string).collect(),
    }
}

/// Seconds since then, to the millisecond.
pub fn age_seconds(then: Instant) -> f64 {
    (then.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}
