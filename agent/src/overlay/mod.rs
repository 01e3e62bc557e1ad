//! The overlay between nodes: what it should be, what differs, and the loop that brings one to the other.

pub mod state;
