//! A pod that sends on what it received: to somebody behind it, and back to the node that it came from. What the tunnel left in a
//! packet must not harm it then.

use std::net::IpAddr;

use weft_tests::netns::{Namespace, veth};

use crate::datapath::mount_bpffs;
use crate::node::{self, Underlay, pod_addresses, run};
use crate::streams_traffic::Flow;
use crate::ways_pair::{POD_MTU, Pair, UNDERLAY_DEVICE, Way, offloads};

/// Bytes of a stream in each direction.
const AMOUNT: usize = 512 << 10;
/// Ends of addresses that lead to the router besides its own: of who is behind it, and of a pod for which it stands.
const BEHIND: usize = 20;
const STANDS_FOR: usize = 21;

/// A client and another pod on node 1, a router on node 2, and somebody behind it.
struct Bed {
    pair: Pair,
    behind: Namespace,
}

impl Bed {
    fn new(underlay: Underlay) -> Self {
        mount_bpffs();
        let pair = Pair::between(node::underlay(), underlay, [2, 1]);
        let behind = Namespace::new("behind").unwrap();
        let router = &pair.nodes[1].pods[0];
        veth((&router.namespace, "behind"), (&behind, "eth0")).unwrap();
        for (namespace, device) in [(&*router.namespace, "behind"), (&*behind, "eth0")] {
            run(namespace, &format!("ip link set {device} mtu {POD_MTU}"));
        }
        for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.namespace.set_sysctl(sysctl, "1").unwrap();
        }
        let links = [("172.31.0.1", "172.31.0.2", 30), ("fd77::1", "fd77::2", 64)];
        for (family, (near, far, bits)) in links.into_iter().enumerate() {
            let [address, stands_for] = [BEHIND, STANDS_FOR].map(|end| address(end, family));
            router.namespace.add_address("behind", &format!("{near}/{bits}")).unwrap();
            behind.add_address("eth0", &format!("{far}/{bits}")).unwrap();
            behind.add_address("eth0", &format!("{address}/{}", if family == 0 { 32 } else { 128 })).unwrap();
            run(&router.namespace, &format!("ip route add {address} via {far}"));
            run(&behind, &format!("ip route add default via {near} src {address}"));
            for address in [address, stands_for] {
                pair.nodes[1].maps.set_endpoint(address, router.endpoint).unwrap();
            }
        }
        // A packet for somebody who is on the other node goes there, in the router's name.
        let [[v4, v6], [target4, target6]] =
            [[0, 1].map(|family| address(STANDS_FOR, family).to_string()), pod_addresses(1, 1)];
        let rules = format!(
            "add table inet router; add chain inet router in {{ type nat hook prerouting priority -100; }}; \
             add chain inet router out {{ type nat hook postrouting priority 100; }}; \
             add rule inet router in ip daddr {v4} dnat ip to {target4}; \
             add rule inet router in ip6 daddr {v6} dnat ip6 to {target6}; \
             add rule inet router out oifname eth0 ct status dnat masquerade"
        );
        router.namespace.run(["nft", &rules]).unwrap();
        Self { pair, behind }
    }

    fn flows(&self) -> [(&'static str, Flow<'_>); 4] {
        let client = &*self.pair.nodes[0].pods[0].namespace;
        let target = &*self.pair.nodes[0].pods[1].namespace;
        let [behind, back] = [("behind the router", &*self.behind, BEHIND), ("back to node 1", target, STANDS_FOR)]
            .map(|(what, to, end)| {
                [0, 1].map(|family| (what, Flow { from: client, to, address: address(end, family) }))
            });
        [behind[0], behind[1], back[0], back[1]]
    }

    fn set_offloads(&self, on: bool) {
        let words = if on { "tx on tso on gso on" } else { "tx off tso off gso off" };
        let router = &self.pair.nodes[1].pods[0].namespace;
        for (namespace, device) in [(router, UNDERLAY_DEVICE), (router, "behind"), (&self.behind, "eth0")] {
            offloads(namespace, device, words);
        }
    }
}

fn address(end: usize, family: usize) -> IpAddr {
    pod_addresses(2, end - 10)[family].parse().unwrap()
}

fn a_pod_sends_on(underlay: Underlay) {
    let bed = Bed::new(underlay);
    for on in [true, false] {
        bed.set_offloads(on);
        for ways in Way::PAIRS {
            bed.pair.take(ways);
            for (what, flow) in bed.flows() {
                let what = format!("{what} to {}, offloads {on}, {ways:?} over {underlay:?}", flow.address);
                let before = [0, 1].map(|at| bed.pair.nodes[at].overlay_packets());
                flow.stream(AMOUNT)
                    .and_then(|()| flow.datagrams(&[10, flow.data_of(POD_MTU), 4000]))
                    .and_then(|()| flow.datagrams_at_once(1000, true))
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
                bed.pair.assert_nothing_was_wrong(&what);
                let after = [0, 1].map(|at| bed.pair.nodes[at].overlay_packets());
                let sent = after[0][1] - before[0][1];
                assert_eq!(
                    sent > 0,
                    ways[0] == Way::Device,
                    "{what}: {sent} packets left the client's node by the device"
                );
                // Of a stream there are dozens. Datagrams in one piece are left to the kernel at their arrival, or the router's
                // kernel would cut them as if they were in a tunnel still.
                let received = after[1][0] - before[1][0];
                let is_right = if ways[1] == Way::Past { (1..10).contains(&received) } else { received > 10 };
                assert!(is_right, "{what}: {received} packets reached the router's node by the device");
            }
        }
    }
}

#[test]
fn a_pod_sends_on_what_came_through_the_tunnel_over_ipv4() {
    a_pod_sends_on(Underlay::V4);
}

#[test]
fn a_pod_sends_on_what_came_through_the_tunnel_over_ipv6() {
    a_pod_sends_on(Underlay::V6);
}
