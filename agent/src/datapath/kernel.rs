//! The kernel of this node, by netlink, pinned maps and sysctls.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_common::entries::Config;
use weft_common::layout::{OVERLAY_DEVICE, map, program};

use super::interest::Interest;
use super::ipsec::Ipsec;
use super::links::Link;
use super::maps::Maps;
use super::netfilter::Netfilter;
use super::pins::Pins;
use super::programs::{PinnedProgram, ProgramsError};
use super::requests::Requests;
use super::{
    Kernel, KernelError, Watched, addresses, filters, links, masquerade, paths, pod_links, routes, sysctl,
    underlay_filters,
};
use crate::overlay::plan::Tunnel;
use crate::overlay::pods::{PodChange, PodState};
use crate::overlay::state::{Change, FilterPlace, OverlayState, RouteKind, Underlay};
use crate::overlay::way::Paths;

/// What the nftables table is called in errors.
const MASQUERADE: &str = "nftables table inet weft";

/// The kernel of the network namespace in which it was opened. Sysctls are those of the calling thread's namespace.
#[derive(Debug)]
pub struct LinuxKernel {
    requests: Requests,
    netfilter: Netfilter,
    ipsec: Ipsec,
    maps: Maps,
    programs: BTreeMap<&'static str, PinnedProgram>,
    pins: Pins,
    interest: Interest,
    sysctl_root: PathBuf,
    /// The sysctls that the last look read, and what it found.
    seen_sysctls: Mutex<(Vec<String>, BTreeMap<String, String>)>,
    /// Destinations that had a route of ours of another form at the last look, or several: they need a closer one.
    odd_routes: Mutex<BTreeSet<IpNetwork>>,
}

/// No device has one of this node's addresses.
#[derive(Debug, thiserror::Error)]
#[error(
    "the node has no device with this address, although its Node object names it as InternalIP: compare `ip address` with \
     `kubectl get node -o wide`, and set the kubelet's --node-ip where the Node object is wrong"
)]
pub(super) struct AddressOnNoDevice;

/// A device went, or never was.
#[derive(Debug, thiserror::Error)]
#[error("there is no such device")]
struct NoDevice;

/// Nobody loads a program of that name.
#[derive(Debug, thiserror::Error)]
#[error("weft has no program of this name")]
struct NoProgram;

impl LinuxKernel {
    /// Connects to the kernel. The programs must have been loaded: `pin_directory` holds maps and programs, and what it holds
    /// now is used from now on. `sysctl_root` is where `/proc/sys` of the node is found. Needs a running tokio runtime.
    pub fn open(pin_directory: &Path, sysctl_root: &Path) -> Result<Self, KernelError> {
        let maps = Maps::open(pin_directory).map_err(KernelError::of("open", "the pinned maps"))?;
        let programs = open_programs(pin_directory).map_err(KernelError::of("open", "the pinned programs"))?;
        let pins =
            hold(pin_directory, &maps, &programs).map_err(KernelError::of("hold", "the pinned maps and programs"))?;
        Ok(Self {
            requests: Requests::open().map_err(KernelError::of("open", "rtnetlink"))?,
            netfilter: Netfilter::open().map_err(KernelError::of("open", "netfilter's netlink"))?,
            ipsec: Ipsec::open().map_err(KernelError::of("open", "the netlink of IPsec"))?,
            maps,
            programs,
            pins,
            interest: Interest::default(),
            sysctl_root: sysctl_root.to_owned(),
            seen_sysctls: Mutex::default(),
            odd_routes: Mutex::default(),
        })
    }

    /// What of other people's routes and devices concerns us, for [`super::notifications::Notifications`].
    pub fn interest(&self) -> Interest {
        self.interest.clone()
    }

    fn read_sysctls(&self, paths: &[String]) -> Result<BTreeMap<String, String>, KernelError> {
        let values = sysctl::read(&self.sysctl_root, paths).map_err(KernelError::of("read", "sysctls"))?;
        *self.seen_sysctls.lock().unwrap_or_else(PoisonError::into_inner) = (paths.to_vec(), values.clone());
        Ok(values)
    }

    fn write_sysctl(&self, path: &str, value: &str) -> Result<(), KernelError> {
        let failed = KernelError::of("write sysctl", format!("{path} = {value}"));
        sysctl::write(&self.sysctl_root, path, value).map_err(failed)?;
        let mut seen = self.seen_sysctls.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1.insert(path.to_owned(), value.to_owned());
        Ok(())
    }

