//! Names and places: the pin directory, the maps and programs in it, the devices and the wire format.

/// Version of everything that is pinned. It is part of the pin directory's path.
pub const LAYOUT_VERSION: u32 = 2;

/// Where bpffs holds the maps and programs of this layout, on the node and in the agent's container.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/weft/v2";

/// The VXLAN device, one a node, in external (collect metadata) mode.
pub const OVERLAY_DEVICE: &str = "weft0";
/// Host sides of pod interfaces are named this, then 11 hexadecimal digits.
pub const POD_DEVICE_PREFIX: &str = "weft";
/// Link group (`IFLA_GROUP`) of the host sides of all pod interfaces: "weft" in ASCII.
pub const LINK_GROUP: u32 = 0x7765_6674;
/// UDP port of VXLAN (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;
/// The VXLAN network identifier of pod traffic.
pub const POD_VNI: u32 = 1;
/// Bytes that VXLAN adds inside an IPv4 underlay: IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14.
pub const OVERHEAD_IPV4: u32 = 50;
/// Bytes that VXLAN adds inside an IPv6 underlay: IPv6 40 + UDP 8 + VXLAN 8 + inner Ethernet 14.
pub const OVERHEAD_IPV6: u32 = 70;

/// Priority of our `cls_bpf` filters on a clsact qdisc.
pub const FILTER_PRIORITY: u16 = 1;
/// Handle of our `cls_bpf` filters.
pub const FILTER_HANDLE: u32 = 1;

/// Names of the maps. Each is pinned in [`PIN_DIRECTORY`] under its name.
pub mod map {
    /// Hash: address of a pod on this node -> [`crate::entries::Endpoint`]. Written by whoever holds the allocation lock.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Longest prefix match: podCIDR -> [`crate::entries::Node`]. Written by the agent.
    pub const NODES: &str = "NODES";
    /// Hash: InternalIP of any node -> [`crate::entries::NodeAddress`]. Written by the agent.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// Array with one [`crate::entries::Config`]. Written by the agent.
    pub const CONFIG: &str = "CONFIG";
    /// Array with one time, in nanoseconds of CLOCK_MONOTONIC: until then packets may leave past the VXLAN device. The agent writes it again
    /// and again, because somebody must follow the routes of the underlay: without an agent all go by the device.
    pub const FAST_PATH_LEASE: &str = "FAST_PATH_LEASE";
    /// Per-CPU array of packet counts by (program, reason), see [`crate::reason::counter_index`]. Written by programs.
    pub const DROPS: &str = "DROPS";
    /// Hash: what clients dial -> [`crate::services::Frontend`]. Written by the agent.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Hash: service -> [`crate::services::Service`]. Written by the agent.
    pub const SERVICES: &str = "SERVICES";
    /// Hash: [`crate::services::SlotKey`] -> [`crate::services::Backend`]. Written by the agent.
    pub const BACKENDS: &str = "BACKENDS";
    /// Hash: [`crate::services::ServingKey`] -> [`crate::services::Serving`]. Written by the agent.
    pub const SERVING: &str = "SERVING";
    /// Longest prefix match: [`crate::services::SourceRangeKey`] -> 1. Written by the agent.
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// Longest prefix match: ServiceCIDR -> 1. Written by the agent.
    pub const SERVICE_CIDRS: &str = "SERVICE_CIDRS";
    /// Array with one [`crate::services::ServicesConfig`]. Written by the agent.
    pub const SERVICES_CONFIG: &str = "SERVICES_CONFIG";
    /// LRU hash: cookie of a network namespace -> [`crate::services::PodAddresses`]. Written by the plugin; cookies are never used again.
    pub const POD_NAMESPACES: &str = "POD_NAMESPACES";
    /// LRU hash: [`crate::services::AffinityKey`] -> [`crate::services::Affinity`]. Written by programs.
    pub const AFFINITY: &str = "AFFINITY";
    /// LRU hash: [`crate::services::FlowKey`] -> [`crate::services::Flow`], of flows that are kept: each has an entry of [`FLOW_SLOTS`]. Written by
    /// programs.
    pub const FLOWS: &str = "FLOWS";
    /// The same of flows that have not proved yet that they go on, of which the longest unused give way: a flood leaves the others alone.
    pub const NEW_FLOWS: &str = "NEW_FLOWS";
    /// Array of the keys of the flows in FLOWS, of the directions from clients. Without a place here no flow gets into FLOWS. Written by programs.
    pub const FLOW_SLOTS: &str = "FLOW_SLOTS";
    /// Array with one [`crate::services::Tracked`]. Written by programs.
    pub const TRACKED: &str = "TRACKED";
    /// LRU hash: [`crate::fragments::DatagramKey`] -> [`crate::fragments::Datagram`]. Written by programs.
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// LRU hash: [`crate::fragments::HeldKey`] -> [`crate::fragments::Held`]. Written by programs.
    pub const HELD_FRAGMENTS: &str = "HELD_FRAGMENTS";
    /// Per-CPU array with one [`crate::fragments::Held`], in which programs put together an entry of the map above.
    pub const FRAGMENT_BUFFER: &str = "FRAGMENT_BUFFER";
    /// Array by a hash of a source and a destination: when a translated flow last had packets between such two, in nanoseconds of
    /// CLOCK_MONOTONIC. Written by programs.
    pub const FRAGMENT_PAIRS: &str = "FRAGMENT_PAIRS";
    /// LRU hash: [`crate::services::SocketFlowKey`] -> [`crate::services::SocketFlow`]. Written by programs.
    pub const SOCKET_FLOWS: &str = "SOCKET_FLOWS";
    /// Socket storage: what a connected socket dialled, as [`crate::services::SocketPeer`]. Written by programs.
    pub const SOCKET_PEERS: &str = "SOCKET_PEERS";
    /// Per-CPU array of connections and messages refused or dropped at sockets, by reason. Written by programs.
    pub const SOCKET_DROPS: &str = "SOCKET_DROPS";

