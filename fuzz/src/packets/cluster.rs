//! A small cluster: what the maps of the programs hold, and what the oracle knows. One table for both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest IP packet for the tunnel. Far smaller than a real one, so that small inputs reach it.
pub const POD_MTU: usize = 160;
/// Index of the VXLAN device. No packet really goes there.
pub const OVERLAY_DEVICE: u32 = 9;
/// Index of the device that frames come in by: the loopback device of the sandbox.
pub const OWN_DEVICE: u32 = 1;

/// A pod of this node.
#[derive(Debug)]
pub struct Pod {
    /// Its addresses.
    pub addresses: [IpAddr; 2],
    /// Index of the host side of its interface.
    pub ifindex: u32,
    /// MAC address of the pod side.
    pub pod_mac: [u8; 6],
    /// MAC address of the host side.
    pub host_mac: [u8; 6],
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its number, which is part of its podCIDRs `10.244.<number>.0/24` and `fd00:10:244:<number>::/64`.
    pub number: u8,
    /// Its InternalIPs. The first is the one that the overlay uses.
    pub addresses: [IpAddr; 2],
    /// Our own address towards it.
    pub source: IpAddr,
    /// Index of the device that leads to it past the VXLAN device; 0 for none.
    pub underlay: u32,
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(segments: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = segments;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

const fn internal_v6(node: u16) -> IpAddr {
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, node])
}

const fn pod_v6(node: u16, last: u16) -> IpAddr {
    v6([0xfd00, 0x10, 0x244, node, 0, 0, 0, last])
}

/// This node.
pub const OWN_NODE: &Node = &NODES[0];

/// All nodes: each family of the underlay, with the way past the VXLAN device and without it.
pub const NODES: [Node; 5] = [
    Node { number: 1, addresses: [v4(192, 0, 2, 1), internal_v6(1)], source: v4(192, 0, 2, 1), underlay: 0 },
    Node { number: 2, addresses: [v4(192, 0, 2, 2), internal_v6(2)], source: v4(192, 0, 2, 1), underlay: 5 },
    Node { number: 3, addresses: [internal_v6(3), v4(192, 0, 2, 3)], source: internal_v6(1), underlay: 6 },
    Node { number: 4, addresses: [v4(192, 0, 2, 4), internal_v6(4)], source: v4(192, 0, 2, 1), underlay: 0 },
    Node { number: 5, addresses: [internal_v6(5), v4(192, 0, 2, 5)], source: internal_v6(1), underlay: 0 },
];

/// The pods of this node. The first is behind [`OWN_DEVICE`].
pub const PODS: [Pod; 2] = [
    Pod { addresses: [v4(10, 244, 1, 10), pod_v6(1, 0x10)], ifindex: OWN_DEVICE, pod_mac: [2; 6], host_mac: [4; 6] },
    Pod {
        addresses: [v4(10, 244, 1, 11), pod_v6(1, 0x11)],
        ifindex: 7,
        pod_mac: [0x0a, 1, 2, 3, 4, 5],
        host_mac: [0x0a, 6, 7, 8, 9, 10],
    },
];

