//! What the kernel answers for the ways to the peers, and our filters on devices that are not ours.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use weft_agent::datapath::disturbance::Disturbance;
use weft_agent::datapath::kernel::LinuxKernel;
use weft_agent::datapath::notifications::Notifications;
use weft_agent::datapath::{Kernel, object, probe, programs};
use weft_agent::model::cluster::{Cluster, Node};
use weft_agent::overlay::plan::{self, Plan, Tunnel};
use weft_agent::overlay::state::{Change, FilterProgram};
use weft_agent::overlay::way::{self, FastPath, Way, Ways};
use weft_common::layout::{PIN_DIRECTORY, program};
use weft_tests::netns::{Namespace, veth};
use weft_tests::wait;

use crate::kernel_session::{NodePlan, Session, add_device, internal_ip, lonely_node, pod_cidr};

const POD_MTU: u32 = 1430;
/// How long it is quiet before a storm.
const QUIET: Duration = Duration::from_millis(1500);
/// Long enough for a loaded machine; no test waits for its end when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// Node 1 with a peer that has these addresses.
fn plan_with(peer: &[IpAddr]) -> Plan {
    let node = |name: &str, number: u8, internal_ips: Vec<IpAddr>| {
        let pod_cidrs = vec![pod_cidr(number, 4)];
        (name.to_owned(), Node { name: name.to_owned(), internal_ips, pod_cidrs, ..Node::default() })
    };
    let own = [4, 6].map(|family| internal_ip(1, family)).to_vec();
    let nodes = BTreeMap::from([node("one", 1, own), node("peer", 2, peer.to_vec())]);
    plan::plan(&Cluster { nodes, problems: Vec::new(), ..Cluster::default() }, "one").unwrap()
}

fn ways(session: &Session, peer: IpAddr) -> Ways {
    let plan = plan_with(&[peer]);
    let paths = session.wait(session.kernel.paths(&plan.internal_ips, &way::tunnels(&plan))).unwrap();
    way::ways(&plan, POD_MTU, &FastPath::Allowed, &paths)
}

fn way_to(session: &Session, peer: IpAddr) -> Way {
    ways(session, peer).peers["peer"].clone()
}

fn shell(namespace: &Namespace, words: &str) {
    namespace.run(["sh", "-ec", words]).unwrap();
}

/// How the node is wired, how that is undone, and which way a peer has then. `$f` is the option for the family, `$net` a network
/// beyond a router, `$peer` an address in it, `$a` and `$b` routers on `eth0`, `$c` one on `eth1`.
const CASES: &[(&str, &str, &str)] = &[
    ("ip $f route add $net via $a", "ip $f route del $net", "past weft0 by eth0"),
    ("true", "true", "weft0: no route to its address: Network is unreachable"),
    ("ip $f route add unreachable $net", "ip $f route del $net", "weft0: no route to its address: "),
    ("ip $f route add blackhole $net", "ip $f route del $net", "weft0: no route to its address: "),
    ("ip $f route add $net nexthop via $a nexthop via $b", "ip $f route del $net", "past weft0 by eth0"),
    (
        "ip $f route add $net nexthop via $a nexthop via $c",
        "ip $f route del $net",
        "weft0: the route leaves by several devices (eth0, eth1)",
    ),
    ("ip nexthop add id 7 via $a dev eth0; ip $f route add $net nhid 7", "ip nexthop del id 7", "past weft0 by eth0"),
    ("ip $f route add $net dev tun0", "ip $f route del $net", "weft0: tun0 has no Ethernet header"),
    ("ip $f route add $net via $a mtu 1400", "ip $f route del $net", "weft0: 1400 bytes fit through by eth0"),
    (
        "ip $f route add $net encap seg6 mode encap segs 2001:db8::9 via $a dev eth0",
        "ip $f route del $net",
        "weft0: the route by eth0 encapsulates",
    ),
    (
        "ip $f route add $net via $a; ip $f route add $net via $c table 7; ip $f rule add from $own table 7",
        "ip $f rule del from $own table 7; ip $f route flush table 7; ip $f route del $net",
        "past weft0 by eth1",
    ),
    (
        "ip $f route add $net via $a; ip $f route add $net via $c table 7; ip $f rule add ipproto udp dport 4789 table 7",
        "ip $f rule del ipproto udp dport 4789 table 7; ip $f route flush table 7; ip $f route del $net",
        "weft0: policy rules lead elsewhere what is bound to eth1",
    ),
    (
        "ip $f route add $net via $a; ip $f rule add oif eth1 table 7",
        "ip $f rule del oif eth1 table 7; ip $f route del $net",
        "past weft0 by eth0",
    ),
    (
        "ip $f route add $net via $a; ip xfrm policy add src $net dst $net dir out action block",
        "ip xfrm policy flush; ip $f route del $net",
        "weft0: this node has IPsec policies",
    ),
];

