//! Keys and values of the maps for Services. Addresses are [`AddressBytes`], ports are in network byte order, all other numbers in
//! the CPU's. Fields called `zero` are always that: keys are compared byte by byte.

use crate::address::AddressBytes;

/// A port in network byte order.
pub type PortBytes = [u8; 2];

/// Key of FRONTENDS: what a client dials. Protocol 0 with port 0 stands for all that an address does not serve.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The service address.
    pub address: AddressBytes,
    /// Its port.
    pub port: PortBytes,
    /// TCP, UDP or SCTP, by its number (IANA, "Protocol Numbers").
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
}

/// Value of FRONTENDS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// The key in SERVICES.
    pub service: u64,
    /// Flags below.
    pub flags: u32,
    /// Zero.
    pub zero: u32,
}

/// Flags of [`Frontend`].
pub mod frontend {
    /// A cluster IP: `internalTrafficPolicy` decides. All others are external addresses.
    pub const INTERNAL: u32 = 1;
    /// Only clients in SOURCE_RANGES of the service.
    pub const SOURCE_RANGES: u32 = 2;
    /// Only for clients in the host's network namespace: a NodePort on a loopback address.
    pub const HOST_ONLY: u32 = 4;
    /// The rest of a cluster IP: nothing is served here, every packet is refused. `service` is 0.
    pub const REST: u32 = 8;
    /// A NodePort on an address of this node.
    pub const NODE_PORT: u32 = 16;
}

/// Backends among which one is chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackendSet {
    /// Hash of the content: the first half of the keys in BACKENDS.
    pub generation: u64,
    /// How many. Their indexes are 0 to `count - 1`.
    pub count: u32,
    /// Zero.
    pub zero: u32,
}

/// Value of SERVICES: one port of a Service, in one family. The key is the hash of its name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// All backends that clients may reach. Empty if, and only if, there is none anywhere.
    pub cluster: BackendSet,
    /// Those on this node.
    pub local: BackendSet,
    /// How long a client stays with its backend, in seconds; 0: session affinity is off.
    pub affinity_seconds: u32,
    /// Flags below.
    pub flags: u32,
}

/// Flags of [`Service`].
pub mod service {
    /// `internalTrafficPolicy: Local`.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// `externalTrafficPolicy: Local`. Clients on this node use the cluster set all the same.
    pub const EXTERNAL_LOCAL: u32 = 2;
}

/// Key of BACKENDS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// Of the [`BackendSet`].
    pub generation: u64,
    /// Below its `count`.
    pub index: u32,
    /// Zero.
    pub zero: u32,
}

/// Where connections end. The value of BACKENDS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: AddressBytes,
    /// Its port.
    pub port: PortBytes,
    /// Zero.
    pub zero: [u8; 2],
}

/// Key of SERVING: a backend that a service has now.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServingKey {
    /// The service.
    pub service: u64,
    /// The backend's address.
    pub address: AddressBytes,
    /// The backend's port.
    pub port: PortBytes,
    /// Zero.
    pub zero: [u8; 6],
}

/// Value of SERVING: the sets that have the backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Serving {
    /// [`IN_CLUSTER`], [`IN_LOCAL`] or both.
    pub sets: u32,
}

/// The backend is in the cluster set.
pub const IN_CLUSTER: u32 = 1;
/// The backend is in the local set.
pub const IN_LOCAL: u32 = 2;

/// Key of AFFINITY.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The service.
    pub service: u64,
    /// The client's address.
    pub client: AddressBytes,
}

/// Value of AFFINITY: where the last new connection of a client went.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// The backend.
    pub backend: Backend,
    /// Zero.
    pub zero: u32,
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
}

/// Data of the keys of SOURCE_RANGES: 64 bits of service, then the prefix of the clients' addresses. The value is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRangeKey {
    /// The service, as its number lies in memory.
    pub service: [u8; 8],
    /// The first address of the range.
    pub client: AddressBytes,
}

