//! What every server of the agent may look at: snapshots of the loop and of the watch. Nobody writes through it.

use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_common::layout::LAYOUT_VERSION;

use crate::config::CGROUP_ROOT;
use crate::datapath::maps::{Maps, MapsError};
use crate::datapath::requirements::Requirements;
use crate::datapath::socket_links;
use crate::kubernetes::watch::ApiServer;
use crate::model::problem::Problem;
use crate::overlay::driver::Snapshot;
use crate::overlay::reconcile::Pass;
use crate::overlay::state::Change;
use crate::overlay::way::{FastPath, UnderlayDevice};
use crate::program_costs;
use crate::readiness;
use crate::report::{
    self, ApiServerStatus, DropsReport, FastPathSupport, KernelStatus, ServicesStatus, SocketsMode, Source, Status,
};
use crate::services;
use crate::services::snapshot::Question;

/// The agent as others see it.
#[derive(Clone, Debug)]
pub struct View {
    /// Our Node's name.
    pub node: String,
    /// Folder of maps and programs.
    pub pin_directory: PathBuf,
    /// What the kernel lacks.
    pub requirements: Requirements,
    /// Whether packets may go past `weft0`.
    pub fast_path: FastPath,
    /// The reconcile loop.
    pub overlay: watch::Receiver<Snapshot>,
    /// The API server.
    pub api_server: watch::Receiver<ApiServer>,
    /// Services.
    pub services: ServicesView,
}

/// Services as others see them.
#[derive(Clone, Debug)]
pub struct ServicesView {
    /// The loop.
    pub snapshot: watch::Receiver<services::snapshot::Snapshot>,
    /// For questions to it.
    pub questions: mpsc::Sender<Question>,
    /// Whose sockets get their backends when they dial.
    pub sockets: SocketsMode,
    /// Where the node's control groups are mounted.
    pub cgroup_root: PathBuf,
}

impl ServicesView {
    /// Before anything happened, and with nobody to answer questions.
    pub fn at_start() -> Self {
        Self {
            snapshot: watch::channel(services::snapshot::Snapshot::at_start()).1,
            questions: mpsc::channel(1).0,
            sockets: SocketsMode::All,
            cgroup_root: PathBuf::from(CGROUP_ROOT),
        }
    }

    /// `weft status` of Services.
    fn status(&self, pin_directory: &Path) -> ServicesStatus {
        let snapshot = self.snapshot.borrow().clone();
        let links = socket_links::read(pin_directory, &self.cgroup_root);
        ServicesStatus {
            sync_age_seconds: snapshot.synced.map(age_seconds),
            pending_seconds: snapshot.pending_since.map(age_seconds),
            ..ServicesStatus::new(Some(self.sockets), &links, snapshot.counts)
        }
    }
}

impl View {
    /// Why this node is not ready.
    pub fn reasons(&self) -> Vec<Problem> {
        let mut reasons = readiness::reasons(&self.overlay.borrow(), &self.node);
        // The API server that is away explains both.
        if self.overlay.borrow().cluster.is_some() {
            reasons.extend(readiness::services(&self.services.snapshot.borrow(), &self.api_server.borrow()));
        }
        reasons
    }

    /// What is wrong without making this node useless.
    fn other_problems(&self) -> Vec<Problem> {
        let mut problems = readiness::other_problems(&self.overlay.borrow());
        problems.extend(self.services.snapshot.borrow().problems.iter().cloned());
        problems.extend(self.api_server.borrow().problems().cloned());
        problems
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
        let (reasons, mut problems) = (self.reasons(), self.other_problems());
        let drops = self.drops().unwrap_or_else(|error| {
            problems.push(Problem::new("map DROPS", error.to_string(), "see the message"));
            let (source, problems, drops) = (Source::Agent, Vec::new(), Vec::new());
            DropsReport { source, problems, map_id: 0, socket_map_id: 0, drops }
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
            kernel: kernel_status(&self.requirements, FastPathSupport::of(&self.fast_path)),
            layout: LAYOUT_VERSION,
            pod_cidrs: own.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            internal_ips: own.map(|node| node.internal_ips.clone()).unwrap_or_default(),
            pod_mtu_bytes: comparison
                .as_ref()
                .and_then(|comparison| comparison.desired.device.as_ref())
                .map(|device| device.mtu),
            underlay_devices: snapshot.pass.as_deref().map(underlay_devices).unwrap_or_default(),
            peers: comparison.as_ref().map(|found| report::peers(&found.plan, &found.ways)).unwrap_or_default(),
            underlay: comparison.map(|comparison| comparison.underlay.clone()),
            sync_age_seconds: snapshot.in_sync.map(age_seconds),
            services: Some(self.services.status(&self.pin_directory)),
            programs: Some(program_costs::status(&self.pin_directory)),
            drops: drops.drops,
        }
    }

    /// `weft drops`. `weft status` shows the same counters.
    pub fn drops(&self) -> Result<DropsReport, MapsError> {
        drops(Source::Agent, &self.pin_directory, Vec::new())
    }
}

/// The devices below the overlay. Where the kernel refused our filter, it says so.
fn underlay_devices(pass: &Pass) -> Vec<UnderlayDevice> {
    let Ok(comparison) = &pass.comparison else { return Vec::new() };
    let mut devices = comparison.ways.devices.clone();
    for device in &mut devices {
        let filter = Change::SetUnderlayFilter(device.device.clone()).object();
        let refused = pass.failures.iter().find(|failure| failure.object == filter);
        device.receives_by_overlay =
            device.receives_by_overlay.take().or_else(|| refused.map(|failure| failure.reason.clone()));
    }
    devices
}

/// The counters of dropped packets, as data for people and programs.
pub fn drops(source: Source, pin_directory: &Path, problems: Vec<Problem>) -> Result<DropsReport, MapsError> {
    let counters = Maps::open(pin_directory)?.drop_counters()?;
    let drops = report::drops(&counters);
    Ok(DropsReport { source, problems, map_id: counters.map_id, socket_map_id: counters.socket_map_id, drops })
}

/// The kernel of this node, as data for people and programs.
pub fn kernel_status(requirements: &Requirements, fast_path: Option<FastPathSupport>) -> KernelStatus {
    KernelStatus {
        fast_path,
        release: requirements.release().to_owned(),
        missing: requirements.missing().iter().map(ToString::to_string).collect(),
    }
}

/// Seconds since then, to the millisecond.
pub fn age_seconds(then: Instant) -> f64 {
    (then.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}