#[test]
fn the_way_is_where_the_kernel_itself_would_send_in_both_families() {
    let namespace = lonely_node("ways");
    add_device(&namespace, "eth1", "1500");
    shell(&namespace, "ip address add 198.51.100.1/24 dev eth1; ip address add 2001:db8:1::1/64 nodad dev eth1");
    shell(&namespace, "ip tuntap add tun0 mode tun; ip link set tun0 up");
    let families = [
        ("-4", "203.0.113.0/24", "203.0.113.2", ["192.0.2.8", "192.0.2.9", "198.51.100.8"]),
        ("-6", "2001:db8:2::/64", "2001:db8:2::2", ["2001:db8::8", "2001:db8::9", "2001:db8:1::8"]),
    ];
    Session::run(&namespace, |session| {
        for (family, network, peer, [a, b, c]) in families {
            let own = internal_ip(1, if family == "-4" { 4 } else { 6 }).to_string();
            for (wire, undo, expected) in CASES {
                // The kernel has that kind of route in IPv6 only.
                if wire.contains("seg6") && family == "-4" {
                    continue;
                }
                let with_names = |words: &str| format!("f={family} net={network} a={a} b={b} c={c} own={own}; {words}");
                shell(&namespace, &with_names(wire));
                let way = way_to(session, peer.parse().unwrap()).to_string();
                assert!(way.starts_with(expected), "{family} {wire}: {way}");
                shell(&namespace, &with_names(undo));
            }
        }
    });
}

#[test]
fn a_neighbour_on_the_link_and_an_address_of_our_own_are_told_apart() {
    let namespace = lonely_node("link");
    add_device(&namespace, "eth1", "1500");
    shell(&namespace, "ip address add 192.0.2.7/32 dev eth1");
    Session::run(&namespace, |session| {
        for family in [4, 6] {
            assert_eq!(way_to(session, internal_ip(2, family)).to_string(), "past weft0 by eth0");
        }
        assert_eq!(
            way_to(session, internal_ip(7, 4)).to_string(),
            "weft0: the route to its address is of the type local"
        );
        let found = ways(session, internal_ip(2, 4)).devices;
        let names: Vec<_> = found.iter().map(|device| device.device.as_str()).collect();
        assert_eq!(names, ["eth0"], "eth1 carries no InternalIP, and no peer is behind it");
    });
}

#[test]
fn a_thousand_peers_are_asked_for_at_once() {
    const PEERS: u32 = 1000;
    let namespace = lonely_node("many");
    shell(&namespace, "ip route add default via 192.0.2.9; ip rule add from 192.0.2.1 table main");
    let source = internal_ip(1, 4);
    let tunnel = |number: u32| Tunnel { source, destination: IpAddr::V4((0xc633_6400 + number).into()) };
    let tunnels: Vec<_> = (0..PEERS).map(tunnel).collect();
    Session::run(&namespace, |session| {
        let began = Instant::now();
        let paths = session.wait(session.kernel.paths(&[source], &tunnels)).unwrap();
        println!("{PEERS} answers, each asked twice because of the rule, took {:?}", began.elapsed());
        assert_eq!(paths.answers.len(), tunnels.len());
        assert!(paths.answers.iter().all(|answer| *answer == paths.answers[0]), "{:?}", paths.answers[0]);
    });
}