/// What programs need to know of this node for Services: the entry of SERVICES_CONFIG.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicesConfig {
    /// The pods' IPv4 gateway: the source of a pod's packets to itself through a Service. Zeros where pods have no IPv4.
    pub gateway_v4: AddressBytes,
    /// The same of IPv6.
    pub gateway_v6: AddressBytes,
    /// By what source ranges and affinity know processes of this node that use IPv4: its first InternalIP. Zeros where it has none.
    pub host_v4: AddressBytes,
    /// The same of IPv6.
    pub host_v6: AddressBytes,
    /// Cookie of the host's network namespace; 0: that of the initial one.
    pub host_namespace: u64,
    /// [`SOCKETS_OF_HOST_ONLY`] or 0.
    pub flags: u32,
    /// Zero.
    pub zero: u32,
}

/// Flag of [`ServicesConfig`]: sockets of pods are left alone, and their packets translated.
pub const SOCKETS_OF_HOST_ONLY: u32 = 1;

/// Value of POD_NAMESPACES: a pod's addresses by the cookie of its network namespace. Zeros where it has none of a family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddresses {
    /// IPv4.
    pub v4: AddressBytes,
    /// IPv6.
    pub v6: AddressBytes,
}

/// Key of SOCKET_FLOWS: a peer of a UDP socket of the host's namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketFlowKey {
    /// The socket's cookie.
    pub socket: u64,
    /// The peer's address.
    pub address: AddressBytes,
    /// The peer's port.
    pub port: PortBytes,
    /// [`TO_SERVICE`] or [`FROM_BACKEND`].
    pub direction: u8,
    /// Zero.
    pub zero: [u8; 5],
}

/// The peer is what the process dialled; the value is the backend.
pub const TO_SERVICE: u8 = 1;
/// The peer is a backend; the value is what the process dialled.
pub const FROM_BACKEND: u8 = 2;

/// Value of SOCKET_FLOWS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFlow {
    /// The service.
    pub service: u64,
    /// The other address.
    pub address: AddressBytes,
    /// The other port.
    pub port: PortBytes,
    /// The set that the backend was chosen from: [`IN_CLUSTER`] or [`IN_LOCAL`].
    pub set: u8,
    /// Zero.
    pub zero: [u8; 5],
}

/// Value of SOCKET_PEERS: what a connected socket dialled. It holds as long as the backend is the socket's peer: a socket can be
/// connected again, or that may fail.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPeer {
    /// The service address that was dialled.
    pub dialled: AddressBytes,
    /// The backend's address.
    pub backend: AddressBytes,
    /// The port that was dialled.
    pub dialled_port: PortBytes,
    /// The backend's port.
    pub backend_port: PortBytes,
    /// Zero.
    pub zero: [u8; 4],
}

/// Key of FLOWS and NEW_FLOWS: a packet of a translated flow as it arrives, in either direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: AddressBytes,
    /// Destination address.
    pub destination: AddressBytes,
    /// Source port.
    pub source_port: PortBytes,
    /// Destination port.
    pub destination_port: PortBytes,
    /// TCP, UDP or SCTP.
    pub protocol: u8,
    /// Zero.
    pub zero: [u8; 3],
}

/// Value of FLOWS and NEW_FLOWS: what the packet becomes. The key of the other direction is this, with source and destination
/// exchanged.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address after translation.
    pub source: AddressBytes,
    /// Destination address after translation.
    pub destination: AddressBytes,
    /// Source port after translation.
    pub source_port: PortBytes,
    /// Destination port after translation.
    pub destination_port: PortBytes,
    /// Flags below.
    pub flags: u16,
    /// When the flow began, in seconds of CLOCK_MONOTONIC without the higher bits: they tell how old a flow in NEW_FLOWS is.
    pub began: u16,
    /// The service.
    pub service: u64,
    /// When the last packet of either direction came, in nanoseconds of CLOCK_MONOTONIC; up to a second before it did.
    pub seen: u64,
}

/// Flags of [`Flow`].
pub mod flow {
    /// From the backend to the client; else from the client to the service.
    pub const REPLY: u16 = 1;
    /// The backend was chosen from the local set.
    pub const LOCAL_SET: u16 = 2;
    /// The end of the connection was seen: FIN of both sides, RST, or what SCTP has for it.
    pub const CLOSING: u16 = 4;
    /// TCP: the sender of this direction sends no more (FIN).
    pub const ENDED: u16 = 8;
    /// The backend has answered. Of a flow in NEW_FLOWS: those in FLOWS all were.
    pub const ANSWERED: u16 = 16;
}

