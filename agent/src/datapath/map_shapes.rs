//! The shapes of the pinned maps: kind, sizes and number of entries.

use std::fmt;
use std::os::fd::OwnedFd;

use aya::maps::lpm_trie::Key;
use aya::maps::{MapData, MapError, MapType};
use weft_common::address::AddressBytes;
use weft_common::entries::{self, Config, Endpoint, Node, NodeAddress};
use weft_common::fragments::{self, Datagram, DatagramKey, Held, HeldKey};
use weft_common::layout::map;
use weft_common::reason::{COUNTERS, REASONS_MAX};
use weft_common::services::{
    self, Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, FrontendKey, PodAddresses, Service, ServicesConfig,
    Serving, ServingKey, SlotKey, SocketFlow, SocketFlowKey, SocketPeer, SourceRangeKey, Tracked,
};

/// `BPF_F_NO_PREALLOC`: memory grows with the entries. Longest prefix maps have no other way.
const NO_PREALLOC: u32 = 1;

/// What makes a pinned map usable by the programs and the code of this layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapShape {
    /// The kind of map.
    pub kind: MapType,
    /// Bytes in a key.
    pub key_size: u32,
    /// Bytes in a value (in one CPU's value, for a per-CPU map).
    pub value_size: u32,
    /// Most entries.
    pub max_entries: u32,
    /// Flags of its creation.
    pub flags: u32,
}

impl MapShape {
    /// Shapes of all maps of this layout, by name. They say in numbers what the programs declare; a test compares the two.
    pub const ALL: [(&'static str, Self); map::ALL.len()] = [
        (map::ENDPOINTS, Self::hash::<AddressBytes, Endpoint>(entries::MAX_ENDPOINTS)),
        (map::NODES, Self::longest_prefix::<AddressBytes, Node>(entries::MAX_NODES)),
        (map::NODE_ADDRESSES, Self::hash::<AddressBytes, NodeAddress>(entries::MAX_NODE_ADDRESSES)),
        (map::CONFIG, Self::array::<Config>()),
        (map::FAST_PATH_LEASE, Self::array::<u64>()),
        (map::DROPS, Self::counters(COUNTERS)),
        (map::FRONTENDS, Self::hash::<FrontendKey, Frontend>(services::MAX_FRONTENDS)),
        (map::SERVICES, Self::hash::<u64, Service>(services::MAX_SERVICES)),
        (map::BACKENDS, Self::hash::<SlotKey, Backend>(services::MAX_BACKENDS)),
        (map::SERVING, Self::hash::<ServingKey, Serving>(services::MAX_SERVING)),
        (map::SOURCE_RANGES, Self::longest_prefix::<SourceRangeKey, u32>(services::MAX_SOURCE_RANGES)),
        (map::SERVICE_CIDRS, Self::longest_prefix::<AddressBytes, u32>(services::MAX_SERVICE_CIDRS)),
        (map::SERVICES_CONFIG, Self::array::<ServicesConfig>()),
        (map::POD_NAMESPACES, Self::least_recently_used::<u64, PodAddresses>(services::MAX_POD_NAMESPACES)),
        (map::AFFINITY, Self::least_recently_used::<AffinityKey, Affinity>(services::MAX_AFFINITY)),
        (map::FLOWS, Self::least_recently_used::<FlowKey, Flow>(services::MAX_FLOWS)),
        (map::NEW_FLOWS, Self::least_recently_used::<FlowKey, Flow>(services::MAX_NEW_FLOWS)),
        (map::FLOW_SLOTS, Self::of::<u32, FlowKey>(MapType::Array, services::MAX_KEPT_FLOWS, 0)),
        (map::TRACKED, Self::array::<Tracked>()),
        (map::DATAGRAMS, Self::least_recently_used::<DatagramKey, Datagram>(fragments::MAX_DATAGRAMS)),
        (map::HELD_FRAGMENTS, Self::least_recently_used::<HeldKey, Held>(fragments::MAX_HELD)),
        (map::FRAGMENT_BUFFER, Self::of::<u32, Held>(MapType::PerCpuArray, 1, 0)),
        (map::FRAGMENT_PAIRS, Self::of::<u32, u64>(MapType::Array, fragments::FRAGMENT_PAIRS, 0)),
        (map::SOCKET_FLOWS, Self::least_recently_used::<SocketFlowKey, SocketFlow>(services::MAX_SOCKET_FLOWS)),
        // Its key is a socket's descriptor, and it has as many entries as there are sockets.
        (map::SOCKET_PEERS, Self::of::<u32, SocketPeer>(MapType::SkStorage, 0, NO_PREALLOC)),
        (map::SOCKET_DROPS, Self::counters(REASONS_MAX)),
    ];

    /// The shape of the map with a name.
    pub fn of_map(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, shape)| *shape)
    }

    const fn of<K, V>(kind: MapType, max_entries: u32, flags: u32) -> Self {
        Self { kind, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32, max_entries, flags }
    }

    const fn hash<K, V>(max_entries: u32) -> Self {
        Self::of::<K, V>(MapType::Hash, max_entries, NO_PREALLOC)
    }

    const fn longest_prefix<K, V>(max_entries: u32) -> Self {
        Self::of::<Key<K>, V>(MapType::LpmTrie, max_entries, NO_PREALLOC)
    }

    /// All its memory is there from the beginning: the kernel refuses others of the kind.
    const fn least_recently_used<K, V>(max_entries: u32) -> Self {
        Self::of::<K, V>(MapType::LruHash, max_entries, 0)
    }

    const fn array<V>() -> Self {
        Self::of::<u32, V>(MapType::Array, 1, 0)
    }

    const fn counters(number: u32) -> Self {
        Self::of::<u32, u64>(MapType::PerCpuArray, number, 0)
    }

    pub(super) fn of_open(map: &OwnedFd) -> Result<Self, MapError> {
        let map = MapData::from_fd(map.try_clone().map_err(MapError::IoError)?)?;
        let info = map.info()?;
        Ok(Self {
            kind: info.map_type()?,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

impl fmt::Display for MapShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        write!(f, "{kind:?}, key {key_size}, value {value_size}, {max_entries} entries, flags {flags:#x}")
    }
}
