//! The operators' view while the agent is away: the pinned maps, the state directory and the kernel's routes. What should be there
//! is then what the maps say; the API server is not asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use weft_cni::node_facts::{self, NodeFacts};
use weft_common::layout::LAYOUT_VERSION;

use crate::datapath::kernel::LinuxKernel;
use crate::datapath::maps::{Maps, MapsError};
use crate::datapath::requirements::Requirements;
use crate::datapath::service_maps::LinuxServiceMaps;
use crate::datapath::socket_links;
use crate::datapath::{Kernel, KernelError, ServiceMaps, Watched};
use crate::model::problem::Problem;
use crate::overlay::state::OverlayState;
use crate::overlay::way::{Device, UnderlayDevice};
use crate::pods;
use crate::program_costs;
use crate::report::{
    self, Address, DropsReport, Held, NodesReport, PeerReport, PodsReport, RoutesReport, ServicesReport,
    ServicesStatus, Source, Status,
};
use crate::view::{self, kernel_status};

/// Not even that can be read.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// No maps, or no right to open them.
    #[error("the agent does not answer, and its maps cannot be read either: {0}")]
    Maps(#[from] MapsError),
    /// The maps know what names stand for, not the names.
    #[error(
        "the agent does not answer, and the maps know no names of Services: ask for an address instead of {0} (10.96.0.10, 10.96.0.10:53), \
         or for all with `weft services`"
    )]
    NoNames(String),
    /// The kernel did not answer.
    #[error("the agent does not answer, and the kernel cannot be asked: {0}")]
    Kernel(#[from] KernelError),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Offline {
    pin_directory: PathBuf,
    facts: Option<NodeFacts>,
    observed: OverlayState,
    routes: RoutesReport,
    /// The node's devices, by index.
    devices: BTreeMap<u32, Device>,
    /// An agent has followed the routes of late.
    leased: bool,
}

impl Offline {
    /// Reads everything.
    pub async fn read(pin_directory: &Path, state_directory: &Path) -> Result<Self, OfflineError> {
        let leased = Maps::open(pin_directory)?.fast_path_is_leased()?;
        let kernel = LinuxKernel::open(pin_directory, Path::new("/proc/sys"))?;
        let observed = kernel.observe(&Watched::NOTHING).await?;
        let devices = kernel.paths(&[], &[]).await?.devices;
        let facts: Option<NodeFacts> =
            fs::read(state_directory.join(node_facts::FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let gateways = facts.as_ref().map(|facts| facts.gateways.clone()).unwrap_or_default();
        let service_cidrs = LinuxServiceMaps::open(pin_directory)?.service_cidrs()?;
        let desired = report::routes_of_maps(&observed.nodes, &service_cidrs, &gateways);
        let mut owners = BTreeMap::new();
        if let Some(facts) = &facts {
            owners.extend(facts.pod_cidrs.iter().map(|pod_cidr| (*pod_cidr, facts.node.clone())));
        }
        let routes = report::routes(Source::Offline, &desired, &observed.routes, &owners, vec![agent_away()]);
        Ok(Self { pin_directory: pin_directory.to_owned(), facts, observed, routes, devices, leased })
    }

    /// `weft routes`: what follows from the maps beside what the kernel has.
    pub fn routes(&self) -> RoutesReport {
        self.routes.clone()
    }

    /// `weft nodes`.
    pub fn nodes(&self) -> NodesReport {
        let name = self.facts.as_ref().map(|facts| facts.node.as_str());
        NodesReport {
            source: Source::Offline,
            problems: vec![agent_away()],
            nodes: report::nodes_of_maps(name, &self.observed, &self.routes, &self.peers()),
        }
    }

    fn peers(&self) -> Vec<PeerReport> {
        report::peers_of_maps(self.observed.nodes.values(), &self.devices, self.leased)
    }

    /// The devices on which packets of peers are taken before `weft0` sees them.
    fn underlay_devices(&self) -> Vec<UnderlayDevice> {
        let below = self.devices.values().filter(|device| self.observed.underlay_filters.contains_key(&device.name));
        let report = |device: &Device| UnderlayDevice {
            device: device.name.clone(),
            mtu: device.mtu,
            receives_by_overlay: None,
        };
        below.map(report).collect()
    }

    /// Services, as far as maps and links tell.
    fn services_status(&self, cgroup_root: &Path) -> Option<ServicesStatus> {
        let state = LinuxServiceMaps::open(&self.pin_directory).and_then(|maps| maps.read()).ok()?;
        Some(ServicesStatus::of_maps(&state, &socket_links::read(&self.pin_directory, cgroup_root)))
    }

    /// `weft status`, on a node whose control groups are mounted there.
    pub fn status(&self, cgroup_root: &Path) -> Result<Status, OfflineError> {
        let requirements = Requirements::of_this_node(&self.pin_directory, Path::new("/proc/sys"));
        let drops = view::drops(Source::Offline, &self.pin_directory, Vec::new())?.drops;
        let own = self.observed.node_addresses.iter().filter(|(_, entry)| entry.local);
        Ok(Status {
            source: Source::Offline,
            healthy: false,
            reasons: vec![agent_away()],
            problems: Vec::new(),
            node: self.facts.as_ref().map(|facts| facts.node.clone()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_server: None,
            kernel: kernel_status(&requirements, None),
            layout: self.facts.as_ref().map_or(LAYOUT_VERSION, |facts| facts.layout),
            pod_cidrs: self.facts.as_ref().map(|facts| facts.pod_cidrs.clone()).unwrap_or_default(),
            internal_ips: own.map(|(address, _)| *address).collect(),
            underlay: None,
            underlay_devices: self.underlay_devices(),
            peers: self.peers(),
            pod_mtu_bytes: self.facts.as_ref().map(|facts| facts.mtu),
            sync_age_seconds: None,
            services: self.services_status(cgroup_root),
            programs: Some(program_costs::status(&self.pin_directory)),
            drops,
        })
    }
}

/// `weft pods`. What cannot be read is among its problems.
pub async fn pods(pin_directory: &Path, state_directory: &Path) -> PodsReport {
    pods::report(Source::Offline, pin_directory, state_directory, vec![agent_away()]).await
}

/// `weft drops`.
pub fn drops(pin_directory: &Path) -> Result<DropsReport, OfflineError> {
    Ok(view::drops(Source::Offline, pin_directory, vec![agent_away()])?)
}

/// `weft services`: what the maps hold, of one address or all. They know no names.
pub fn services(pin_directory: &Path, of: Option<&str>) -> Result<ServicesReport, OfflineError> {
    let address =
        of.map(|name| Address::parse(name).ok_or_else(|| OfflineError::NoNames(name.to_owned()))).transpose()?;
    let state = LinuxServiceMaps::open(pin_directory)?.read()?;
    let mut services = Held::new(&state).all();
    if let Some(address) = address {
        services.retain(|service| address.is_of(service));
    }
    Ok(ServicesReport { source: Source::Offline, problems: vec![agent_away()], services })
}

/// Why nobody but the maps answers.
pub fn agent_away() -> Problem {
    Problem::new(
        "weft-agent",
        "it does not answer on its socket: pods keep their network, new nodes and changes are not seen",
        "see `kubectl -n kube-system get pods -o wide` for the agent of this node, and its log",
    )
}
