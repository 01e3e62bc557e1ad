//! The pinned maps: one typed accessor each. Only this file and the programs know their names and shapes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError};
use ipnetwork::IpNetwork;
use nix::time::{ClockId, clock_gettime};
use weft_common::address::{self, AddressBytes};
use weft_common::entries::{self, Config, Endpoint, Node, NodeAddress};
use weft_common::layout::map;

use super::bpf_calls::{self, Object};
use super::map_shapes::MapShape;
use crate::overlay::state::{NodeAddressEntry, NodeEntry, flags};

/// A pinned map that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The pin is absent or unreadable.
    #[error("open map {}: {source}; the agent makes it when it starts: see that it runs and that bpffs is mounted", path.display())]
    Open {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not a map of this layout. The kernel would take it, and packets would go wrong.
    #[error(
        "map {} is ({found}), this version of weft needs ({expected}); somebody else made it: remove {} and restart the agent, which \
         makes a new one and fills in what nodes and pods need",
        path.display(), path.display()
    )]
    Shape {
        /// The pin.
        path: PathBuf,
        /// What is there.
        found: MapShape,
        /// What this layout has.
        expected: MapShape,
    },
    /// It is no map at all.
    #[error(
        "{} is pinned in the place of a map and is none; somebody else made it: remove it and restart the agent, which makes the map \
         and fills in what nodes and pods need", .0.display()
    )]
    NotAMap(PathBuf),
    /// Reading or writing failed.
    #[error("{operation} {entry} of map {}: {source}", path.display())]
    Access {
        /// "read", "write", "delete".
        operation: &'static str,
        /// The entry, or "all entries".
        entry: String,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The maps that were pinned in a directory when it was opened. Somebody may remove or replace a pin: filters go on using the
/// map that they were loaded with, and so do we.
#[derive(Debug)]
pub struct Maps {
    directory: PathBuf,
    held: BTreeMap<&'static str, OwnedFd>,
}

impl Maps {
    /// Checks that every map of this layout is pinned in `directory` and has the right shape.
    pub fn open(directory: &Path) -> Result<Self, MapsError> {
        let open = |(name, expected)| Ok((name, open(directory.join(name), expected)?));
        let held = MapShape::ALL.into_iter().map(open).collect::<Result<_, MapsError>>()?;
        Ok(Self { directory: directory.to_owned(), held })
    }

    /// Descriptors of all maps, by name.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        self.held.iter().map(|(name, descriptor)| (*name, descriptor.as_fd()))
    }

    /// All podCIDRs and the nodes that own them.
    pub fn nodes(&self) -> Result<BTreeMap<IpNetwork, NodeEntry>, MapsError> {
        let entries = self.nodes_map()?.iter().collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(|error| self.failed("read", map::NODES, "all entries", error))?;
        Ok(entries.into_iter().filter_map(|(key, node)| Some((network(&key)?, node_entry(&node)))).collect())
    }

    /// Adds or replaces the owner of a podCIDR.
    pub fn set_node(&self, pod_cidr: IpNetwork, node: NodeEntry) -> Result<(), MapsError> {
        let value = Node {
            tunnel: address::to_bytes(node.tunnel),
            source: address::to_bytes(node.source),
            flags: flags(node.local),
            underlay_ifindex: node.underlay.unwrap_or(0),
        };
        let written = self.nodes_map()?.insert(&prefix(pod_cidr), value, 0);
        written.map_err(|error| self.failed("write", map::NODES, pod_cidr, error))
    }

    /// Removes a podCIDR. One that is not there is no error.
    pub fn remove_node(&self, pod_cidr: IpNetwork) -> Result<(), MapsError> {
        let removed = self.nodes_map()?.remove(&prefix(pod_cidr));
        unless_absent(removed).map_err(|error| self.failed("delete", map::NODES, pod_cidr, error))
    }

    /// All InternalIPs and the nodes that have them.
    pub fn node_addresses(&self) -> Result<BTreeMap<IpAddr, NodeAddressEntry>, MapsError> {
        let entries = self.node_addresses_map()?.iter().collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(|error| self.failed("read", map::NODE_ADDRESSES, "all entries", error))?;
        let entry = |node: NodeAddress| NodeAddressEntry {
            tunnel: address::from_bytes(node.tunnel),
            local: node.flags & entries::LOCAL != 0,
        };
        Ok(entries.into_iter().map(|(key, node)| (address::from_bytes(key), entry(node))).collect())
    }

    /// Adds or replaces the node that has an InternalIP.
    pub fn set_node_address(&self, address: IpAddr, node: NodeAddressEntry) -> Result<(), MapsError> {
        let value = NodeAddress { tunnel: address::to_bytes(node.tunnel), flags: flags(node.local) };
        let written = self.node_addresses_map()?.insert(address::to_bytes(address), value, 0);
        written.map_err(|error| self.failed("write", map::NODE_ADDRESSES, address, error))
    }

    /// Removes an InternalIP. One that is not there is no error.
    pub fn remove_node_address(&self, address: IpAddr) -> Result<(), MapsError> {
        let removed = self.node_addresses_map()?.remove(&address::to_bytes(address));
        unless_absent(removed).map_err(|error| self.failed("delete", map::NODE_ADDRESSES, address, error))
    }

    /// What the programs know of this node; all zeros until somebody wrote it.
    pub fn config(&self) -> Result<Config, MapsError> {
        let read = self.config_map()?.get(&0, 0);
        read.map_err(|error| self.failed("read", map::CONFIG, "entry 0", error))
    }

    /// Tells the programs what they must know of this node.
    pub fn set_config(&self, config: Config) -> Result<(), MapsError> {
        let written = self.config_map()?.set(0, config, 0);
        written.map_err(|error| self.failed("write", map::CONFIG, "entry 0", error))
    }

    /// Lets packets leave past `weft0` for this long from now on.
    pub fn lease_fast_path(&self, span: Duration) -> Result<(), MapsError> {
        let failed = |error| self.failed("write", map::FAST_PATH_LEASE, "entry 0", error);
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| failed(MapError::IoError(errno.into())))?;
        let until = Duration::from(now).saturating_add(span);
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        let mut lease: Array<_, u64> = self.typed(map::FAST_PATH_LEASE)?;
        lease.set(0, until, 0).map_err(failed)
    }

    /// Whether packets may leave past `weft0` now.
    pub fn fast_path_is_leased(&self) -> Result<bool, MapsError> {
        let failed = |error| self.failed("read", map::FAST_PATH_LEASE, "entry 0", error);
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| failed(MapError::IoError(errno.into())))?;
        let lease: Array<_, u64> = self.typed(map::FAST_PATH_LEASE)?;
        let until = lease.get(&0, 0).map_err(failed)?;
        Ok(Duration::from(now) < Duration::from_nanos(until))
    }

    /// The addresses of the pods on this node. The plugin writes them.
    pub fn endpoints(&self) -> Result<BTreeMap<IpAddr, Endpoint>, MapsError> {
        let entries = self.endpoints_map()?.iter().collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(|error| self.failed("read", map::ENDPOINTS, "all entries", error))?;
        Ok(entries.into_iter().map(|(key, endpoint)| (address::from_bytes(key), endpoint)).collect())
    }

    /// Adds or replaces the pod interface that has an address. For whoever holds the allocation lock.
    pub fn set_endpoint(&self, address: IpAddr, endpoint: Endpoint) -> Result<(), MapsError> {
        let written = self.endpoints_map()?.insert(address::to_bytes(address), endpoint, 0);
        written.map_err(|error| self.failed("write", map::ENDPOINTS, address, error))
    }

    /// Removes a pod's address. One that is not there is no error. For whoever holds the allocation lock.
    pub fn remove_endpoint(&self, address: IpAddr) -> Result<(), MapsError> {
        let removed = self.endpoints_map()?.remove(&address::to_bytes(address));
        unless_absent(removed).map_err(|error| self.failed("delete", map::ENDPOINTS, address, error))
    }

    fn endpoints_map(&self) -> Result<HashMap<MapData, AddressBytes, Endpoint>, MapsError> {
        self.typed(map::ENDPOINTS)
    }

    fn nodes_map(&self) -> Result<LpmTrie<MapData, AddressBytes, Node>, MapsError> {
        self.typed(map::NODES)
    }

    fn node_addresses_map(&self) -> Result<HashMap<MapData, AddressBytes, NodeAddress>, MapsError> {
        self.typed(map::NODE_ADDRESSES)
    }

    fn config_map(&self) -> Result<Array<MapData, Config>, MapsError> {
        self.typed(map::CONFIG)
    }

    pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(&self, name: &str) -> Result<M, MapsError> {
        let opened = Map::from_map_data(self.data(name)?).and_then(M::try_from);
        opened.map_err(|error| MapsError::Open { path: self.directory.join(name), source: said(error) })
    }

    pub(super) fn data(&self, name: &str) -> Result<MapData, MapsError> {
        let failed = |source| MapsError::Open { path: self.directory.join(name), source };
        let held = self.held.get(name).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        MapData::from_fd(held.try_clone().map_err(failed)?).map_err(|error| failed(said(error)))
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
        name: &str,
        entry: impl fmt::Display,
        error: MapError,
    ) -> MapsError {
        MapsError::Access { operation, entry: entry.to_string(), path: self.directory.join(name), source: said(error) }
    }
}