    async fn device(&self, name: &str) -> Result<Link, KernelError> {
        let found = links::find(&self.requests, name).await.map_err(KernelError::of("find device", name))?;
        found.ok_or_else(|| KernelError::of("find device", name)(NoDevice))
    }

    async fn list_routes(&self, overlay: Option<u32>) -> Result<BTreeMap<IpNetwork, RouteKind>, KernelError> {
        let routes = routes::list(&self.requests, overlay).await.map_err(KernelError::of("list", "routes"))?;
        let is_odd = |(_, kind): &(&IpNetwork, &RouteKind)| matches!(kind, RouteKind::Foreign { .. });
        let odd = routes.iter().filter(is_odd).map(|(destination, _)| *destination).collect();
        *self.odd_routes.lock().unwrap_or_else(PoisonError::into_inner) = odd;
        Ok(routes)
    }

    async fn set_route(&self, destination: IpNetwork, kind: &RouteKind) -> Result<(), KernelError> {
        // Only routes through weft0 name a device; index 0 is no device.
        let overlay = match kind {
            RouteKind::Overlay { .. } => self.device(OVERLAY_DEVICE).await?.index,
            RouteKind::Unreachable | RouteKind::Foreign { .. } => 0,
        };
        let look_closely = self.odd_routes.lock().unwrap_or_else(PoisonError::into_inner).contains(&destination);
        let set = routes::set(&self.requests, overlay, destination, kind, look_closely).await;
        set.map_err(KernelError::of("set route", destination.to_string()))
    }

    async fn set_filter(&self, place: &FilterPlace, name: &str) -> Result<(), KernelError> {
        let object = format!("{name} on {} {:?}", place.device, place.hook);
        let program = self.program(name)?;
        let device = self.device(&place.device).await?;
        let attached = filters::set(&self.requests, device.index, place.hook, name, program).await;
        attached.map_err(KernelError::of("attach filter", object))
    }

    async fn set_underlay_filter(&self, device: &str) -> Result<(), KernelError> {
        let object = format!("{} on {device}", program::FROM_UNDERLAY);
        let program = self.program(program::FROM_UNDERLAY)?;
        let device = self.device(device).await?;
        let attached = underlay_filters::set(&self.requests, &device, program).await;
        attached.map_err(KernelError::of("attach filter", object))
    }

    async fn remove_underlay_filter(&self, device: &str) -> Result<(), KernelError> {
        let failed = || KernelError::of("remove filter", format!("{} on {device}", program::FROM_UNDERLAY));
        // It went with its device.
        match links::find(&self.requests, device).await.map_err(failed())? {
            Some(device) => underlay_filters::remove(&self.requests, device.index).await.map_err(failed()),
            None => Ok(()),
        }
    }

    fn program(&self, name: &str) -> Result<&PinnedProgram, KernelError> {
        self.programs.get(name).ok_or_else(|| KernelError::of("find program", name)(NoProgram))
    }

    async fn set_pod(&self, change: &PodChange) -> Result<(), KernelError> {
        let object = change.object();
        match change {
            PodChange::SetDevice(name, wanted) => {
                let present = self.device(name).await?;
                if present.index != wanted.index {
                    return Err(KernelError::of("set", object)(NoDevice));
                }
                pod_links::set_device(&self.requests, &present, wanted).await.map_err(KernelError::of("set", object))
            }
            PodChange::SetNeighbour { index, address, mac, .. } => {
                let set = pod_links::set_neighbour(&self.requests, *index, *address, *mac).await;
                set.map_err(KernelError::of("set", object))
            }
            PodChange::SetRoute { address, index, .. } => {
                pod_links::set_route(&self.requests, *index, *address).await.map_err(KernelError::of("set", object))
            }
            PodChange::SetEndpoint(address, endpoint) => {
                self.maps.set_endpoint(*address, *endpoint).map_err(KernelError::of("write", object))
            }
            PodChange::RemoveEndpoint(address) => {
                self.maps.remove_endpoint(*address).map_err(KernelError::of("delete", object))
            }
        }
    }

