//! The test bed: network namespaces, nodes and real Kubernetes clusters that leave nothing behind.
//!
//! Everything is made under an [`instance::Instance`]: its id is part of every name, and whoever starts next removes what a
//! dead owner left.

pub mod answering;
pub mod binaries;
pub mod cache;
pub mod certificates;
pub mod cgroup;
pub mod cluster;
pub mod command;
pub mod containerd;
pub mod control_group;
mod control_plane;
pub mod control_process;
pub mod dns;
pub mod e2e;
mod e2e_output;
pub mod echo;
pub mod image;
pub mod images;
pub mod instance;
mod kube_proxy;
pub mod kubeconfig;
pub mod kubectl;
mod kubelet;
mod leftovers;
pub mod logs;
mod machine;
pub mod netns;
pub mod network;
pub mod node;
mod node_init;
pub mod owned_cluster;
pub mod plan;
pub mod pod_namespace;
mod process;
mod reboot;
pub mod reexec;
mod socket_calls;
pub mod socket_program;
pub mod sockets;
pub mod syscalls;
pub mod tools;
pub mod traffic;
mod traffic_packets;
mod traffic_stream;
mod underlay;
pub mod wait;
pub mod weft_image;
pub mod wiring;
