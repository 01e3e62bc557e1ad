//! The maps for Services of this node, as the services driver needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use ipnetwork::IpNetwork;
use weft_common::address::{self, AddressBytes};
use weft_common::layout::map;
use weft_common::services::{
    Backend, FROM_BACKEND, Frontend, FrontendKey, Service, ServicesConfig, Serving, ServingKey, SlotKey, SocketFlow,
    SocketFlowKey, SourceRangeKey,
};

use super::batch::{Entries, RawMap};
use super::host_sockets::{ConnectedSocket, HostSockets};
use super::map_shapes::MapShape;
use super::maps::{self, Maps};
use super::service_writes::{RawWrite, bytes_of};
use super::{KernelError, ServiceMaps};
use crate::services::held::Held;
use crate::services::mirror::Mirror;
use crate::services::state::{ServiceState, SourceRange, Write};

/// The pinned maps for Services.
#[derive(Debug)]
pub struct LinuxServiceMaps {
    maps: Maps,
}

/// A map that has no room.
#[derive(Debug, thiserror::Error)]
enum NoRoom {
    #[error(
        "the map {map} has its {max_entries} entries: nothing new fits in until Services, their ports, addresses or endpoints are \
         deleted; what is in the map goes on working"
    )]
    Full { map: &'static str, max_entries: u32 },
    #[error(
        "the kernel gives the map {map} no more memory: see limits.memory of the agent's container, to which maps count, and the memory \
         of the node"
    )]
    NoMemory { map: &'static str },
}

impl LinuxServiceMaps {
    /// Opens what is pinned in a directory: the programs must have been loaded. Somebody may remove or replace a pin afterwards; programs
    /// go on using the maps that they were loaded with, and so do we.
    pub fn open(pin_directory: &Path) -> Result<Self, KernelError> {
        let maps = Maps::open(pin_directory).map_err(KernelError::of("open", "the pinned maps"))?;
        Ok(Self { maps })
    }

    /// All entries of a map.
    fn entries<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, KernelError> {
        self.fold(name, |entries: &mut Vec<_>, key, value| entries.push((key, value)))
    }

    /// Shows all entries of a map to `each`.
    fn fold<K: Pod, V: Pod, T: Default>(
        &self,
        name: &'static str,
        each: impl Fn(&mut T, K, V),
    ) -> Result<T, KernelError> {
        let read = || {
            let map = RawMap::of(&self.maps, name)?;
            debug_assert_eq!((map.key_size, map.value_size), (size_of::<K>(), size_of::<V>()));
            map.fold(|folded, key, value| each(folded, of_bytes(key), of_bytes(value)))
        };
        read().map_err(KernelError::of("read map", name))
    }

    /// Whether a map holds exactly what is known of it.
    fn holds<K: Pod + Ord, V: Pod + PartialEq>(
        &self,
        name: &'static str,
        known: &Held<K, V>,
    ) -> Result<bool, KernelError> {
        let (same, others) = self.fold(name, |(same, others): &mut (usize, usize), key, value| {
            *(if known.get(&key) == Some(value) { same } else { others }) += 1;
        })?;
        Ok(others == 0 && same == known.known().len())
    }

    /// Writes neighbours of the same kind, and gives those that failed by their place among them.
    fn write_alike(&self, writes: &[Write]) -> Vec<(usize, KernelError)> {
        let Some(first) = writes.first() else { return Vec::new() };
        let mut entries = Entries::default();
        for write in writes {
            let RawWrite { key, value, .. } = RawWrite::of(write);
            entries.keys.extend(key);
            entries.values.extend(value.unwrap_or_default());
        }
        let RawWrite { map: name, value, .. } = RawWrite::of(first);
        let operation = if value.is_some() { "write map" } else { "delete from map" };
        let failed = |(index, error): (usize, io::Error)| {
            let entry = writes.get(index).map(RawWrite::describe).unwrap_or_default();
            (index, KernelError::of(operation, format!("{name}, {entry}"))(explained(name, error)))
        };
        let outcome = RawMap::of(&self.maps, name).map(|map| match value {
            Some(_) => map.set(&entries),
            None => map.remove(&entries.keys),
        });
        match outcome {
            Ok(refused) => refused.into_iter().map(failed).collect(),
            Err(error) => (0..writes.len()).map(|index| failed((index, copy(&error)))).collect(),
        }
    }

    /// The Service that steered a socket to its peer.
    fn steered(&self, socket: &ConnectedSocket) -> io::Result<Option<ServingKey>> {
        let (address, port) = socket.peer();
        let (address, port) = (address::to_bytes(address), port.to_be_bytes());
        let key = SocketFlowKey { socket: socket.cookie(), address, port, direction: FROM_BACKEND, zero: [0; 5] };
        let flow = RawMap::of(&self.maps, map::SOCKET_FLOWS)?.get(&bytes_of(&key))?;
        let flow: Option<SocketFlow> = flow.as_deref().map(of_bytes);
        Ok(flow.map(|flow| ServingKey { service: flow.service, address, port, zero: [0; 6] }))
    }
}

