//! What operators ask: one file a verb of the `weft` command. The answers as data, whose JSON names stay as they are, and pure
//! functions that make them out of what should be there and what is there, so that the command can use them while the agent is away.

mod drops;
#[cfg(test)]
mod fixture;
mod flows;
#[cfg(test)]
mod flows_tests;
mod nodes;
mod pod_damage;
mod pods;
#[cfg(test)]
mod pods_tests;
mod programs;
mod routes;
mod service_maps;
mod services;
#[cfg(test)]
mod services_tests;
mod status;
mod ways;

use serde::{Deserialize, Serialize};

pub use drops::{Drop, DropsReport, counters, drops, is_possible, sender_told};
pub use flows::{
    FlowFilter, FlowKind, FlowReport, FlowService, FlowState, ServiceName, ServiceNames, affinity, forward_key,
    packets, tcp_socket, udp_socket,
};
pub use nodes::{NodeReport, NodesReport, nodes, nodes_of_maps};
pub use pod_damage::{Damage, DamageKind};
pub use pods::{Evidence, PodCounters, PodReport, PodsReport, Records, pods, select};
pub use programs::{ProgramReport, ProgramsStatus, programs};
pub use routes::{RouteReport, RouteState, RoutesReport, owners, routes, routes_of_maps};
pub use service_maps::Held;
pub use services::{Address, FrontendReport, Policy, ServicePortReport, ServiceReport, ServicesReport, services};
pub use status::{ApiServerStatus, FastPathSupport, KernelStatus, ServicesStatus, SocketsMode, Status};
pub use ways::{PeerReport, WayReport, counted, peers, peers_of_maps};

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The agent of this node.
    Agent,
    /// The pinned maps, the state directory and the kernel: the agent does not answer.
    Offline,
}