    async fn remove_address(&self, address: IpAddr) -> Result<(), KernelError> {
        let failed = || KernelError::of("remove address", address.to_string());
        // Without the device there is no address on it.
        match links::find(&self.requests, OVERLAY_DEVICE).await.map_err(failed())? {
            Some(device) => addresses::remove(&self.requests, device.index, address).await.map_err(failed()),
            None => Ok(()),
        }
    }
}

fn open_programs(directory: &Path) -> Result<BTreeMap<&'static str, PinnedProgram>, ProgramsError> {
    program::ALL.into_iter().map(|name| Ok((name, PinnedProgram::open(directory, name)?))).collect()
}

/// Holds maps and programs apart from their users, for their pins.
fn hold(
    directory: &Path,
    maps: &Maps,
    programs: &BTreeMap<&'static str, PinnedProgram>,
) -> Result<Pins, Box<dyn std::error::Error + Send + Sync>> {
    let programs = programs.iter().map(|(name, program)| (*name, program.fd.as_fd()));
    let held =
        maps.descriptors().chain(programs).map(|(name, descriptor)| Ok((name, descriptor.try_clone_to_owned()?)));
    Ok(Pins::hold(directory, held.collect::<io::Result<Vec<_>>>()?)?)
}

impl Kernel for LinuxKernel {
    async fn underlay(&self, addresses: &[IpAddr]) -> Result<Underlay, KernelError> {
        const READ: &str = "read the devices of the addresses";
        let object = || addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let present = addresses::list(&self.requests).await.map_err(KernelError::of(READ, object()))?;
        let devices = links::list(&self.requests).await.map_err(KernelError::of(READ, object()))?;
        let mut underlay: Option<Underlay> = None;
        for address in addresses {
            let carrier = present.iter().find(|entry| entry.address.ip() == *address);
            let carrier = carrier.and_then(|entry| devices.iter().find(|device| device.index == entry.device));
            let missing = || KernelError::of("find the device of", address.to_string())(AddressOnNoDevice);
            let carrier = carrier.ok_or_else(missing)?;
            let first = underlay.get_or_insert_with(|| Underlay { device: carrier.name.clone(), mtu: carrier.mtu });
            first.mtu = first.mtu.min(carrier.mtu);
        }
        underlay.ok_or_else(|| KernelError::of("find the device of", "no address")(AddressOnNoDevice))
    }

    async fn paths(&self, addresses: &[IpAddr], tunnels: &[Tunnel]) -> Result<Paths, KernelError> {
        self.interest.set_peers(tunnels.iter().map(|tunnel| tunnel.destination));
        let present = addresses::list(&self.requests).await.map_err(KernelError::of("list", "addresses"))?;
        let answers = paths::answers(&self.requests, tunnels).await;
        let answers = answers.map_err(KernelError::of("ask for", "the routes to other nodes"))?;
        let devices = links::list(&self.requests).await.map_err(KernelError::of("list", "devices"))?;
        let carriers = present.iter().filter(|entry| addresses.contains(&entry.address.ip()));
        let paths = Paths {
            answers,
            carriers: carriers.map(|entry| entry.device).collect(),
            devices: devices.iter().map(|device| (device.index, device.device())).collect(),
            ipsec: self.ipsec.has_policies().map_err(KernelError::of("count", "IPsec policies"))?,
        };
        self.interest.set_devices(paths.below());
        Ok(paths)
    }

    async fn observe(&self, watched: &Watched<'_>) -> Result<OverlayState, KernelError> {
        // First, because the records have just been read: an ADD between the two would look like an entry that nobody wants.
        let endpoints = self.maps.endpoints().map_err(KernelError::of("read map", map::ENDPOINTS))?;
        let devices = links::list(&self.requests).await.map_err(KernelError::of("list", "devices"))?;
        let overlay = devices.iter().find(|device| device.name == OVERLAY_DEVICE);
        let index = overlay.map(|device| device.index);
        let addresses = addresses::list(&self.requests).await.map_err(KernelError::of("list", "addresses"))?;
        let is_weft = |device: &&Link| device.is_ours() || watched.pods.contains_key(&device.name);
        let with_filters = devices.iter().filter(is_weft);
        let others = devices.iter().filter(|device| !is_weft(device));
        let pods = pod_links::observe(&self.requests, &devices, watched.pods).await;
        let pods = pods.map_err(KernelError::of("list", "what belongs to pods"))?;
        let config = self.maps.config().map_err(KernelError::of("read map", map::CONFIG))?;
        Ok(OverlayState {
            device: overlay.map(Link::overlay_device),
            addresses: index.map(|index| addresses::of_overlay(&addresses, index)).unwrap_or_default(),
            routes: self.list_routes(index).await?,
            nodes: self.maps.nodes().map_err(KernelError::of("read map", map::NODES))?,
            node_addresses: self.maps.node_addresses().map_err(KernelError::of("read map", map::NODE_ADDRESSES))?,
            configured: (index == Some(config.overlay_ifindex)).then_some(config.pod_mtu),
            masquerade: masquerade::read(&self.netfilter).await.map_err(KernelError::of("read", MASQUERADE))?,
            sysctls: self.read_sysctls(watched.sysctls)?,
            filters: filters::list(&self.requests, with_filters, &self.programs)
                .await
                .map_err(KernelError::of("list", "filters"))?,
            underlay_filters: underlay_filters::list(&self.requests, others, self.program(program::FROM_UNDERLAY)?)
                .await
                .map_err(KernelError::of("list", "filters"))?,
            pins: self.pins.observe(),
            pods: PodState { endpoints, ..pods },
        })
    }

