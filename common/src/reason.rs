//! Why a program did not let a packet through, and where it is counted.

/// A program that counts drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Program {
    /// What a pod sends.
    FromPod = 0,
    /// What the host's stack sends to a pod.
    ToPod = 1,
    /// What the VXLAN device received.
    FromOverlay = 2,
    /// What a device below the overlay received.
    FromUnderlay = 3,
}

impl Program {
    /// All programs, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::FromPod, Self::ToPod, Self::FromOverlay, Self::FromUnderlay];

    /// The name in metrics and tables: that of the program in `layout::program`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => crate::layout::program::FROM_POD,
            Self::ToPod => crate::layout::program::TO_POD,
            Self::FromOverlay => crate::layout::program::FROM_OVERLAY,
            Self::FromUnderlay => crate::layout::program::FROM_UNDERLAY,
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet was dropped. Numbers are part of the layout: new ones go to the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason with a number.
            pub const fn of_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The name in metrics and tables.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name),+ } }

            /// One sentence for people.
            pub const fn explanation(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),+)),+ } }
        }
    };
}

reasons! {
    /// The packet ends inside a header.
    Truncated = 0, "truncated";
    /// Neither ARP nor well-formed IPv4 or IPv6.
    NotIp = 1, "not_ip";
    /// A neighbour, router or multicast listener message of a link-local address: expected, not answered.
    LinkLocalIgnored = 2, "link_local_ignored";
    /// The source is not an address of the pod that sent the packet.
    SourceNotPod = 3, "source_not_pod";
    /// The destination is not an address of the pod behind this device.
    DestinationNotPod = 4, "destination_not_pod";
    /// The configuration map is empty: the agent has not finished its first start on this node.
    NotConfigured = 5, "not_configured";
    /// A helper of the kernel refused (tunnel key, redirect, change of type).
    HelperFailed = 6, "helper_failed";
    /// No tunnel metadata: the packet did not come out of a VXLAN packet.
    NoTunnelKey = 7, "no_tunnel_key";
    /// A VXLAN network identifier that is not ours.
    WrongVni = 8, "wrong_vni";
    /// The outer source is not an InternalIP of another node of the cluster.
    OuterSourceUnknown = 9, "outer_source_unknown";
    /// The inner source belongs to no node, or to another one than the outer source.
    InnerSourceMismatch = 10, "inner_source_mismatch";
    /// The inner destination is neither a pod of this node, nor in its podCIDR, nor an address of the node itself.
    NotForThisNode = 11, "not_for_this_node";
    /// The outer destination is not an InternalIP of this node; nodes send to those only.
    OuterDestinationUnknown = 12, "outer_destination_unknown";
    /// The VXLAN header has a flag or a reserved bit that RFC 7348 does not know.
    BadVxlanHeader = 13, "bad_vxlan_header";
    /// A pod sent UDP to the VXLAN port of a node: it would arrive with the address of the pod's node.
    VxlanFromPod = 14, "vxlan_from_pod";
    /// An IPv4 source route option, or an IPv6 routing header with segments left: it leads past what is checked.
    SourceRouted = 15, "source_routed";
    /// IPv6 extension headers or IPv4 options that are malformed, more than anybody sends, or cut off before the transport header.
    BadHeaderChain = 16, "bad_header_chain";
    /// A pod sent to a loopback address; the node's own is not its business.
    LoopbackDestination = 17, "loopback_destination";
    /// The underlay marked congestion on a packet whose sender cannot hear of it (RFC 6040, section 4.2).
    CongestionUnheard = 18, "congestion_unheard";
    /// A Service without any endpoint, or a port that a cluster IP does not serve: refused, and the sender was told.
    ServiceRefused = 19, "service_refused";
    /// A Service has endpoints, but none on this node, and its traffic policy is Local.
    NoLocalEndpoint = 20, "no_local_endpoint";
    /// The client is not in the loadBalancerSourceRanges of the Service.
    SourceRange = 21, "source_range";
    /// An address of a ServiceCIDR that no Service has.
    ServiceUnallocated = 22, "service_unallocated";
    /// A fragment of a packet to or from a Service that came before its first one where there was no room to keep it, or SCTP whose port changes.
    ServiceFragment = 23, "service_fragment";
    /// No place is left for a flow through a Service that goes on, or no source port that keeps it apart from others to the same backend: refused, and a pod that sent was told.
    FlowTableFull = 24, "flow_table_full";
}

/// Reasons that the counter map has room for, a program. More than there are, so that a new reason needs no new layout.
pub const REASONS_MAX: u32 = 64;
/// Entries of the counter map.
pub const COUNTERS: u32 = REASONS_MAX * Program::ALL.len() as u32;

/// Counters of what happens at sockets, by reason, are entries of SOCKET_DROPS. Their name in metrics and tables.
pub const SOCKET: &str = "socket";

/// The entry of a (program, reason) in the counter map.
pub const fn counter_index(program: Program, reason: DropReason) -> u32 {
    program as u32 * REASONS_MAX + reason as u32
}

const _: () = assert!(DropReason::ALL.len() <= REASONS_MAX as usize);
