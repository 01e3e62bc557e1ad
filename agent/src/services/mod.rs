//! Services: what the maps should hold, what differs, and the loop that brings one to the other.

pub mod plan;
pub mod snapshot;
pub mod state;