/// Fails when a map that is already pinned in `directory` has another shape than this layout's. One that is absent is no error:
/// loading the programs makes it.
pub(super) fn check_existing(directory: &Path) -> Result<(), MapsError> {
    for (name, expected) in MapShape::ALL {
        match open(directory.join(name), expected) {
            Err(MapsError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => (),
            result => drop(result?),
        }
    }
    Ok(())
}

/// Opens a pinned map that has this shape.
fn open(path: PathBuf, expected: MapShape) -> Result<OwnedFd, MapsError> {
    let failed = |path, source| MapsError::Open { path, source };
    let descriptor = match bpf_calls::open(&path) {
        Ok(descriptor) => descriptor,
        Err(source) => return Err(failed(path, source)),
    };
    match bpf_calls::object(&descriptor) {
        Ok(Some(Object::Map(_))) => (),
        Ok(_) => return Err(MapsError::NotAMap(path)),
        Err(source) => return Err(failed(path, source)),
    }
    match MapShape::of_open(&descriptor) {
        Ok(found) if found == expected => Ok(descriptor),
        Ok(found) => Err(MapsError::Shape { path, found, expected }),
        Err(error) => Err(failed(path, said(error))),
    }
}

/// What the kernel said, in the form that prints its reason.
fn said(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::KeyNotFound => io::ErrorKind::NotFound.into(),
        other => io::Error::other(other),
    }
}

