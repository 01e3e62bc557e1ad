//! The layout of what is pinned. A running node keeps the maps of its old agent, so a change needs a new version; an addition does not.

use std::fs;
use std::mem::offset_of;
use std::path::Path;

use weft_agent::datapath::map_shapes::MapShape;
use weft_common::entries::{Config, Endpoint, LOCAL, Node, NodeAddress};
use weft_common::fragments::{Datagram, DatagramKey, Held, HeldKey};
use weft_common::layout::{LAYOUT_VERSION, PIN_DIRECTORY, program};
use weft_common::reason::{DropReason, Program, SOCKET, counter_index};
use weft_common::services::{
    Affinity, AffinityKey, Backend, BackendSet, FROM_BACKEND, Flow, FlowKey, Frontend, FrontendKey, IN_CLUSTER,
    IN_LOCAL, PodAddresses, SOCKETS_OF_HOST_ONLY, Service, ServicesConfig, Serving, ServingKey, SlotKey, SocketFlow,
    SocketFlowKey, SocketPeer, SourceRangeKey, TO_SERVICE, Tracked, flow, frontend, service,
};

macro_rules! at {
    ($structure:ident, $field:ident) => {
        (concat!(stringify!($structure), ".", stringify!($field)), offset_of!($structure, $field))
    };
}

/// Where the fields of keys and values are, but for those that are always zero.
const FIELDS: &[(&str, usize)] = &[
    at!(Endpoint, ifindex),
    at!(Endpoint, pod_mac),
    at!(Endpoint, host_mac),
    at!(Node, tunnel),
    at!(Node, source),
    at!(Node, flags),
    at!(Node, underlay_ifindex),
    at!(NodeAddress, tunnel),
    at!(NodeAddress, flags),
    at!(Config, overlay_ifindex),
    at!(Config, pod_mtu),
    at!(FrontendKey, address),
    at!(FrontendKey, port),
    at!(FrontendKey, protocol),
    at!(Frontend, service),
    at!(Frontend, flags),
    at!(BackendSet, generation),
    at!(BackendSet, count),
    at!(Service, cluster),
    at!(Service, local),
    at!(Service, affinity_seconds),
    at!(Service, flags),
    at!(SlotKey, generation),
    at!(SlotKey, index),
    at!(Backend, address),
    at!(Backend, port),
    at!(ServingKey, service),
    at!(ServingKey, address),
    at!(ServingKey, port),
    at!(Serving, sets),
    at!(AffinityKey, service),
    at!(AffinityKey, client),
    at!(Affinity, backend),
    at!(Affinity, at),
    at!(SourceRangeKey, service),
    at!(SourceRangeKey, client),
    at!(ServicesConfig, gateway_v4),
    at!(ServicesConfig, gateway_v6),
    at!(ServicesConfig, host_v4),
    at!(ServicesConfig, host_v6),
    at!(ServicesConfig, host_namespace),
    at!(ServicesConfig, flags),
    at!(PodAddresses, v4),
    at!(PodAddresses, v6),
    at!(SocketFlowKey, socket),
    at!(SocketFlowKey, address),
    at!(SocketFlowKey, port),
    at!(SocketFlowKey, direction),
    at!(SocketFlow, service),
    at!(SocketFlow, address),
    at!(SocketFlow, port),
    at!(SocketFlow, set),
    at!(SocketPeer, dialled),
    at!(SocketPeer, backend),
    at!(SocketPeer, dialled_port),
    at!(SocketPeer, backend_port),
    at!(FlowKey, source),
    at!(FlowKey, destination),
    at!(FlowKey, source_port),
    at!(FlowKey, destination_port),
    at!(FlowKey, protocol),
    at!(Flow, source),
    at!(Flow, destination),
    at!(Flow, source_port),
    at!(Flow, destination_port),
    at!(Flow, flags),
    at!(Flow, began),
    at!(Flow, service),
    at!(Flow, seen),
    at!(Tracked, tcp),
    at!(Tracked, udp),
    at!(Tracked, sctp),
    at!(DatagramKey, source),
    at!(DatagramKey, destination),
    at!(DatagramKey, identification),
    at!(DatagramKey, protocol),
    at!(Datagram, source),
    at!(Datagram, destination),
    at!(Datagram, at),
    at!(HeldKey, datagram),
    at!(HeldKey, slot),
    at!(Held, at),
    at!(Held, length),
    at!(Held, bytes),
];