impl LinuxServiceMaps {
    /// The ranges of cluster IPs.
    pub fn service_cidrs(&self) -> Result<BTreeSet<IpNetwork>, KernelError> {
        let entries = self.entries::<Key<AddressBytes>, u32>(map::SERVICE_CIDRS)?;
        Ok(entries.iter().filter_map(|(key, _)| maps::network(key)).collect())
    }

    fn source_ranges(&self) -> Result<BTreeSet<SourceRange>, KernelError> {
        let entries = self.entries::<Key<SourceRangeKey>, u32>(map::SOURCE_RANGES)?;
        Ok(entries.iter().map(|(key, _)| SourceRange { bits: key.prefix_len(), key: key.data() }).collect())
    }

    /// `None` where nobody has written it: all zeros.
    fn config(&self) -> Result<Option<ServicesConfig>, KernelError> {
        let config = self.entries::<u32, ServicesConfig>(map::SERVICES_CONFIG)?.into_iter().next();
        Ok(config.map(|(_, config)| config).filter(|config| bytes_of(config).iter().any(|byte| *byte != 0)))
    }
}

impl ServiceMaps for LinuxServiceMaps {
    fn read(&self) -> Result<ServiceState, KernelError> {
        Ok(ServiceState {
            frontends: self.all::<FrontendKey, Frontend>(map::FRONTENDS)?,
            services: self.all::<u64, Service>(map::SERVICES)?,
            backends: self.all::<SlotKey, Backend>(map::BACKENDS)?,
            serving: self.all::<ServingKey, Serving>(map::SERVING)?,
            source_ranges: self.source_ranges()?,
            service_cidrs: self.service_cidrs()?,
            config: self.config()?,
        })
    }

    fn hold(&self, known: &Mirror) -> Result<bool, KernelError> {
        Ok(self.holds(map::FRONTENDS, &known.frontends)?
            && self.holds(map::SERVICES, &known.services)?
            && self.holds(map::BACKENDS, &known.backends)?
            && self.holds(map::SERVING, &known.serving)?
            && self.source_ranges()? == known.source_ranges.known().keys().map(|(_, range)| *range).collect()
            && self.service_cidrs()? == known.cidrs.known().keys().copied().collect()
            && self.config()? == known.config.get(&()))
    }

    fn write(&self, writes: &[Write]) -> Vec<(usize, KernelError)> {
        let mut failed = Vec::new();
        let mut start = 0;
        for alike in writes.chunk_by(|one, other| std::mem::discriminant(one) == std::mem::discriminant(other)) {
            failed.extend(self.write_alike(alike).into_iter().map(|(index, error)| (start + index, error)));
            start += alike.len();
        }
        failed
    }

    fn end_sockets(&self, gone: &BTreeSet<ServingKey>) -> Result<usize, KernelError> {
        if gone.is_empty() {
            return Ok(0);
        }
        let peers: BTreeSet<_> = gone.iter().map(|gone| (gone.address, gone.port)).collect();
        let is_peer =
            |(address, port): (IpAddr, u16)| peers.contains(&(address::to_bytes(address), port.to_be_bytes()));
        let listed = || {
            let mut sockets = HostSockets::open()?;
            let list = sockets.list()?;
            Ok::<_, super::requests::NetlinkError>((sockets, list))
        };
        let (mut sockets, list) = listed().map_err(KernelError::of("list", "connected UDP sockets"))?;
        let (mut ended, mut failure) = (0, None);
        for socket in list.into_iter().filter(|socket| is_peer(socket.peer())) {
            let outcome =
                self.steered(&socket).map_err(KernelError::of("read map", map::SOCKET_FLOWS)).and_then(|key| {
                    if !key.is_some_and(|key| gone.contains(&key)) {
                        return Ok(false);
                    }
                    let (address, port) = socket.peer();
                    sockets
                        .end(&socket)
                        .map_err(KernelError::of("end", format!("a UDP socket to {address} port {port}")))
                });
            match outcome {
                Ok(is_ended) => ended += usize::from(is_ended),
                // One that stays keeps no other.
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(ended), Err)
    }
}

impl LinuxServiceMaps {
    fn all<K: Pod + Ord, V: Pod>(&self, name: &'static str) -> Result<BTreeMap<K, V>, KernelError> {
        Ok(self.entries(name)?.into_iter().collect())
    }
}

/// What a refusal means for a map.
fn explained(map: &'static str, error: io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => {
            let max_entries = MapShape::of_map(map).map_or(0, |shape| shape.max_entries);
            NoRoom::Full { map, max_entries }.into()
        }
        Some(libc::ENOMEM) => NoRoom::NoMemory { map }.into(),
        _ => error.into(),
    }
}

/// The same once more, for each write that it keeps from being made.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// A key or value of as many bytes as it has.
pub(super) fn of_bytes<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: there are as many bytes as the type has, and any bytes are a value of it.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}