/// Value of TRACKED: the protocols of which a flow was ever translated on this node. Packets of others need not be looked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// 1 for TCP.
    pub tcp: u8,
    /// 1 for UDP.
    pub udp: u8,
    /// 1 for SCTP.
    pub sctp: u8,
    /// Zero.
    pub zero: [u8; 5],
}

const _: () = assert!(size_of::<FrontendKey>() == 20);
const _: () = assert!(size_of::<Frontend>() == 16);
const _: () = assert!(size_of::<Service>() == 40);
const _: () = assert!(size_of::<SlotKey>() == 16);
const _: () = assert!(size_of::<Backend>() == 20);
const _: () = assert!(size_of::<ServingKey>() == 32);
const _: () = assert!(size_of::<Serving>() == 4);
const _: () = assert!(size_of::<AffinityKey>() == 24);
const _: () = assert!(size_of::<Affinity>() == 32);
const _: () = assert!(size_of::<SourceRangeKey>() == 24);
const _: () = assert!(size_of::<ServicesConfig>() == 80);
const _: () = assert!(size_of::<PodAddresses>() == 32);
const _: () = assert!(size_of::<SocketFlowKey>() == 32);
const _: () = assert!(size_of::<SocketFlow>() == 32);
const _: () = assert!(size_of::<SocketPeer>() == 40);
const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<Flow>() == 56);
const _: () = assert!(size_of::<Tracked>() == 8);

/// Most frontends.
pub const MAX_FRONTENDS: u32 = 131_072;
/// Most ports of Services, a family each.
pub const MAX_SERVICES: u32 = 65_536;
/// Most slots of backend sets, two sets a service, old and new while they change.
pub const MAX_BACKENDS: u32 = 524_288;
/// Most backends of services.
pub const MAX_SERVING: u32 = 524_288;
/// Most clients with affinity. The least recently used gives way.
pub const MAX_AFFINITY: u32 = 65_536;
/// Most source ranges.
pub const MAX_SOURCE_RANGES: u32 = 65_536;
/// Most ServiceCIDRs.
pub const MAX_SERVICE_CIDRS: u32 = 256;
/// Most network namespaces of pods: the one whose sockets were quiet for longest gives way.
pub const MAX_POD_NAMESPACES: u32 = 8192;
/// Most peers of UDP sockets of the host, two entries each.
pub const MAX_SOCKET_FLOWS: u32 = 65_536;
/// Most directions of flows in FLOWS, with as much room beside those that have slots that the map never lets go of one by itself: of
/// an LRU map each CPU keeps 128 free entries to itself, and a map with none left looks for entries to let go of.
pub const MAX_FLOWS: u32 = 131_072;
/// Most flows that are kept, come what may.
pub const MAX_KEPT_FLOWS: u32 = 49_152;
/// Most directions of flows in NEW_FLOWS.
pub const MAX_NEW_FLOWS: u32 = 32_768;

#[cfg(feature = "user")]
mod user {
    use super::{
        Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, FrontendKey, PodAddresses, Service, ServicesConfig,
        Serving, ServingKey, SlotKey, SocketFlow, SocketFlowKey, SocketPeer, SourceRangeKey, Tracked,
    };

    macro_rules! plain {
        ($($name:ty),+ $(,)?) => {
            $(
                // SAFETY: a `#[repr(C)]` struct of integers and byte arrays without padding (its size is asserted above).
                unsafe impl aya::Pod for $name {}
            )+
        };
    }
    plain!(
        FrontendKey,
        Frontend,
        Service,
        SlotKey,
        Backend,
        ServingKey,
        Serving,
        AffinityKey,
        Affinity,
        SourceRangeKey,
        ServicesConfig,
        PodAddresses,
        SocketFlowKey,
        SocketFlow,
        SocketPeer,
        FlowKey,
        Flow,
        Tracked,
    );
}
