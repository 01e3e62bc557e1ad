//! Who answers a pod for a packet that may go no further, or is too large: the same whichever way packets take.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::libc;
use weft_common::entries::Config;
use weft_common::layout::OVERLAY_DEVICE;
use weft_tests::wait;

use crate::capture::LIMIT;
use crate::node::{Underlay, gateways, ifindex, pod_addresses, run};
use crate::streams_traffic::Flow;
use crate::ways_pair::{POD_MTU, Pair, Way};

/// What the MTU of pods becomes while those that are there keep the one that they have.
const SHRUNK: usize = 1300;
/// Bytes of a stream in each direction.
const AMOUNT: usize = 256 << 10;

/// Runs `ping` once with these words. Gives all that it says.
fn ping(flow: &Flow<'_>, words: &str) -> String {
    let line = format!("ping -n -c 1 -W 10 {words} {}", flow.address);
    let output = flow.from.command(line.split_whitespace()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Who said in the answer of `ping` that the packet got no further.
fn refused_by(answer: &str) -> Option<IpAddr> {
    let line = answer.lines().find(|line| line.starts_with("From "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whom a pod of node 1 hears when its own node refuses. The kernel chooses: of IPv4 the first address of the node, of IPv6 the
/// gateway.
fn own_node(family: usize) -> IpAddr {
    if family == 0 { Underlay::V4.node_address(101) } else { gateways(1)[family].parse().unwrap() }
}

fn every_hop_answers(underlay: Underlay) {
    let pair = Pair::new(underlay);
    for ways in Way::PAIRS {
        pair.take(ways);
        for (family, flow) in pair.flows().into_iter().enumerate() {
            let hops = [1, 2, 3].map(|hops| ping(&flow, &format!("-t {hops}")));
            let what = format!("{ways:?} over {underlay:?}: {hops:#?}");
            assert_eq!(refused_by(&hops[0]), Some(own_node(family)), "{what}");
            assert_eq!(refused_by(&hops[1]), gateways(2)[family].parse().ok(), "{what}");
            assert!(hops[2].contains("1 received"), "{what}");
        }
        pair.assert_nothing_was_wrong(&format!("{ways:?} over {underlay:?}"));
    }
}

#[test]
fn every_hop_between_pods_answers_whichever_way_packets_take() {
    for underlay in [Underlay::V4, Underlay::V6] {
        every_hop_answers(underlay);
    }
}

/// Sends datagrams that may not be taken apart until the pod's kernel knows better. Gives the MTU that it knows then.
fn learnt(flow: &Flow<'_>) -> i32 {
    let (socket, _server) = flow.udp().unwrap();
    let (level, discover, never, mtu) = if flow.address.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO, libc::IPV6_MTU)
    };
    let mut known: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads an integer of this size.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, discover, (&raw const never).cast(), size) };
    assert_eq!(set, 0);
    let data = vec![0; flow.data_of(POD_MTU)];
    let refused = || socket.send(&data).is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE));
    wait::until_true(LIMIT, "the pod to learn that a datagram is too large", refused).unwrap();
    // SAFETY: the kernel writes an integer of this size.
    let read = unsafe { libc::getsockopt(socket.as_raw_fd(), level, mtu, (&raw mut known).cast(), &raw mut size) };
    assert_eq!(read, 0);
    known
}

fn pods_learn_a_smaller_mtu(underlay: Underlay) {
    let pair = Pair::new(underlay);
    for node in &pair.nodes {
        run(&node.namespace, &format!("ip link set {OVERLAY_DEVICE} mtu {SHRUNK}"));
        let overlay_ifindex = ifindex(&node.namespace, OVERLAY_DEVICE);
        node.maps.set_config(Config { overlay_ifindex, pod_mtu: SHRUNK as u32 }).unwrap();
    }
    let forget = || {
        for node in &pair.nodes {
            run(&node.pods[0].namespace, "ip route flush cache");
            run(&node.pods[0].namespace, "ip -6 route flush cache");
        }
    };
    for ways in Way::PAIRS {
        pair.take(ways);
        for (family, flow) in pair.flows().into_iter().enumerate() {
            let what = format!("to {}, {ways:?} over {underlay:?}", flow.address);
            forget();
            let (whole, fits) = (flow.data_of(POD_MTU), flow.data_of(SHRUNK));
            let answer = ping(&flow, &format!("-M do -s {whole}"));
            let is_right = answer.contains(&format!("mtu = {SHRUNK}")) || answer.contains(&format!("mtu={SHRUNK}"));
            assert!(is_right, "{what}: {answer}");
            assert_eq!(refused_by(&answer), Some(own_node(family)), "{what}: {answer}");
            forget();
            let back = Flow { from: flow.to, to: flow.from, address: pod_addresses(1, 0)[family].parse().unwrap() };
            assert_eq!([learnt(&flow), learnt(&back)], [SHRUNK as i32; 2], "{what}");
            // What fits goes on as before, and what does not is taken apart by pods that know.
            let sent = flow.ping(&[fits]).and_then(|()| flow.datagrams(&[fits, whole]));
            sent.unwrap_or_else(|error| panic!("{what}: {error:#}"));
            forget();
            if flow.address.is_ipv4() {
                // A pod that does not know leaves it to its node.
                let answer = ping(&flow, &format!("-M dont -s {whole}"));
                assert!(answer.contains("1 received"), "{what}: {answer}");
                forget();
            }
            flow.stream(AMOUNT).unwrap_or_else(|error| panic!("{what}: {error:#}"));
            pair.assert_nothing_was_wrong(&what);
        }
    }
}

#[test]
fn pods_learn_a_smaller_mtu_whichever_way_packets_take_over_ipv4() {
    pods_learn_a_smaller_mtu(Underlay::V4);
}

#[test]
fn pods_learn_a_smaller_mtu_whichever_way_packets_take_over_ipv6() {
    pods_learn_a_smaller_mtu(Underlay::V6);
}
