//! The API server: the only place that knows Kubernetes' types. Objects leave it as [`crate::model`].

pub mod connect;
pub mod convert;
pub mod node_object;
pub mod watch;
