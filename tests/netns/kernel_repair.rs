//! What somebody else changes by hand is seen by `LinuxKernel` and repaired; what is not ours is left alone.

use std::time::{Duration, Instant};

use weft_agent::datapath::interest::Interest;
use weft_agent::datapath::notifications::Notifications;
use weft_agent::overlay::state::{Change, FilterPlace, Hook, NodeEntry, OverlayState};
use weft_common::entries::Config;
use weft_common::layout::{OVERLAY_DEVICE, program};
use weft_tests::netns::Namespace;

use crate::kernel_session::{NodePlan, Session, add_device, internal_ip, lonely_node, pod_cidr};

/// Long enough for a loaded machine; no test waits for its end when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// Damage as an operator, another program or a crash does it.
const DAMAGE: &[&str] = &[
    "ip link delete weft0",
    "ip link set weft0 mtu 1300",
    "ip link set weft0 down",
    "ip link set weft0 arp on",
    "ip link set weft0 address 02:00:00:00:00:77",
    "ip address delete 10.244.1.1/32 dev weft0",
    "ip address delete fd00:10:244:1::1/128 dev weft0",
    "ip address add 10.244.1.1/24 dev weft0",
    "ip address delete fd00:10:244:1::1/128 dev weft0 && ip address add fd00:10:244:1::1/64 dev weft0",
    "ip address add 198.51.100.1/32 dev weft0",
    "ip address flush dev weft0",
    "ip route delete 10.244.2.0/24",
    "ip route delete fd00:10:244:2::/64",
    "ip route delete unreachable 10.244.1.0/24",
    "ip route delete unreachable fd00:10:244:1::/64",
    "ip route replace 10.244.2.0/24 proto 119 encap ip id 1 src 192.0.2.1 dst 192.0.2.66 dev weft0 src 10.244.1.1",
    "ip route replace 10.244.2.0/24 proto 119 encap ip id 2 src 192.0.2.1 dst 192.0.2.2 dev weft0 src 10.244.1.1",
    "ip route replace 10.244.2.0/24 proto 119 encap ip id 1 ttl 3 src 192.0.2.1 dst 192.0.2.2 dev weft0 src 10.244.1.1",
    "ip route replace 10.244.2.0/24 proto 119 encap ip id 1 src 192.0.2.1 dst 192.0.2.2 dev weft0",
    "ip route replace 10.244.2.0/24 proto 119 via 192.0.2.9",
    "ip route replace blackhole 10.244.2.0/24 proto 119",
    "ip route replace unreachable fd00:10:244:2::/64 proto 119",
    "ip route replace fd00:10:244:2::/64 proto 119 via 2001:db8::9",
    "ip route replace fd00:10:244:2::/64 proto 119 nexthop via 2001:db8::9 nexthop via 2001:db8::8",
    "ip route add 10.9.0.0/16 proto 119 dev weft0",
    "ip route add fd00:9::/64 proto 119 dev weft0",
    "ip route add 10.9.0.0/16 tos 0x10 proto 119 dev weft0",
    "ip route add unreachable 10.9.0.0/16 metric 7 proto 119",
    "ip route add 10.244.2.0/24 proto 119 metric 50 dev weft0",
    "ip route add 10.244.2.0/24 proto 119 tos 0x10 dev weft0",
    "ip route add fd00:10:244:2::/64 proto 119 metric 50 dev weft0",
    "nft delete table inet weft",
    "nft flush chain inet weft postrouting",
    "nft add rule inet weft postrouting accept",
    "nft insert rule inet weft postrouting accept",
    "nft 'add chain inet weft postrouting { policy drop ; }'",
    "nft 'add chain inet weft other { type filter hook forward priority 0 ; policy drop ; }'",
    "nft 'add table inet weft { flags dormant ; }'",
    "tc qdisc delete dev weft0 clsact",
    "tc filter delete dev weft0 ingress",
    "sysctl -q -w net.ipv4.ip_forward=0",
    "sysctl -q -w net.ipv4.conf.weft0.rp_filter=1",
    "sysctl -q -w net.ipv6.conf.all.forwarding=0",
];

#[test]
fn whatever_was_damaged_is_seen_and_repaired() {
    let namespace = lonely_node("damage");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    Session::run(&namespace, |session| {
        session.converge(&desired);
        for damage in DAMAGE {
            namespace.run(["sh", "-c", damage]).unwrap();
            assert_ne!(session.observe(&desired), desired, "not seen: {damage}");
            repair(session, &desired, damage);
        }
    });
}

/// Two passes are enough for the strangest damage; what depended on it is gone with it.
fn repair(session: &Session, desired: &OverlayState, damage: &str) {
    let changes = [session.pass(desired), session.pass(desired)];
    assert_eq!(session.observe(desired), *desired, "not repaired: {damage}, by {changes:?}");
}

