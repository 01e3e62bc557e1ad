//! The cluster as the agent needs it: plain data that knows neither Kubernetes' types nor the kernel's.

pub mod cluster;
pub mod names;
pub mod problem;
pub mod services;