#[test]
fn what_a_router_says_of_the_path_takes_large_packets_back_to_weft0() {
    let namespace = lonely_node("pmtu");
    let router = Namespace::new("pmtu-router").unwrap();
    veth((&namespace, "eth1"), (&router, "near")).unwrap();
    add_device(&router, "narrow", "1300");
    namespace.add_address("eth1", "2001:db8:1::1/64").unwrap();
    router.add_address("near", "2001:db8:1::8/64").unwrap();
    router.add_address("narrow", "2001:db8:2::8/64").unwrap();
    router.set_sysctl("ipv6/conf/all/forwarding", "1").unwrap();
    shell(&namespace, "ip route add 2001:db8:2::/64 via 2001:db8:1::8");
    shell(&router, "ip route add 2001:db8::/64 via 2001:db8:1::1");
    let peer: IpAddr = "2001:db8:2::2".parse().unwrap();
    Session::run(&namespace, |session| {
        assert_eq!(way_to(session, peer).to_string(), "past weft0 by eth1");
        // As long as the largest packet between nodes.
        let socket = UdpSocket::bind(("2001:db8::1", 0)).unwrap();
        wait::until(DEADLINE, "the router's answer", || {
            // What is too long for the path that the kernel knows is cut by the kernel.
            socket.send_to(&[0; 1440], (peer, 4789))?;
            let way = way_to(session, peer).to_string();
            ensure!(way.starts_with("weft0: 1300 bytes fit through by eth1"), "{way}");
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn our_filter_comes_to_a_device_and_goes_without_touching_what_others_have_there() {
    let namespace = lonely_node("underlay");
    add_device(&namespace, "eth1", "1500");
    // Somebody else's qdisc and filters are there already.
    shell(
        &namespace,
        "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress prio 2 protocol ip u32 match ip dst 198.51.100.1/32 flowid 1:1",
    );
    let listing = || namespace.run(["tc", "filter", "show", "dev", "eth0", "ingress"]).unwrap();
    let before = listing();
    let mut desired = NodePlan::of(1, &[4], &[4]).desired();
    let ours = FilterProgram::Pinned(program::FROM_UNDERLAY.to_owned());
    desired.underlay_filters = ["eth0", "eth1"].map(|device| (device.to_owned(), ours.clone())).into();
    Session::run(&namespace, |session| {
        session.converge(&desired);
        assert!(listing().contains(program::FROM_UNDERLAY), "{}", listing());
        assert_eq!(session.pass(&desired), [], "a second pass finds it");
        // The program of an earlier agent, under our name.
        let elsewhere = Path::new("/sys/fs/bpf/elsewhere");
        programs::load(elsewhere, object::OBJECT).unwrap();
        let earlier = session.wait(async { LinuxKernel::open(elsewhere, "/proc/sys".as_ref()) }).unwrap();
        let set = Change::SetUnderlayFilter("eth1".to_owned());
        session.wait(earlier.apply(&set)).unwrap();
        assert_eq!(session.observe(&desired).underlay_filters["eth1"], FilterProgram::Other);
        assert_eq!(session.pass(&desired), [set]);
        desired.underlay_filters.clear();
        let gone = ["eth0", "eth1"].map(|device| Change::RemoveUnderlayFilter(device.to_owned()));
        assert_eq!(session.pass(&desired), gone);
        session.apply(&gone[0]);
        session.apply(&Change::RemoveUnderlayFilter("eth9".to_owned()));
        assert_eq!(listing(), before, "the other filter and the qdisc stay");
    });
}

#[test]
fn where_somebody_else_has_our_place_on_a_device_the_filter_stays_and_is_named() {
    let namespace = lonely_node("taken");
    add_device(&namespace, "eth1", "1500");
    Session::run(&namespace, |session| {
        let pinned = format!("{PIN_DIRECTORY}/{}", program::TO_POD);
        let words = format!(
            "tc qdisc add dev eth0 clsact
             tc filter add dev eth0 ingress prio 1 handle 1 protocol all bpf da pinned {pinned}
             tc qdisc add dev eth1 clsact
             tc filter add dev eth1 ingress prio 1 protocol ip u32 match ip dst 198.51.100.1/32 flowid 1:1"
        );
        shell(&namespace, &words);
        let listings = || {
            ["eth0", "eth1"].map(|device| namespace.run(["tc", "filter", "show", "dev", device, "ingress"]).unwrap())
        };
        let before = listings();
        for (device, said) in [("eth0", "has priority 1 and handle 1 there"), ("eth1", "filters of another kind")] {
            let refused = session.wait(session.kernel.apply(&Change::SetUnderlayFilter(device.to_owned())));
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(said) && refused.contains("received by weft0"), "{refused}");
        }
        let desired = NodePlan::of(1, &[4], &[4]).desired();
        assert!(session.observe(&desired).underlay_filters.is_empty(), "it is not ours");
        session.apply(&Change::RemoveUnderlayFilter("eth0".to_owned()));
        assert_eq!(listings(), before);
    });
}

#[test]
fn this_kernel_is_asked_whether_it_can() {
    let namespace = lonely_node("probe");
    Session::run(&namespace, |_| probe::fast_path(PIN_DIRECTORY.as_ref(), object::OBJECT)).unwrap();
}

#[test]
fn what_leads_peers_elsewhere_is_told_as_urgent_and_a_storm_of_other_routes_not_at_all() {
    let namespace = lonely_node("urgent");
    add_device(&namespace, "eth1", "1500");
    shell(&namespace, "ip address add 198.51.100.1/24 dev eth1; ip route add 203.0.113.0/24 via 192.0.2.9");
    Session::run(&namespace, |session| {
        session.wait(async {
            let plan = plan_with(&["203.0.113.2".parse().unwrap()]);
            session.kernel.paths(&plan.internal_ips, &way::tunnels(&plan)).await.unwrap();
            for words in [
                "ip route replace 203.0.113.0/24 via 198.51.100.9",
                "ip route add 203.0.113.2/32 via 192.0.2.9",
                "ip route add default via 192.0.2.9",
                "ip rule add from 192.0.2.1 table 7",
                "ip xfrm policy add src 203.0.113.0/24 dst 203.0.113.0/24 dir in action block",
                "ip xfrm policy flush",
                "ip link set eth0 mtu 1400",
                "ip address del 2001:db8::1/64 dev eth0",
                "ip link set eth0 down",
            ] {
                let mut notifications = Notifications::subscribe(&session.kernel.interest()).unwrap();
                shell(&namespace, words);
                let deadline = Instant::now() + DEADLINE;
                loop {
                    let told = tokio::time::timeout_at(deadline.into(), notifications.changed()).await;
                    if told.unwrap_or_else(|_| panic!("not told: {words}")).unwrap() == Disturbance::Underlay {
                        break;
                    }
                }
            }
            // As a routing daemon does it. Nothing of it leads to the peer.
            let file = tempfile::NamedTempFile::new().unwrap();
            let routes: Vec<String> =
                (0..1000_u32).map(|n| format!("route add 10.{}.{}.0/24 dev eth1 proto bgp", n >> 8, n & 255)).collect();
            std::fs::write(file.path(), routes.join("\n")).unwrap();
            let mut notifications = Notifications::subscribe(&session.kernel.interest()).unwrap();
            // The kernel tells of a link's state up to a second late.
            while tokio::time::timeout(QUIET, notifications.changed()).await.is_ok() {}
            namespace.run(["ip".as_ref(), "-batch".as_ref(), file.path().as_os_str()]).unwrap();
            let told = tokio::time::timeout(Duration::ZERO, notifications.changed()).await;
            assert!(told.is_err(), "{told:?}");
        });
    });
}
