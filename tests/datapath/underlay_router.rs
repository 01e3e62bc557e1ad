//! Nodes in different networks: a router between them, behind which packets may have to be smaller.

use weft_tests::netns::{Namespace, veth};

use crate::datapath::mount_bpffs;
use crate::node::{Underlay, run};
use crate::ways_pair::{POD_MTU, Pair, UNDERLAY_DEVICE, Way};

/// Bytes of a stream in each direction.
const AMOUNT: usize = 512 << 10;
/// The link of the routers to each other, and an MTU of it at which what pods send fits only in pieces.
const BETWEEN: &str = "between";
const SMALL: usize = 1400;

/// Two nodes, each with no neighbour but a router of its own, and these routers.
fn routed() -> ([Namespace; 2], [Namespace; 2]) {
    let nodes = [Namespace::new("node1").unwrap(), Namespace::new("node2").unwrap()];
    let routers = [Namespace::new("router1").unwrap(), Namespace::new("router2").unwrap()];
    veth((&routers[0], BETWEEN), (&routers[1], BETWEEN)).unwrap();
    for (number, (node, router)) in (1_u8..).zip(nodes.iter().zip(&routers)) {
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.set_sysctl(sysctl, "1").unwrap();
        }
        veth((node, UNDERLAY_DEVICE), (router, "node")).unwrap();
        let other = 3 - number;
        let links = [
            (Underlay::V4, ["198.51.100.", "203.0.113."], [24, 32]),
            (Underlay::V6, ["2001:db8:1::", "2001:db8:2::"], [64, 128]),
        ];
        for (family, [near, between], [link, host]) in links {
            let [own, others] = [number, other].map(|number| family.node_address(number));
            router.add_address("node", &format!("{near}1/{link}")).unwrap();
            router.add_address(BETWEEN, &format!("{between}{number}/{link}")).unwrap();
            // As on a twofold node, the InternalIP is not what the kernel would choose.
            node.add_address(UNDERLAY_DEVICE, &format!("{near}2/{link}")).unwrap();
            node.add_address(UNDERLAY_DEVICE, &format!("{own}/{host}")).unwrap();
            run(router, &format!("ip route add {own} via {near}2"));
            run(router, &format!("ip route add {others} via {between}{other}"));
            run(node, &format!("ip route add default via {near}1"));
        }
    }
    (nodes, routers)
}

fn packets_find_the_router(underlay: Underlay) {
    mount_bpffs();
    let (nodes, routers) = routed();
    let pair = Pair::between(nodes, underlay, [1, 1]);
    for ways in Way::PAIRS {
        pair.take(ways);
        for flow in pair.flows() {
            // The first packet must wait until the router's MAC address is known.
            for node in &pair.nodes {
                run(&node.namespace, &format!("ip neighbour flush dev {UNDERLAY_DEVICE}"));
            }
            let what = format!("traffic through a router to {}", flow.address);
            pair.crosses(&what, ways, || {
                flow.datagrams(&[10, flow.data_of(POD_MTU), 4000])?;
                flow.stream(AMOUNT)
            });
        }
    }
    if underlay == Underlay::V6 {
        // No router takes an IPv6 packet apart, and the kernel's own tunnels do not listen to those who say that one is too large.
        return;
    }
    for router in &routers {
        run(router, &format!("ip link set {BETWEEN} mtu {SMALL}"));
    }
    for ways in Way::PAIRS {
        pair.take(ways);
        for flow in pair.flows() {
            pair.crosses(&format!("small packets to {}", flow.address), ways, || flow.datagrams(&[10, 1000]));
            let what = format!("outer fragments to {}, {ways:?} over {underlay:?}", flow.address);
            let before = pair.nodes[1].overlay_packets();
            let sent = flow.datagrams(&[flow.data_of(POD_MTU), 4000]).and_then(|()| flow.stream(AMOUNT));
            sent.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            let after = pair.nodes[1].overlay_packets();
            assert!(after[0] > before[0], "{what}: the kernel puts them together, and its device gets them");
            pair.assert_nothing_was_wrong(&what);
        }
    }
}

#[test]
fn packets_find_the_way_through_a_router_over_ipv4() {
    packets_find_the_router(Underlay::V4);
}

#[test]
fn packets_find_the_way_through_a_router_over_ipv6() {
    packets_find_the_router(Underlay::V6);
}
