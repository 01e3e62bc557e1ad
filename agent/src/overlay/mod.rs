//! The overlay between nodes: what it should be, what differs, and the loop that brings one to the other.

pub mod change;
pub mod claims;
mod damage;
pub mod desired;
pub mod diff;
pub mod driver;
pub mod plan;
pub mod pod_devices;
pub mod pods;
pub mod reconcile;
pub mod repairs;
pub mod state;
pub mod sysctls;
mod underlay;
pub mod way;
#[cfg(test)]
mod way_tests;