/// Addresses that inputs name by number: the cluster's, those close to them, and those that RFCs give a meaning. New ones go to the
/// end.
pub const ADDRESSES: [IpAddr; 51] = [
    v4(10, 244, 1, 10),
    v4(10, 244, 1, 11),
    v4(10, 244, 1, 1),
    v4(10, 244, 1, 99),
    v4(10, 244, 2, 10),
    v4(10, 244, 3, 10),
    v4(10, 244, 4, 10),
    v4(10, 244, 5, 1),
    v4(10, 244, 6, 10),
    v4(192, 0, 2, 1),
    v4(192, 0, 2, 2),
    v4(192, 0, 2, 3),
    v4(192, 0, 2, 4),
    v4(192, 0, 2, 66),
    v4(198, 51, 100, 7),
    v4(127, 0, 0, 1),
    v4(0, 0, 0, 0),
    v4(224, 0, 0, 251),
    v4(255, 255, 255, 255),
    v4(169, 254, 1, 1),
    pod_v6(1, 0x10),
    pod_v6(1, 0x11),
    pod_v6(1, 1),
    pod_v6(1, 0x99),
    pod_v6(2, 0x10),
    pod_v6(3, 0x10),
    pod_v6(4, 0x10),
    pod_v6(5, 1),
    pod_v6(6, 0x10),
    internal_v6(1),
    internal_v6(2),
    internal_v6(3),
    internal_v6(5),
    internal_v6(0x66),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
    v6([0xff02, 0, 0, 0, 0, 0, 0, 0x16]),
    v6([0, 0, 0, 0, 0, 0, 0, 1]),
    v6([0, 0, 0, 0, 0, 0, 0, 0]),
    // In the maps these are IPv4 addresses. In an IPv6 header they are nobody's.
    v6([0, 0, 0, 0, 0, 0xffff, 0x0af4, 0x010a]),
    v6([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0202]),
    // Where special ranges end.
    v4(126, 255, 255, 255),
    v4(127, 255, 255, 254),
    v4(128, 0, 0, 1),
    v6([0xfebf, 0xffff, 0, 0, 0, 0, 0, 1]),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 1]),
    SERVICES[0].address,
    SERVICES[1].address,
    SERVICES[2].address,
    SERVICES[3].address,
    SERVICES[4].address,
    SERVICES[5].address,
];

/// A Service: UDP, TCP and SCTP at one port, each with one backend.
#[derive(Debug)]
pub struct Service {
    /// Its cluster IP.
    pub address: IpAddr,
    /// Its backend.
    pub backend: (IpAddr, u16),
}

/// The port of all Services: the one that templates ask for.
pub const SERVICE_PORT: u16 = 7000;

const fn service_v6(last: u16) -> IpAddr {
    v6([0xfd00, 0x10, 0x96, 0, 0, 0, 0, last])
}

/// Services with a backend on another node, beside the client, and in the world; of each family. Only one keeps the port. Not every fuzzer has
/// them in its maps.
pub const SERVICES: [Service; 6] = [
    Service { address: v4(10, 96, 0, 10), backend: (v4(10, 244, 2, 10), 8080) },
    Service { address: v4(10, 96, 0, 11), backend: (v4(10, 244, 1, 11), SERVICE_PORT) },
    Service { address: v4(10, 96, 0, 12), backend: (v4(198, 51, 100, 7), 8080) },
    Service { address: service_v6(0x10), backend: (pod_v6(2, 0x10), 8080) },
    Service { address: service_v6(0x11), backend: (pod_v6(1, 0x11), SERVICE_PORT) },
    Service { address: service_v6(0x12), backend: (v6([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7]), 8080) },
];

impl Node {
    /// Its identity.
    pub const fn tunnel(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Whether it is the one that we run on.
    pub const fn is_own(&self) -> bool {
        self.number == OWN_NODE.number
    }

    /// Its podCIDRs: the first address, and the length of the prefix.
    pub const fn pod_cidrs(&self) -> [(IpAddr, u8); 2] {
        [(v4(10, 244, self.number, 0), 24), (pod_v6(self.number as u16, 0), 64)]
    }
}

/// The pod of this node with an address.
pub fn pod(address: IpAddr) -> Option<&'static Pod> {
    PODS.iter().find(|pod| pod.addresses.contains(&address))
}

/// The Service with an address.
pub fn service(address: IpAddr) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.address == address)
}

/// The node that has an InternalIP.
pub fn node_with(address: IpAddr) -> Option<&'static Node> {
    NODES.iter().find(|node| node.addresses.contains(&address))
}

/// The node whose podCIDR holds an address.
pub fn node_of_pod(address: IpAddr) -> Option<&'static Node> {
    let number = match address {
        IpAddr::V4(address) => match address.octets() {
            [10, 244, number, _] => u16::from(number),
            _ => return None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd00, 0x10, 0x244, number, ..] => number,
            _ => return None,
        },
    };
    NODES.iter().find(|node| u16::from(node.number) == number)
}
