//! Packets between pods and Services, and addresses that tests of Services share.

use crate::frames::{Content, Frame, SCTP, TCP, UDP};
use crate::services::Port;

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
    /// A pod of node 4, to which packets go past the device.
    pub(crate) past: &'static str,
    /// InternalIPs of this node and of another.
    pub(crate) node: &'static str,
    pub(crate) other_node: &'static str,
    /// An address outside the cluster.
    pub(crate) outside: &'static str,
    /// An address of a Service that no node has.
    pub(crate) external_ip: &'static str,
}

pub(crate) const FAMILIES: [Family; 2] = [
    Family {
        pod: "10.244.1.10",
        cluster_ip: "10.96.0.10",
        other_pod: "10.244.1.11",
        remote_pod: "10.244.2.77",
        gateway: "10.244.1.1",
        past: "10.244.4.77",
        node: "192.0.2.1",
        other_node: "192.0.2.2",
        outside: "198.51.100.7",
        external_ip: "203.0.113.5",
    },
    Family {
        pod: "fd00:10:244:1::10",
        cluster_ip: "fd00:10:96::10",
        other_pod: "fd00:10:244:1::11",
        remote_pod: "fd00:10:244:2::77",
        gateway: "fd00:10:244:1::1",
        past: "fd00:10:244:4::77",
        node: "2001:db8::1",
        other_node: "2001:db8::2",
        outside: "2001:db8:ffff::7",
        external_ip: "2001:db8:eeee::5",
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

/// Everything that a test of one protocol and family needs: the first packet to the cluster IP.
pub(crate) struct Case {
    pub(crate) family: &'static Family,
    pub(crate) protocol: u8,
    pub(crate) frame: Frame,
}

impl Case {
    /// Each protocol in each family.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        FAMILIES.iter().flat_map(|family| {
            let packets = first_packets(family.pod, family.cluster_ip);
            packets.into_iter().map(move |(protocol, frame)| Self { family, protocol, frame })
        })
    }

    /// A Service at the cluster IP with backends, all with this port.
    pub(crate) fn service(&self, backends: &[&str], port: u16) -> Port {
        let backends: Vec<String> = backends.iter().map(|backend| at(backend, port)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        Port::new(self.id(), self.protocol, &at(self.family.cluster_ip, SERVICE_PORT), &backends)
    }

    /// A number for the Service.
    pub(crate) fn id(&self) -> u64 {
        u64::from(self.protocol) << 8 | u64::from(self.family.pod.contains(':'))
    }

    /// For messages of tests.
    pub(crate) fn name(&self) -> String {
        format!("protocol {} to {}", self.protocol, self.family.cluster_ip)
    }
}
