//! The API server: the only place that knows Kubernetes' types. Objects leave it as [`crate::model`].

mod backoff;
pub mod connect;
pub mod contact;
pub mod convert;
mod failure;
pub mod node_object;
mod nodes;
mod presence;
mod transport;
pub mod watch;
#[cfg(test)]
mod watch_tests;
