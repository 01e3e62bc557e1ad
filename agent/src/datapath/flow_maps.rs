//! The maps of translated flows, of peers of sockets and of affinity, for people who look inside. Nobody writes through it, and looking is
//! no use: neither a batch nor a lookup by system call makes an entry of an LRU map look used, so what is let go of first stays the same.

use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use aya::Pod;
use nix::time::{ClockId, clock_gettime};
use weft_common::address;
use weft_common::layout::map;
use weft_common::services::{
    Affinity, AffinityKey, Flow, FlowKey, Frontend, FrontendKey, Service, Serving, ServingKey, SocketFlow,
    SocketFlowKey,
};

use super::KernelError;
use super::batch::RawMap;
use super::maps::Maps;
use super::service_maps::of_bytes;
use super::service_writes::bytes_of;

/// The pinned maps.
#[derive(Debug)]
pub struct FlowMaps {
    maps: Maps,
}

impl FlowMaps {
    /// Opens what is pinned in a directory.
    pub fn open(pin_directory: &Path) -> Result<Self, KernelError> {
        let maps = Maps::open(pin_directory).map_err(KernelError::of("open", "the pinned maps"))?;
        Ok(Self { maps })
    }

    /// The directions of flows that are kept, or of those that have not proved yet that they go on.
    pub fn flows(&self, is_kept: bool, read: impl FnMut(FlowKey, Flow) -> ControlFlow<()>) -> Result<(), KernelError> {
        self.walk(if is_kept { map::FLOWS } else { map::NEW_FLOWS }, read)
    }

    /// One direction of a flow, and whether the flow is kept.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<(Flow, bool)>, KernelError> {
        if let Some(flow) = self.get(map::NEW_FLOWS, key)? {
            return Ok(Some((flow, false)));
        }
        Ok(self.get(map::FLOWS, key)?.map(|flow| (flow, true)))
    }

    /// Peers of UDP sockets of the host.
    pub fn socket_flows(
        &self,
        read: impl FnMut(SocketFlowKey, SocketFlow) -> ControlFlow<()>,
    ) -> Result<(), KernelError> {
        self.walk(map::SOCKET_FLOWS, read)
    }

    /// Where clients stay.
    pub fn affinity(&self, read: impl FnMut(AffinityKey, Affinity) -> ControlFlow<()>) -> Result<(), KernelError> {
        self.walk(map::AFFINITY, read)
    }

    /// The services behind an address, or behind one port of it.
    pub fn services_at(&self, address: IpAddr, port: Option<u16>) -> Result<Vec<u64>, KernelError> {
        let (address, port) = (address::to_bytes(address), port.map(u16::to_be_bytes));
        let mut services = Vec::new();
        self.walk(map::FRONTENDS, |key: FrontendKey, frontend: Frontend| {
            let is_asked = key.address == address && port.is_none_or(|port| port == key.port) && frontend.service != 0;
            services.extend(is_asked.then_some(frontend.service));
            ControlFlow::Continue(())
        })?;
        Ok(services)
    }

    /// What is behind a frontend.
    pub fn frontend(&self, key: &FrontendKey) -> Result<Option<Frontend>, KernelError> {
        self.get(map::FRONTENDS, key)
    }

    /// A port of a Service.
    pub fn service(&self, id: u64) -> Result<Option<Service>, KernelError> {
        self.get(map::SERVICES, &id)
    }

    /// Whether a service has a backend now.
    pub fn serves(&self, key: &ServingKey) -> Result<bool, KernelError> {
        let serving: Option<Serving> = self.get(map::SERVING, key)?;
        Ok(serving.is_some_and(|serving| serving.sets != 0))
    }

    /// What connected sockets dialled: kept in the sockets themselves, which are asked for it with this descriptor.
    pub(super) fn socket_peers(&self) -> Result<BorrowedFd<'_>, KernelError> {
        let found = self.maps.descriptors().find(|(name, _)| *name == map::SOCKET_PEERS).map(|(_, map)| map);
        let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        found.map_err(KernelError::of("open map", map::SOCKET_PEERS))
    }

    fn walk<K: Pod, V: Pod>(
        &self,
        name: &'static str,
        mut read: impl FnMut(K, V) -> ControlFlow<()>,
    ) -> Result<(), KernelError> {
        let walked = RawMap::of(&self.maps, name).and_then(|map| {
            map.walk(|keys, values| {
                let keys = keys.chunks_exact(size_of::<K>()).map(of_bytes);
                let values = values.chunks_exact(size_of::<V>()).map(of_bytes);
                keys.zip(values).try_for_each(|(key, value)| read(key, value))
            })
        });
        walked.map_err(KernelError::of("read map", name))
    }

    fn get<K: Pod, V: Pod>(&self, name: &'static str, key: &K) -> Result<Option<V>, KernelError> {
        let value = RawMap::of(&self.maps, name).and_then(|map| map.get(&bytes_of(key)));
        Ok(value.map_err(KernelError::of("read map", name))?.as_deref().map(of_bytes))
    }
}

/// The clock of all times in these maps.
pub fn now() -> Duration {
    // It cannot fail for this clock; at zero, everything would just have been used.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
