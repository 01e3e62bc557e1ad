//! The API server: the only place that knows Kubernetes' types. Objects leave it as [`crate::model`].

mod addresses;
mod backoff;
mod cidrs;
pub mod connect;
pub mod contact;
pub mod convert;
pub mod convert_service;
#[cfg(test)]
mod convert_service_tests;
pub mod convert_slice;
#[cfg(test)]
mod convert_slice_tests;
mod failure;
#[cfg(test)]
mod fake_agent;
#[cfg(test)]
mod fake_server;
mod learned;
mod metadata;
pub mod node_object;
mod nodes;
mod presence;
pub mod servers;
#[cfg(test)]
mod servers_tests;
pub mod service_cidr_object;
pub mod service_object;
mod services;
#[cfg(test)]
mod services_tests;
pub mod slice_object;
mod transport;
pub mod watch;
#[cfg(test)]
mod watch_tests;
mod watcher;