#[test]
fn a_device_of_another_shape_is_made_anew() {
    let namespace = lonely_node("shape");
    let desired = NodePlan::of(1, &[6], &[6]).desired();
    Session::run(&namespace, |session| {
        for other in [
            "type vxlan id 5 dstport 4789",
            "type vxlan external dstport 8472",
            "type vxlan external dstport 4789",
            "type veth peer name other",
        ] {
            session.converge(&desired);
            namespace.run(["ip", "link", "delete", "weft0"]).unwrap();
            let words = format!("ip link add weft0 {other}");
            namespace.run(["sh", "-c", &words]).unwrap();
            repair(session, &desired, other);
        }
    });
}

#[test]
fn a_rule_that_was_edited_in_place_is_seen() {
    let namespace = lonely_node("edited");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    Session::run(&namespace, |session| {
        for (from, to) in
            [("fully-random", "random"), ("10.244.1.0/24", "10.244.0.0/16"), ("weft*", "veth*"), ("32768", "1024")]
        {
            session.converge(&desired);
            let listing = namespace.run(["nft", "list", "table", "inet", "weft"]).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            // Comments stay as they are, so only the rules themselves tell.
            let edited = listing.replacen(&format!("{from} "), &format!("{to} "), 1).replacen(
                &format!("\"{from}\""),
                &format!("\"{to}\""),
                1,
            );
            let edited = if edited == listing { listing.replacen(from, to, 1) } else { edited };
            std::fs::write(file.path(), format!("delete table inet weft\n{edited}")).unwrap();
            namespace.run(["nft".as_ref(), "-f".as_ref(), file.path().as_os_str()]).unwrap();
            assert_ne!(session.observe(&desired).masquerade, desired.masquerade, "{from} to {to}");
            repair(session, &desired, from);
        }
    });
}

#[test]
fn damaged_maps_are_seen_and_repaired() {
    let namespace = lonely_node("maps");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    let stranger = NodeEntry { tunnel: internal_ip(9, 4), source: internal_ip(1, 4), local: false, underlay: Some(1) };
    Session::run(&namespace, |session| {
        let damages: [(&str, &dyn Fn()); 6] = [
            ("no configuration", &|| session.maps.set_config(Config { overlay_ifindex: 0, pod_mtu: 0 }).unwrap()),
            ("a stranger's podCIDR", &|| session.maps.set_node(pod_cidr(9, 6), stranger).unwrap()),
            ("another owner", &|| session.maps.set_node(pod_cidr(2, 4), stranger).unwrap()),
            ("a lost podCIDR", &|| session.maps.remove_node(pod_cidr(1, 6)).unwrap()),
            ("a stranger's address", &|| {
                session.maps.set_node_address(internal_ip(9, 6), stranger.of_address()).unwrap();
            }),
            ("a lost address", &|| session.maps.remove_node_address(internal_ip(2, 4)).unwrap()),
        ];
        for (damage, break_it) in damages {
            session.converge(&desired);
            break_it();
            assert_ne!(session.observe(&desired), desired, "not seen: {damage}");
            repair(session, &desired, damage);
        }
    });
}

/// Everything in the namespace that is not weft's, as text; without what the kernel does by itself in its own time.
fn not_ours(namespace: &Namespace) -> String {
    let mut seen = String::new();
    for words in [
        "ip -o address show dev eth0",
        "ip route show table all",
        "ip -6 route show table all",
        "ip -o link show type veth",
        "nft list table inet other",
        "nft list table ip nat",
        "tc filter show dev weft0 ingress",
        "tc filter show dev weft0 egress",
    ] {
        let lines = namespace.run(["sh", "-c", words]).unwrap();
        let foreign = lines.lines().filter(|line| {
            let ours = ["proto 119", "dev weft0", "pref 1 ", "weft0 table local", "multicast", "fe80"];
            let is_ours = ours.iter().any(|ours| line.contains(ours)) && !line.contains("table 77");
            !is_ours && !line.trim().is_empty()
        });
        foreign.for_each(|line| seen += &format!("{line}\n"));
    }
    seen
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let namespace = lonely_node("foreign");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    Session::run(&namespace, |session| {
        session.converge(&desired);
        for words in [
            "ip route add 10.244.3.0/24 via 192.0.2.77",
            "ip route add 10.244.2.0/24 metric 500 via 192.0.2.77",
            "ip route add 10.244.2.0/24 table 77 proto 119 via 192.0.2.77",
            "ip -6 route add fd00:10:244:3::/64 metric 90 via 2001:db8::77",
            "nft add table inet other",
            "nft 'add chain inet other postrouting { type nat hook postrouting priority 100 ; }'",
            "nft add rule inet other postrouting masquerade",
            "nft add table ip nat",
            "tc filter add dev weft0 ingress prio 2 protocol ip bpf bytecode '1,6 0 0 0' flowid 1:1",
            "tc filter add dev weft0 egress prio 3 protocol ip bpf bytecode '1,6 0 0 0' flowid 1:1",
        ] {
            namespace.run(["sh", "-c", words]).unwrap();
        }
        assert_eq!(session.observe(&desired), desired, "others' objects are no difference");
        let before = not_ours(&namespace);
        for damage in [
            "tc filter delete dev weft0 ingress pref 1",
            "ip route delete 10.244.2.0/24 proto 119",
            "nft delete table inet weft",
        ] {
            namespace.run(["sh", "-c", damage]).unwrap();
            repair(session, &desired, damage);
        }
        let place = FilterPlace { device: OVERLAY_DEVICE.to_owned(), hook: Hook::Ingress };
        session.apply(&Change::SetFilter(place, program::TO_POD.to_owned()));
        repair(session, &desired, "another program");
        session.pass(&NodePlan::of(1, &[4], &[4]).desired());
        session.converge(&desired);
        assert_eq!(not_ours(&namespace), before);
    });
}

