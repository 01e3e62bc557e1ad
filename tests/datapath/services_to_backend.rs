//! Packets of a pod to a Service: which way they take, and what they become.

use weft_common::reason::{DropReason, Program};

use crate::datapath::{Datapath, Outcome, into_the_overlay, pins, to_other_pod};
use crate::frames::{Content, Frame, SCTP, TCP, UDP};
use crate::services::{Port, Services};

/// The port of the Services.
pub(crate) const SERVICE_PORT: u16 = 80;

/// Flags of TCP.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A family: the address of this pod, a cluster IP, the pod beside, a pod of node 2.
pub(crate) struct Family {
    pub(crate) pod: &'static str,
    pub(crate) cluster_ip: &'static str,
    pub(crate) other_pod: &'static str,
    pub(crate) remote_pod: &'static str,
    pub(crate) gateway: &'static str,
}

pub(crate) const FAMILIES: [Family; 2] = [
    Family {
        pod: "10.244.1.10",
        cluster_ip: "10.96.0.10",
        other_pod: "10.244.1.11",
        remote_pod: "10.244.2.77",
        gateway: "10.244.1.1",
    },
    Family {
        pod: "fd00:10:244:1::10",
        cluster_ip: "fd00:10:96::10",
        other_pod: "fd00:10:244:1::11",
        remote_pod: "fd00:10:244:2::77",
        gateway: "fd00:10:244:1::1",
    },
];

/// An address and a port.
pub(crate) fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// A TCP segment.
pub(crate) fn segment(frame: Frame, flags: u8) -> Frame {
    let payload = if flags & SYN == 0 { b"weft".to_vec() } else { Vec::new() };
    frame.content(Content::Segment { from: 4000, to: SERVICE_PORT, sequence: 1000, acknowledged: 2000, flags, payload })
}

/// An SCTP packet.
pub(crate) fn sctp(frame: Frame, chunk: u8) -> Frame {
    frame.content(Content::Sctp { from: 4000, to: SERVICE_PORT, chunk, payload: vec![7; 33] })
}

/// First packets of the protocols that Services have.
pub(crate) fn first_packets(source: &str, destination: &str) -> [(u8, Frame); 3] {
    let frame = Frame::udp(source, destination).port(SERVICE_PORT);
    [(UDP, frame.clone()), (TCP, segment(frame.clone(), SYN)), (SCTP, sctp(frame, 1))]
}

/// The packet that answers one.
pub(crate) fn answer(to: &Frame) -> Frame {
    let mut answer = Frame { source: to.destination, destination: to.source, ..to.clone() };
    match &mut answer.content {
        Content::Udp { from, to, .. } | Content::Sctp { from, to, .. } => std::mem::swap(from, to),
        Content::Segment { from, to, flags, .. } => {
            std::mem::swap(from, to);
            *flags |= ACK;
        }
        other => panic!("no ports in {other:?}"),
    }
    answer
}

/// The packet to another address.
pub(crate) fn to(frame: &Frame, address: &str, port: u16) -> Frame {
    Frame { destination: address.parse().unwrap(), ..frame.clone() }.port(port)
}

/// The packet from another address.
pub(crate) fn from(frame: &Frame, address: &str, port: u16) -> Frame {
    Frame { source: address.parse().unwrap(), ..frame.clone() }.source_port(port)
}

#[test]
fn packets_to_a_cluster_ip_reach_a_pod_of_this_node_and_its_answers_come_from_the_cluster_ip() {
    let datapath = Datapath::load();
    let services = Services::open(pins());
    for Family { pod, cluster_ip, other_pod, .. } in FAMILIES {
        for (protocol, frame) in first_packets(pod, cluster_ip) {
            services.set(&Port::new(1, protocol, &at(cluster_ip, SERVICE_PORT), &[&at(other_pod, 8080)]));
            let translated = to(&frame, other_pod, 8080);
            for round in 0..3 {
                let outcome = datapath.run(Program::FromPod, &frame.bytes());
                assert_eq!(outcome, to_other_pod(&translated), "{protocol} to {cluster_ip}, round {round}");
            }
        }
    }
}