/// Numbers with a meaning of their own.
const FLAGS: &[(&str, u32)] = &[
    ("LOCAL", LOCAL),
    ("frontend::INTERNAL", frontend::INTERNAL),
    ("frontend::SOURCE_RANGES", frontend::SOURCE_RANGES),
    ("frontend::HOST_ONLY", frontend::HOST_ONLY),
    ("frontend::REST", frontend::REST),
    ("frontend::NODE_PORT", frontend::NODE_PORT),
    ("service::INTERNAL_LOCAL", service::INTERNAL_LOCAL),
    ("service::EXTERNAL_LOCAL", service::EXTERNAL_LOCAL),
    ("IN_CLUSTER", IN_CLUSTER),
    ("IN_LOCAL", IN_LOCAL),
    ("SOCKETS_OF_HOST_ONLY", SOCKETS_OF_HOST_ONLY),
    ("TO_SERVICE", TO_SERVICE as u32),
    ("FROM_BACKEND", FROM_BACKEND as u32),
    ("flow::REPLY", flow::REPLY as u32),
    ("flow::LOCAL_SET", flow::LOCAL_SET as u32),
    ("flow::CLOSING", flow::CLOSING as u32),
    ("flow::ENDED", flow::ENDED as u32),
    ("flow::ANSWERED", flow::ANSWERED as u32),
];

/// Everything that programs and user space of different versions must agree on.
fn layout() -> Vec<String> {
    let maps = MapShape::ALL.iter().map(|(name, shape)| format!("map {name}: {shape}"));
    let fields = FIELDS.iter().map(|(field, at)| format!("field {field}: at {at}"));
    let flags = FLAGS.iter().map(|(name, number)| format!("flag {name}: {number}"));
    let programs = program::ALL.iter().chain(&program::SOCKET).map(|name| format!("program {name}"));
    let pairs =
        Program::ALL.into_iter().flat_map(|program| DropReason::ALL.iter().map(move |&reason| (program, reason)));
    let counters = pairs.map(|(program, reason)| {
        format!("counter {} {}: {}", program.name(), reason.name(), counter_index(program, reason))
    });
    let at_sockets =
        DropReason::ALL.iter().map(|reason| format!("counter {SOCKET} {}: {}", reason.name(), *reason as u32));
    maps.chain(fields).chain(flags).chain(programs).chain(counters).chain(at_sockets).collect()
}

#[test]
fn the_layout_is_that_of_its_version() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datapath/layout-v{LAYOUT_VERSION}.txt"));
    let current = layout();
    let recorded = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!(
            "a new layout version: review this and write it to {} ({error}):\n{}",
            file.display(),
            current.join("\n")
        )
    });
    let recorded: Vec<&str> = recorded.lines().collect();
    let lost: Vec<_> = recorded.iter().filter(|&&line| current.iter().all(|now| now != line)).collect();
    assert!(lost.is_empty(), "the layout changed: raise LAYOUT_VERSION, or take the change back. It was: {lost:#?}");
    // The agent makes maps that are missing, and what only a new version asks for is no matter to an old one.
    let new: Vec<_> = current.iter().filter(|line| !recorded.contains(&line.as_str())).map(String::as_str).collect();
    assert!(
        new.is_empty(),
        "an addition needs no new version, but from now on it must stay: record it in {}:\n{}",
        file.display(),
        new.join("\n")
    );
}

#[test]
fn the_pin_directory_carries_the_version() {
    assert!(PIN_DIRECTORY.ends_with(&format!("/v{LAYOUT_VERSION}")));
}
