//! The weft CNI plugin as a library, so that the agent and the tests use the same code as the program that containerd calls.

pub mod attachment;
pub mod attachments;
pub mod mac_address;
pub mod node_facts;
