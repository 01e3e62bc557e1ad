//! Reads what `weft flows` tells of: the maps of flows, sockets and affinity, and the sockets themselves. Always the command does it, with
//! an agent or without one, because a node may have a hundred thousand flows: they are given one by one, and never held together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;

use weft_cni::attachments;
use weft_common::address;
use weft_common::services::{FrontendKey, ServingKey, TO_SERVICE, flow};

use crate::datapath::KernelError;
use crate::datapath::flow_maps::{self, FlowMaps};
use crate::datapath::steered_sockets::{self, SteeredSocket};
use crate::model::problem::Problem;
use crate::model::services::Protocol;
use crate::report::{self, FlowFilter, FlowKind, FlowReport, FlowState, ServiceNames};

/// What is looked for, and where.
#[derive(Debug)]
pub struct Look<'a> {
    /// The pinned maps.
    pub maps: &'a FlowMaps,
    /// Where the plugin keeps what it knows of pods.
    pub state_directory: &'a Path,
    /// Names of the services in the maps, as far as somebody knows them.
    pub names: &'a ServiceNames,
    /// What is wanted.
    pub filter: &'a FlowFilter,
}

/// What was seen besides the flows that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries that match but are over, and were not given for that.
    pub over: usize,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

impl Look<'_> {
    /// Gives each flow that is wanted, until the receiver has enough.
    pub fn read(&self, give: &mut dyn FnMut(FlowReport) -> ControlFlow<()>) -> Seen {
        let mut seen = Seen::default();
        let pods = Pods::read(self.state_directory, &mut seen.problems);
        let mut reader = Reader { look: self, pods, seen, give, enough: false, failed: None };
        for part in [Part::Packets, Part::Udp, Part::Tcp, Part::Affinity] {
            reader.part(part);
        }
        reader.seen
    }
}

/// What is read one after the other.
#[derive(Clone, Copy)]
enum Part {
    Packets,
    Udp,
    Tcp,
    Affinity,
}

struct Reader<'a> {
    look: &'a Look<'a>,
    pods: Pods,
    seen: Seen,
    give: &'a mut dyn FnMut(FlowReport) -> ControlFlow<()>,
    enough: bool,
    /// The first entry of a map that a lookup failed for.
    failed: Option<KernelError>,
}

