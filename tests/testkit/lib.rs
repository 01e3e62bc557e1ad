//! The test bed: network namespaces, nodes and real Kubernetes clusters that leave nothing behind.
//!
//! Everything is made under an [`instance::Instance`]: its id is part of every name, and whoever starts next removes what a
//! dead owner left.

pub mod cache;
pub mod cgroup;
pub mod command;
pub mod instance;
mod leftovers;
pub mod netns;
pub mod wait;
