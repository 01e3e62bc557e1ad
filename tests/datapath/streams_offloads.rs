//! Large packets that devices cut and join (GSO, GRO), and checksums that are computed by the sender, by a device, or never.

use weft_tests::netns::View;

use crate::node::{Underlay, run};
use crate::streams_traffic::transfer;
use crate::ways_pair::{POD_MTU, Pair, UNDERLAY_DEVICE, Way, offloads, traffic};

/// Bytes of a stream in each direction.
const AMOUNT: usize = 512 << 10;
/// What packets that a pod gives to its device may have, instead of 64 KiB.
const BIG: usize = 150_000;
/// The MTU of the underlay.
const UNDERLAY_MTU: u64 = 1500;
/// An Ethernet header, which devices count too.
const ETHERNET: u64 = 14;

/// What veth devices can do when they are new.
const AS_NEW: &str = "tx on tso on gso on tx-udp_tnl-segmentation on gro off";

/// What devices are told, and what must come of it.
struct Setting {
    what: &'static str,
    underlay: &'static str,
    pods: &'static str,
    /// Packets cross the underlay as large as the pod made them, or cut to its MTU.
    crosses_whole: Option<bool>,
    /// The receiving pod sees packets much larger than its MTU.
    arrives_large: bool,
}

const SETTINGS: [Setting; 6] = [
    Setting { what: "devices as new", underlay: "", pods: "", crosses_whole: Some(true), arrives_large: true },
    Setting {
        what: "the underlay cuts and joins",
        underlay: "tso off gso off tx-udp_tnl-segmentation off gro on",
        pods: "",
        crosses_whole: Some(false),
        arrives_large: true,
    },
    Setting {
        what: "the underlay computes checksums",
        underlay: "tx off",
        pods: "",
        crosses_whole: None,
        arrives_large: false,
    },
    Setting { what: "pods compute checksums", underlay: "", pods: "tx off", crosses_whole: None, arrives_large: false },
    Setting {
        what: "pods cut, the underlay joins",
        underlay: "gro on",
        pods: "tso off gso off",
        crosses_whole: Some(false),
        arrives_large: false,
    },
    Setting {
        what: "everybody does it alone",
        underlay: "tx off tso off gso off gro on",
        pods: "tx off tso off gso off",
        crosses_whole: Some(false),
        arrives_large: false,
    },
];

fn set(pair: &Pair, setting: &Setting) {
    for node in &pair.nodes {
        for (namespace, words) in [(&node.namespace, setting.underlay), (&node.pods[0].namespace, setting.pods)] {
            // Apart: of a word that is there twice, not the last one counts.
            for words in [AS_NEW, words].into_iter().filter(|words| !words.is_empty()) {
                offloads(namespace, UNDERLAY_DEVICE, words);
            }
        }
    }
}

/// Bytes that packets had on the average which a device received meanwhile.
fn mean_received(namespace: &View, meanwhile: impl FnOnce()) -> u64 {
    let before = traffic(namespace, UNDERLAY_DEVICE);
    meanwhile();
    let after = traffic(namespace, UNDERLAY_DEVICE);
    (after[0] - before[0]) / (after[1] - before[1])
}

fn streams_cross_whatever_devices_do(underlay: Underlay) {
    let pair = Pair::new(underlay);
    let (node, pod) = (&pair.nodes[1].namespace, &pair.nodes[1].pods[0].namespace);
    for setting in SETTINGS {
        set(&pair, &setting);
        for ways in Way::PAIRS {
            pair.take(ways);
            for flow in pair.flows() {
                let what = format!("{}: a stream to {}", setting.what, flow.address);
                let (client, server) = flow.connect().unwrap();
                let (mut on_wire, mut at_pod) = (0, 0);
                pair.crosses(&what, ways, || {
                    on_wire = mean_received(node, || {
                        at_pod = mean_received(pod, || {
                            transfer(&client, &server, AMOUNT).unwrap();
                        });
                    });
                    transfer(&server, &client, AMOUNT)
                });
                let what = format!("{what}, {ways:?} over {underlay:?}");
                match setting.crosses_whole {
                    Some(true) => assert!(on_wire > 2 * UNDERLAY_MTU, "{what}: {on_wire} bytes on the wire"),
                    Some(false) => assert!(on_wire <= UNDERLAY_MTU + ETHERNET, "{what}: {on_wire} bytes on the wire"),
                    None => (),
                }
                let is_large = at_pod > 2 * POD_MTU as u64;
                assert!(is_large || !setting.arrives_large, "{what}: {at_pod} bytes on the average at the pod");
            }
        }
    }
}

#[test]
fn streams_cross_whatever_the_devices_cut_join_and_compute_over_ipv4() {
    streams_cross_whatever_devices_do(Underlay::V4);
}

#[test]
fn streams_cross_whatever_the_devices_cut_join_and_compute_over_ipv6() {
    streams_cross_whatever_devices_do(Underlay::V6);
}

#[test]
fn datagrams_that_were_sent_in_one_piece_arrive_one_by_one_or_joined() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let pair = Pair::new(underlay);
        for setting in SETTINGS {
            set(&pair, &setting);
            for ways in Way::PAIRS {
                pair.take(ways);
                for flow in pair.flows() {
                    let what = format!("{}: to {}, {ways:?} over {underlay:?}", setting.what, flow.address);
                    let before = pair.nodes[1].overlay_packets();
                    for (size, joined) in [(500, false), (1000, true), (flow.data_of(POD_MTU), true)] {
                        let sent = flow.datagrams_at_once(size, joined);
                        sent.unwrap_or_else(|error| panic!("{what}, {size} bytes: {error:#}"));
                    }
                    pair.assert_nothing_was_wrong(&what);
                    // What arrives whole is left to the kernel.
                    let after = pair.nodes[1].overlay_packets();
                    let [received, sent] = [0, 1].map(|at| after[at] - before[at]);
                    if setting.crosses_whole == Some(true) {
                        assert!(received > 0, "{what}: nothing was left to the device");
                        assert_eq!(sent > 0, ways[1] == Way::Device, "{what}: {sent} packets left by the device");
                    }
                }
            }
        }
    }
}

#[test]
fn packets_of_more_than_64_kib_go_on_without_the_stack() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let pair = Pair::new(underlay);
        for node in &pair.nodes {
            run(&node.pods[0].namespace, &format!("ip link set {UNDERLAY_DEVICE} gso_max_size {BIG}"));
        }
        for ways in [[Way::Past; 2], [Way::Device; 2]] {
            pair.take(ways);
            // This setting is of IPv6 alone.
            let [_, flow] = pair.flows();
            let what = format!("{ways:?} over {underlay:?}");
            flow.stream(8 * AMOUNT).unwrap_or_else(|error| panic!("{what}: {error:#}"));
            pair.assert_nothing_was_wrong(&what);
            assert_eq!(pair.nodes[0].forwarded(), 0, "{what}: the stack had a part in it");
        }
    }
}