    /// All maps.
    pub const ALL: [&str; 26] = [
        ENDPOINTS,
        NODES,
        NODE_ADDRESSES,
        CONFIG,
        FAST_PATH_LEASE,
        DROPS,
        FRONTENDS,
        SERVICES,
        BACKENDS,
        SERVING,
        SOURCE_RANGES,
        SERVICE_CIDRS,
        SERVICES_CONFIG,
        POD_NAMESPACES,
        AFFINITY,
        FLOWS,
        NEW_FLOWS,
        FLOW_SLOTS,
        TRACKED,
        DATAGRAMS,
        HELD_FRAGMENTS,
        FRAGMENT_BUFFER,
        FRAGMENT_PAIRS,
        SOCKET_FLOWS,
        SOCKET_PEERS,
        SOCKET_DROPS,
    ];
}

/// Names of the programs. Each is pinned in [`PIN_DIRECTORY`] under its name.
pub mod program {
    /// clsact ingress of the host side of a pod's interface: what the pod sends.
    pub const FROM_POD: &str = "from_pod";
    /// clsact egress of the host side of a pod's interface: what the host's stack sends to the pod.
    pub const TO_POD: &str = "to_pod";
    /// clsact ingress of [`super::OVERLAY_DEVICE`]: what the kernel decapsulated.
    pub const FROM_OVERLAY: &str = "from_overlay";
    /// clsact ingress of the devices below the overlay: VXLAN packets, before the kernel's own decapsulation.
    pub const FROM_UNDERLAY: &str = "from_underlay";

    /// All programs for packets.
    pub const ALL: [&str; 4] = [FROM_POD, TO_POD, FROM_OVERLAY, FROM_UNDERLAY];

    /// Programs for sockets, on the root of the cgroups: named after their hooks. The link of each is pinned as `<name>_link`.
    pub const SOCKET: [&str; 8] =
        ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

    /// Names of the pinned links: each keeps the program at the same place in [`SOCKET`] attached.
    pub const SOCKET_LINKS: [&str; SOCKET.len()] = [
        "connect4_link",
        "connect6_link",
        "sendmsg4_link",
        "sendmsg6_link",
        "recvmsg4_link",
        "recvmsg6_link",
        "getpeername4_link",
        "getpeername6_link",
    ];
}
