//! The kernel's own VXLAN as a third opinion: at one end weft, at the other nothing but a plain device.

use weft_common::layout::VXLAN_PORT;
use weft_tests::netns::Namespace;

use crate::datapath::mount_bpffs;
use crate::node::{self, Node, Underlay, overlay_mac, pod_addresses, pod_cidrs, run};
use crate::streams_traffic::Flow;
use crate::ways_pair::{POD_MTU, UNDERLAY_DEVICE, Way, offloads};

/// The kernel's device, with the address of a pod of node 2.
const DEVICE: &str = "kernel";
/// A table that keeps this from leaving.
const QUIET: &str = "add table inet quiet; add chain inet quiet out { type filter hook output priority 0; }; \
                     add rule inet quiet out icmpv6 type mld2-listener-report drop";
/// Bytes of a stream in each direction.
const AMOUNT: usize = 512 << 10;

/// Node 1 with a pod, and the kernel's device in place of node 2 and its pod.
struct Bed {
    node: Node,
    kernel: Namespace,
}

impl Bed {
    fn new(underlay: Underlay, checksums: bool) -> Self {
        mount_bpffs();
        let [one, kernel] = node::underlay();
        let node = Node::new(one, 1, underlay, 1);
        let [local, remote] = [2, 1].map(|number| underlay.node_address(number));
        let checksums = match (underlay, checksums) {
            (Underlay::V4, true) => "udpcsum",
            (Underlay::V4, false) => "noudpcsum",
            (Underlay::V6, true) => "noudp6zerocsumtx udp6zerocsumrx",
            (Underlay::V6, false) => "udp6zerocsumtx udp6zerocsumrx",
        };
        // Frames for it are addressed as those of every node.
        let device = format!(
            "ip link add {DEVICE} address 06:77:65:66:74:02 mtu {POD_MTU} type vxlan id 1 dstport {VXLAN_PORT} \
             local {local} remote {remote} nolearning {checksums}"
        );
        run(&kernel, &device);
        // No node sends messages about its link and the groups there, so they would be dropped and counted.
        kernel.run(["nft", QUIET]).unwrap();
        run(&kernel, &format!("ip link set {DEVICE} addrgenmode none"));
        run(&kernel, &format!("ip link set {DEVICE} up"));
        let mac = overlay_mac(1).map(|byte| format!("{byte:02x}")).join(":");
        let ends = pod_addresses(2, 0).into_iter().zip(pod_addresses(1, 0)).zip(pod_cidrs(1));
        for ((own, pod), remote) in ends {
            let bits = if remote.is_ipv4() { 32 } else { 128 };
            kernel.add_address(DEVICE, &format!("{own}/{bits}")).unwrap();
            run(&kernel, &format!("ip route add {remote} dev {DEVICE}"));
            run(&kernel, &format!("ip neighbour add {pod} lladdr {mac} dev {DEVICE} nud permanent"));
        }
        Self { node, kernel }
    }

    fn flows(&self) -> [Flow<'_>; 4] {
        let (pod, kernel) = (&*self.node.pods[0].namespace, &*self.kernel);
        let [[there4, there6], [here4, here6]] =
            [pod_addresses(2, 0), pod_addresses(1, 0)].map(|both| both.map(|address| address.parse().unwrap()));
        [(pod, kernel, there4), (pod, kernel, there6), (kernel, pod, here4), (kernel, pod, here6)]
            .map(|(from, to, address)| Flow { from, to, address })
    }

    fn set_offloads(&self, on: bool) {
        let words = if on { "tx on tso on gso on gro on" } else { "tx off tso off gso off gro off" };
        for (namespace, device) in [
            (&self.kernel, DEVICE),
            (&self.kernel, UNDERLAY_DEVICE),
            (&self.node.namespace, UNDERLAY_DEVICE),
            (&self.node.pods[0].namespace, UNDERLAY_DEVICE),
        ] {
            offloads(namespace, device, words);
        }
    }
}

fn understands_the_kernel(underlay: Underlay) {
    for checksums in [false, true] {
        let bed = Bed::new(underlay, checksums);
        for (way, on) in [(Way::Past, true), (Way::Past, false), (Way::Device, true)] {
            bed.set_offloads(on);
            bed.node.take(way);
            let before = bed.node.overlay_packets();
            for flow in bed.flows() {
                let sizes = [10, flow.data_of(POD_MTU), 4000];
                let crossed = flow
                    .stream(AMOUNT)
                    .and_then(|()| flow.datagrams(&sizes))
                    .and_then(|()| flow.ping(&[56, 4000]))
                    .and_then(|()| flow.raw(&sizes));
                let what = format!(
                    "{way:?} over {underlay:?}, offloads {on}, outer checksums {checksums}, to {}",
                    flow.address
                );
                crossed.unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert_eq!(bed.node.pods[0].checksum_errors(), 0, "{what}");
            }
            let after = bed.node.overlay_packets();
            let [received, sent] = [0, 1].map(|at| after[at] > before[at]);
            let what = format!("{way:?} over {underlay:?}, offloads {on}, outer checksums {checksums}");
            assert_eq!(sent, way == Way::Device, "{what}: sent by the device");
            // Outer checksums are the kernel's to verify.
            assert_eq!(received, way == Way::Device || checksums, "{what}: received by the device");
        }
        for (program, reason, count) in bed.node.maps.drops().unwrap() {
            let expected = count == 0 || reason == weft_common::reason::DropReason::LinkLocalIgnored;
            assert!(expected, "over {underlay:?}: {} {}: {count}", program.name(), reason.name());
        }
    }
}

#[test]
fn weft_and_the_kernels_own_vxlan_understand_each_other_over_ipv4() {
    understands_the_kernel(Underlay::V4);
}

#[test]
fn weft_and_the_kernels_own_vxlan_understand_each_other_over_ipv6() {
    understands_the_kernel(Underlay::V6);
}