    fn changed_silently(&self) -> bool {
        let seen = self.seen_sysctls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One that cannot be read now is told of by the next look, which is never far.
        let sysctls = sysctl::read(&self.sysctl_root, &seen.0).is_ok_and(|values| values != seen.1);
        sysctls || self.pins.changed()
    }

    fn lease_fast_path(&self, span: Duration) -> Result<(), KernelError> {
        self.maps.lease_fast_path(span).map_err(KernelError::of("write map", map::FAST_PATH_LEASE))
    }

    async fn apply(&self, change: &Change) -> Result<(), KernelError> {
        match change {
            Change::CreateDevice(device) => links::create_overlay(&self.requests, device)
                .await
                .map_err(KernelError::of("create device", OVERLAY_DEVICE)),
            Change::SetDevice(device) => {
                let present = self.device(OVERLAY_DEVICE).await?;
                links::set(&self.requests, &present, device)
                    .await
                    .map_err(KernelError::of("set device", OVERLAY_DEVICE))
            }
            Change::AddAddress(address) => {
                let index = self.device(OVERLAY_DEVICE).await?.index;
                let added = addresses::add(&self.requests, index, *address).await;
                added.map_err(KernelError::of("add address", address.to_string()))
            }
            Change::RemoveAddress(address) => self.remove_address(*address).await,
            Change::SetSysctl { path, value } => self.write_sysctl(path, value),
            Change::SetPin(name) => self.pins.set(name).map_err(KernelError::of("pin", name)),
            Change::SetConfig(pod_mtu) => {
                let overlay_ifindex = self.device(OVERLAY_DEVICE).await?.index;
                let config = Config { overlay_ifindex, pod_mtu: *pod_mtu };
                self.maps.set_config(config).map_err(KernelError::of("write map", map::CONFIG))
            }
            Change::SetNode(pod_cidr, entry) => {
                self.maps.set_node(*pod_cidr, *entry).map_err(KernelError::of("write map", map::NODES))
            }
            Change::RemoveNode(pod_cidr) => {
                self.maps.remove_node(*pod_cidr).map_err(KernelError::of("write map", map::NODES))
            }
            Change::SetNodeAddress(address, entry) => {
                self.maps.set_node_address(*address, *entry).map_err(KernelError::of("write map", map::NODE_ADDRESSES))
            }
            Change::RemoveNodeAddress(address) => {
                self.maps.remove_node_address(*address).map_err(KernelError::of("write map", map::NODE_ADDRESSES))
            }
            Change::SetMasquerade(pod_cidrs) => {
                masquerade::replace(&self.netfilter, pod_cidrs).await.map_err(KernelError::of("write", MASQUERADE))
            }
            Change::SetFilter(place, program) => self.set_filter(place, program).await,
            Change::SetUnderlayFilter(device) => self.set_underlay_filter(device).await,
            Change::RemoveUnderlayFilter(device) => self.remove_underlay_filter(device).await,
            Change::SetRoute(destination, kind) => self.set_route(*destination, kind).await,
            Change::RemoveRoute(destination) => routes::remove(&self.requests, *destination)
                .await
                .map_err(KernelError::of("remove route", destination.to_string())),
            Change::Pod(change) => self.set_pod(change).await,
        }
    }
}