impl Reader<'_> {
    fn part(&mut self, part: Part) {
        let kind = match part {
            Part::Packets => FlowKind::Packets,
            Part::Udp | Part::Tcp => FlowKind::Socket,
            Part::Affinity => FlowKind::Affinity,
        };
        if self.enough || !self.look.filter.wants_kind(kind) {
            return;
        }
        let outcome = match part {
            Part::Packets => self.packets(),
            Part::Udp => self.udp(),
            Part::Tcp => self.tcp(),
            Part::Affinity => self.affinity(),
        };
        self.note(outcome);
    }

    fn packets(&mut self) -> Result<(), KernelError> {
        let look = self.look;
        let now = flow_maps::now();
        // New ones first: one that is kept from now on is seen twice, not never.
        for is_kept in [false, true] {
            look.maps.flows(is_kept, |key, entry| {
                // The direction from the client stands for both.
                if entry.flags & flow::REPLY != 0 {
                    match look.maps.flow(&report::forward_key(&key, &entry)) {
                        Ok(Some(_)) => return ControlFlow::Continue(()),
                        Ok(None) => {}
                        Err(error) => return self.fail(error),
                    }
                }
                let found = report::packets(look.names, &key, &entry, is_kept, now);
                found.map_or(ControlFlow::Continue(()), |found| self.found(entry.service, found))
            })?;
            if self.enough {
                break;
            }
        }
        Ok(())
    }

    fn udp(&mut self) -> Result<(), KernelError> {
        let look = self.look;
        let own = steered_sockets::udp()?;
        look.maps.socket_flows(|key, entry| {
            if key.direction != TO_SERVICE {
                return ControlFlow::Continue(());
            }
            let found = report::udp_socket(look.names, &key, &entry, own.get(&key.socket).copied());
            self.found(entry.service, found)
        })
    }

    fn tcp(&mut self) -> Result<(), KernelError> {
        let look = self.look;
        // UDP sockets are known by their map; a filter for it needs no others.
        if look.filter.protocol.is_some_and(|protocol| protocol != Protocol::Tcp) {
            return Ok(());
        }
        steered_sockets::tcp(look.maps, |socket| self.tcp_socket(&socket))?;
        for (path, pod) in self.pods.namespaces.clone() {
            match steered_sockets::tcp_in(&path, look.maps) {
                Ok(sockets) => sockets.iter().for_each(|socket| self.tcp_socket(socket)),
                // The pod has gone since its record was read, or this container does not see its namespace.
                Err(_) if !path.exists() && path.parent().is_some_and(Path::exists) => {}
                Err(error) => {
                    self.seen.problems.push(Problem::new(
                        format!("sockets of {pod}"),
                        error.to_string(),
                        "run /opt/cni/bin/weft as root on the node itself: it needs CAP_SYS_ADMIN, and to see /run/netns",
                    ));
                    // The others would say the same.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn tcp_socket(&mut self, socket: &SteeredSocket) {
        if self.enough {
            return;
        }
        let (address, port) = (address::to_bytes(socket.dialled.ip()), socket.dialled.port().to_be_bytes());
        let key = FrontendKey { address, port, protocol: Protocol::Tcp.number(), zero: 0 };
        match self.look.maps.frontend(&key) {
            Ok(frontend) => {
                let service = frontend.map_or(0, |frontend| frontend.service);
                // Whether there is enough is known besides.
                let _ = self.found(service, report::tcp_socket(self.look.names, service, socket));
            }
            Err(error) => drop(self.fail(error)),
        }
    }

    fn affinity(&mut self) -> Result<(), KernelError> {
        let look = self.look;
        let now = flow_maps::now();
        look.maps.affinity(|key, entry| {
            let (address, port) = (entry.backend.address, entry.backend.port);
            let serving = ServingKey { service: key.service, address, port, zero: [0; 6] };
            let known = look.maps.service(key.service).and_then(|service| Ok((service, look.maps.serves(&serving)?)));
            match known {
                Ok((service, serves)) => {
                    let timeout = service.map(|service| service.affinity_seconds);
                    let found = report::affinity(look.names, &key, &entry, timeout, serves, now);
                    self.found(key.service, found)
                }
                Err(error) => self.fail(error),
            }
        })
    }

    /// Gives a flow, if it is wanted.
    fn found(&mut self, service: u64, mut flow: FlowReport) -> ControlFlow<()> {
        let filter = self.look.filter;
        if !filter.wants(service, &flow) {
            return ControlFlow::Continue(());
        }
        if flow.state == FlowState::Over && !filter.over {
            self.seen.over += 1;
            return ControlFlow::Continue(());
        }
        flow.pod = flow.client_address.and_then(|client| self.pods.by_address.get(&client).cloned());
        if flow.backend_serves.is_none() && service != 0 {
            let (address, port) = (address::to_bytes(flow.backend.ip()), flow.backend.port().to_be_bytes());
            match self.look.maps.serves(&ServingKey { service, address, port, zero: [0; 6] }) {
                Ok(serves) => flow.backend_serves = Some(serves),
                Err(error) => return self.fail(error),
            }
        }
        let flow = (self.give)(flow);
        self.enough |= flow.is_break();
        flow
    }

    /// What fails for one entry would fail for the next.
    fn fail(&mut self, error: KernelError) -> ControlFlow<()> {
        self.failed.get_or_insert(error);
        ControlFlow::Break(())
    }

    fn note(&mut self, outcome: Result<(), KernelError>) {
        for error in outcome.err().into_iter().chain(self.failed.take()) {
            let (object, reason) = (error.object.clone(), error.to_string());
            self.seen.problems.push(Problem::new(
                object,
                reason,
                "see the message; what depends on it is left out here",
            ));
        }
    }
}

/// The pods of this node.
#[derive(Debug, Default)]
struct Pods {
    by_address: BTreeMap<IpAddr, String>,
    /// Paths of their network namespaces, each once.
    namespaces: BTreeMap<std::path::PathBuf, String>,
}

impl Pods {
    fn read(state_directory: &Path, problems: &mut Vec<Problem>) -> Self {
        let mut pods = Self::default();
        let (records, broken) = attachments::list(state_directory);
        for record in records {
            let name = match (&record.pod_namespace, &record.pod_name) {
                (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
                _ => record.id().to_string(),
            };
            pods.by_address.extend(record.addresses.iter().map(|address| (*address, name.clone())));
            pods.namespaces.insert(record.netns, name);
        }
        problems.extend(broken.iter().map(|error| {
            let step = "see `weft pods`; flows of that pod are shown without its name";
            Problem::new(error.path().display().to_string(), error.to_string(), step)
        }));
        pods
    }
}