/// Removing what is not there is done already.
fn unless_absent(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn node_entry(node: &Node) -> NodeEntry {
    NodeEntry {
        tunnel: address::from_bytes(node.tunnel),
        source: address::from_bytes(node.source),
        local: node.flags & entries::LOCAL != 0,
        underlay: (node.underlay_ifindex != 0).then_some(node.underlay_ifindex),
    }
}

/// The key of a network in a map that is looked up by the longest prefix.
pub(super) fn prefix(network: IpNetwork) -> Key<AddressBytes> {
    Key::new(address::prefix_bits(network.ip(), network.prefix()), address::to_bytes(network.network()))
}

/// The network of a key; `None` for a prefix that is none of either family, which nobody writes.
pub(super) fn network(key: &Key<AddressBytes>) -> Option<IpNetwork> {
    let address = address::from_bytes(key.data());
    let bits = key.prefix_len().checked_sub(address::prefix_bits(address, 0))?;
    IpNetwork::new(address, u8::try_from(bits).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_keys_of_both_families_come_back_as_they_were() {
        for text in ["10.244.2.0/24", "0.0.0.0/0", "10.0.0.1/32", "fd00:10:244:2::/64", "::/0", "fd00::1/128"] {
            let expected: IpNetwork = text.parse().unwrap();
            assert_eq!(network(&prefix(expected)), Some(expected));
        }
    }
}
