//! The kernel layer: the only place that imports aya or netlink.

mod addresses;
mod batch;
mod bpf_calls;
pub mod cgroup;
pub mod disturbance;
pub mod drop_counters;
pub mod fake;
pub mod fake_services;
#[cfg(test)]
mod fake_tests;
mod filters;
pub mod flow_maps;
mod host_sockets;
mod identity;
pub mod interest;
mod ipsec;
pub mod kernel;
mod links;
pub mod map_shapes;
pub mod maps;
mod masquerade;
mod netfilter;
pub mod netns_cookie;
pub mod notifications;
pub mod object;
pub mod old_layouts;
mod paths;
pub mod pins;
pub mod pod_interfaces;
mod pod_links;
pub mod probe;
pub mod program_facts;
pub mod programs;
pub mod requests;
pub mod requirements;
mod route_messages;
pub mod routes;
pub mod service_maps;
mod service_writes;
pub mod socket_links;
pub mod socket_programs;
pub mod steered_sockets;
pub mod sysctl;
mod underlay_filters;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use weft_common::services::ServingKey;

use crate::overlay::plan::Tunnel;
use crate::overlay::pod_devices::RecordedInterface;
use crate::overlay::state::{Change, OverlayState, Underlay};
use crate::overlay::way::Paths;
use crate::services::mirror::Mirror;
use crate::services::state::{ServiceState, Write};

/// What the reconciler needs of a kernel: a real one, or a fake one that injects faults.
#[expect(async_fn_in_trait, reason = "used with concrete types only, on one thread")]
pub trait Kernel {
    /// The device that carries these addresses (this node's InternalIPs): that of the first, with the smallest MTU of all.
    async fn underlay(&self, addresses: &[IpAddr]) -> Result<Underlay, KernelError>;

    /// How the kernel would reach each of these, and by which devices; and the devices that carry these addresses (this node's
    /// InternalIPs).
    async fn paths(&self, addresses: &[IpAddr], tunnels: &[Tunnel]) -> Result<Paths, KernelError>;

    /// What is there now, of the sysctls and pod interfaces that `watched` names. Sysctls that do not exist are left out.
    async fn observe(&self, watched: &Watched<'_>) -> Result<OverlayState, KernelError>;

    /// Whether a new look would find something changed of which the kernel tells nobody: sysctls and pins. Cheap, so it can be
    /// asked every other second.
    fn changed_silently(&self) -> bool;

    /// Lets packets leave past `weft0` for this long from now on. Whoever calls it follows the routes of the underlay meanwhile.
    fn lease_fast_path(&self, span: Duration) -> Result<(), KernelError>;

    /// One step. Applying a step that is already done succeeds.
    async fn apply(&self, change: &Change) -> Result<(), KernelError>;
}

/// What the services driver needs of a kernel: a real one, or a fake one that injects faults.
pub trait ServiceMaps {
    /// Everything that the maps for Services hold now, as far as the agent writes it.
    fn read(&self) -> Result<ServiceState, KernelError>;

    /// Whether they hold exactly what is known of them: asked again and again, so without a copy of all that there is.
    fn hold(&self, known: &Mirror) -> Result<bool, KernelError>;

    /// Makes these writes, in this order: a write is there before the next begins. Neighbours of the same kind may go in one batch. One
    /// that fails keeps no other from being tried; gives the failed ones by their place. Writing what is there, and deleting what is
    /// absent, succeed.
    fn write(&self, writes: &[Write]) -> Vec<(usize, KernelError)>;

    /// Ends the connected UDP sockets of the host's namespace that a Service steered to one of these backends, so that their
    /// processes dial anew. Gives how many.
    fn end_sockets(&self, gone: &BTreeSet<ServingKey>) -> Result<usize, KernelError>;
}

/// What to look at, of what there is more than weft's.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// Sysctls, by path below `/proc/sys/`.
    pub sysctls: &'a [String],
    /// Recorded pod interfaces, by the name of the host side.
    pub pods: &'a BTreeMap<String, RecordedInterface>,
}

impl Watched<'_> {
    /// Nothing more.
    pub const NOTHING: Watched<'static> = Watched { sysctls: &[], pods: &BTreeMap::new() };
}

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {source}")]
pub struct KernelError {
    /// What was asked: "add route", "read map".
    pub operation: &'static str,
    /// Of what: "10.244.2.0/24", "NODES".
    pub object: String,
    /// What the kernel, or the library in between, said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl KernelError {
    /// Whether it says that no device has an address, and not that looking failed.
    pub fn is_address_on_no_device(&self) -> bool {
        self.source.is::<kernel::AddressOnNoDevice>()
    }

    /// For `map_err`: says what was asked, and of what.
    fn of<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self { operation, object, source: source.into() }
    }
}