#[test]
fn the_kernel_tells_of_changes_that_concern_weft() {
    let namespace = lonely_node("news");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    Session::run(&namespace, |session| {
        session.converge(&desired);
        namespace.run(["nft", "add", "table", "inet", "other"]).unwrap();
        for words in [
            "ip link set weft0 mtu 1300",
            "ip address delete 10.244.1.1/32 dev weft0",
            "ip address add 192.0.2.99/24 dev eth0",
            "ip route delete fd00:10:244:2::/64",
            "ip route add 10.9.0.0/16 proto 119 dev eth0",
            "tc filter delete dev weft0 ingress",
            "nft add rule inet weft postrouting accept",
        ] {
            let told = session.wait(async {
                let mut notifications = Notifications::subscribe(&Interest::default()).unwrap();
                namespace.run(["sh", "-c", words]).unwrap();
                tokio::time::timeout(DEADLINE, notifications.changed()).await
            });
            assert!(told.is_ok_and(|told| told.is_ok()), "{words}");
        }
    });
}

#[test]
fn the_kernel_tells_nothing_of_what_only_concerns_others() {
    let namespace = lonely_node("no-news");
    add_device(&namespace, "eth1", "1500");
    Session::run(&namespace, |session| {
        session.wait(async {
            // New devices come to rest in their own time, and the kernel tells of that too.
            let deadline = Instant::now() + DEADLINE;
            let mut notifications = loop {
                let mut notifications = Notifications::subscribe(&Interest::default()).unwrap();
                for words in [
                    "ip route replace 10.9.0.0/16 dev eth0",
                    "ip route delete 10.9.0.0/16",
                    "ip route add 10.9.9.9/32 dev eth0",
                    "ip route delete 10.9.9.9/32",
                    "ip neighbour replace 192.0.2.77 lladdr 02:00:00:00:00:77 nud permanent dev eth0",
                    "ip neighbour delete 192.0.2.77 dev eth0",
                    "nft add table inet other",
                    "nft add table inet weft2",
                ] {
                    namespace.run(["sh", "-c", words]).unwrap();
                }
                // Everything that was told is in the socket by now: the commands have ended.
                let told = tokio::time::timeout(Duration::ZERO, notifications.changed()).await;
                if told.is_err() {
                    break notifications;
                }
                assert!(Instant::now() < deadline, "{told:?}");
            };
            // Still listening.
            namespace.run(["ip", "link", "set", "eth0", "mtu", "1400"]).unwrap();
            tokio::time::timeout(DEADLINE, notifications.changed()).await.unwrap().unwrap();
        });
    });
}

#[test]
fn a_flood_of_changes_is_told_although_the_socket_overflows() {
    let namespace = lonely_node("flood");
    Session::run(&namespace, |session| {
        session.wait(async {
            let mut notifications = Notifications::subscribe(&Interest::default()).unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            let routes: Vec<String> = (0..60_000_u32)
                .map(|n| format!("route add 10.{}.{}.{}/32 dev eth0", n >> 16, n >> 8 & 255, n & 255))
                .collect();
            std::fs::write(file.path(), routes.join("\n")).unwrap();
            namespace.run(["ip".as_ref(), "-batch".as_ref(), file.path().as_os_str()]).unwrap();
            // None of them concerns us, but after an overflow nobody knows.
            tokio::time::timeout(DEADLINE, notifications.changed()).await.unwrap().unwrap();
        });
    });
}
