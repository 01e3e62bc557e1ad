//! `LinuxKernel` against a real kernel, judged by `ip`, `tc` and `nft`.

use serde_json::Value;
use weft_agent::datapath::Kernel;
use weft_agent::datapath::fake::FakeKernel;
use weft_agent::datapath::requirements::Requirements;
use weft_agent::overlay::diff::diff;
use weft_agent::overlay::state::{
    Change, FilterPlace, FilterProgram, Hook, NodeEntry, OverlayDevice, OverlayState, RouteKind, Underlay,
};
use weft_common::layout::{LINK_GROUP, PIN_DIRECTORY, program};
use weft_tests::netns::Namespace;

use crate::kernel_session::{NodePlan, Session, add_device, gateway, internal_ip, lonely_node, pod_cidr};

/// Families of the underlay and of the pods, and the device's MTU.
const CLUSTERS: [(&[u8], &[u8]); 5] = [(&[4], &[4]), (&[4], &[6]), (&[4], &[4, 6]), (&[6], &[6]), (&[6, 4], &[6, 4])];

fn json(namespace: &Namespace, words: &str) -> Value {
    let text = namespace.run(words.split(' ')).unwrap();
    serde_json::from_str(if text.is_empty() { "[]" } else { &text }).unwrap()
}

#[test]
fn every_family_is_there_after_it_was_applied() {
    for (underlay, pods) in CLUSTERS {
        let namespace = lonely_node("families");
        let desired = NodePlan::of(1, underlay, pods).desired();
        Session::run(&namespace, |session| {
            let first = session.pass(&desired);
            assert!(!first.is_empty());
            assert_eq!(session.observe(&desired), desired, "{underlay:?} {pods:?}");
            assert_eq!(session.pass(&desired), [], "a second pass finds nothing to do");
            // Every single change may come twice, also after a restart in the middle.
            first.iter().for_each(|change| session.apply(change));
            assert_eq!(session.observe(&desired), desired, "{underlay:?} {pods:?}");
        });
    }
}

#[test]
fn what_is_gone_can_be_removed_again() {
    let namespace = lonely_node("gone");
    Session::run(&namespace, |session| {
        for address in ["10.244.1.1", "fd00::1"] {
            session.apply(&Change::RemoveAddress(address.parse().unwrap()));
            session.apply(&Change::RemoveNodeAddress(address.parse().unwrap()));
        }
        for pod_cidr in [pod_cidr(2, 4), pod_cidr(2, 6)] {
            session.apply(&Change::RemoveRoute(pod_cidr));
            session.apply(&Change::RemoveNode(pod_cidr));
        }
    });
}

#[test]
fn another_cluster_takes_the_place_of_the_old_one() {
    let namespace = lonely_node("moved");
    Session::run(&namespace, |session| {
        session.converge(&NodePlan::of(1, &[4], &[4, 6]).desired());
        session.converge(&NodePlan::of(1, &[6], &[6, 4]).desired());
        session.converge(&NodePlan::of(2, &[6], &[6]).desired());
        let empty = OverlayState { device: NodePlan::of(1, &[4], &[4]).desired().device, ..OverlayState::default() };
        session.pass(&empty);
        let left = session.observe(&empty);
        assert!(left.routes.is_empty() && left.nodes.is_empty() && left.node_addresses.is_empty());
    });
}

#[test]
fn ip_shows_the_device_and_the_routes() {
    let namespace = lonely_node("ip");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    Session::run(&namespace, |session| session.converge(&desired));

    let link = &json(&namespace, "ip -j -d link show weft0")[0];
    assert_eq!((&link["mtu"], &link["address"]), (&1430.into(), &"02:00:00:00:00:01".into()));
    let flags = link["flags"].as_array().unwrap();
    assert!(flags.contains(&"UP".into()) && flags.contains(&"NOARP".into()), "{flags:?}");
    let vxlan = &link["linkinfo"]["info_data"];
    for (setting, expected) in [("external", true), ("learning", false), ("udp_zero_csum6_rx", true)] {
        assert_eq!(vxlan[setting], expected, "{setting} in {vxlan}");
    }
    assert_eq!(vxlan["port"], 4789);

    let routes = namespace.run(["ip", "route", "show", "proto", "119"]).unwrap();
    let overlay = routes.lines().find(|line| line.starts_with("10.244.2.0/24")).unwrap();
    for part in ["encap ip id 1 src 192.0.2.1 dst 192.0.2.2", "dev weft0", "scope link", "src 10.244.1.1"] {
        assert!(overlay.contains(part), "{overlay}");
    }
    assert!(routes.contains("unreachable 10.244.1.0/24"), "{routes}");
    let routes = namespace.run(["ip", "-6", "route", "show", "proto", "119"]).unwrap();
    let overlay = routes.lines().find(|line| line.starts_with("fd00:10:244:2::/64")).unwrap();
    for part in ["encap ip id 1 src 192.0.2.1 dst 192.0.2.2", "dev weft0", "src fd00:10:244:1::1"] {
        assert!(overlay.contains(part), "{overlay}");
    }
    assert!(routes.contains("unreachable fd00:10:244:1::/64"), "{routes}");
}

#[test]
fn nft_shows_the_masquerade_and_takes_its_own_listing_back() {
    let namespace = lonely_node("nft");
    let desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    Session::run(&namespace, |session| {
        session.converge(&desired);
        let listing = namespace.run(["nft", "list", "table", "inet", "weft"]).unwrap();
        assert!(listing.contains("type nat hook postrouting priority srcnat; policy accept;"), "{listing}");
        let masquerade = r#"oifname != "weft*" meta l4proto tcp masquerade to :32768-65535 fully-random"#;
        assert!(listing.contains(&format!("ip saddr 10.244.1.0/24 {masquerade}")), "{listing}");
        assert!(listing.contains(&format!("ip6 saddr fd00:10:244:1::/64 {masquerade}")), "{listing}");
        let rest = r#"ip saddr 10.244.1.0/24 oifname != "weft*" masquerade fully-random"#;
        assert!(listing.contains(rest), "other protocols, ICMP among them, have no ports: {listing}");
        assert!(listing.contains(r#"comment "weft: pods of 10.244.1.0/24""#), "{listing}");

        // What operators save with `nft list ruleset` must load again.
        let saved = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(saved.path(), format!("flush ruleset\n{listing}")).unwrap();
        namespace.run(["nft".as_ref(), "-f".as_ref(), saved.path().as_os_str()]).unwrap();
    });
}

#[test]
fn filters_of_pod_devices_are_attached_replaced_and_seen() {
    let namespace = lonely_node("filters");
    let group = LINK_GROUP.to_string();
    for (name, group) in [("weft0123456789a", group.as_str()), ("veth7", "0")] {
        let peer = format!("peer{}", &name[4..]);
        namespace.run(["ip", "link", "add", name, "group", group, "type", "veth", "peer", "name", &peer]).unwrap();
    }
    let place = |hook| FilterPlace { device: "weft0123456789a".to_owned(), hook };
    let mut desired = NodePlan::of(1, &[4], &[4]).desired();
    desired.filters.insert(place(Hook::Ingress), FilterProgram::Pinned(program::FROM_POD.to_owned()));
    desired.filters.insert(place(Hook::Egress), FilterProgram::Pinned(program::TO_POD.to_owned()));
    let link = &json(&namespace, "ip -j link show weft0123456789a")[0];
    desired.pods.unrecorded.insert(u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap());
    Session::run(&namespace, |session| {
        session.converge(&desired);
        session.apply(&Change::SetFilter(place(Hook::Ingress), program::TO_POD.to_owned()));
        let wrong = FilterProgram::Pinned(program::TO_POD.to_owned());
        assert_eq!(session.observe(&desired).filters[&place(Hook::Ingress)], wrong);
        session.converge(&desired);
    });
    let filters = json(&namespace, "tc -j filter show dev weft0123456789a ingress");
    let ours: Vec<&Value> =
        filters.as_array().unwrap().iter().filter(|filter| filter["options"]["handle"] == "0x1").collect();
    assert_eq!(ours.len(), 1, "a replacement leaves one filter: {filters}");
    let filter = ours[0];
    assert_eq!(
        (&filter["pref"], &filter["protocol"], &filter["kind"]),
        (&1.into(), &"all".into(), &"bpf".into()),
        "{filter}"
    );
    assert_eq!(filter["options"]["direct-action"], true, "{filter}");
    assert_eq!(filter["options"]["bpf_name"], program::FROM_POD, "{filter}");
    assert_eq!(json(&namespace, "tc -j filter show dev veth7 ingress"), Value::Array(Vec::new()));
}

#[test]
fn the_underlay_is_found_by_address_and_the_smallest_mtu_counts() {
    let namespace = Namespace::new("underlay").unwrap();
    for (device, mtu) in [("eth0", "1500"), ("eth1", "1400")] {
        add_device(&namespace, device, mtu);
    }
    namespace.add_address("eth0", "192.0.2.1/24").unwrap();
    namespace.add_address("eth1", "2001:db8::1/64").unwrap();
    Session::run(&namespace, |session| {
        let underlay = |addresses: &[_]| session.wait(session.kernel.underlay(addresses));
        let found = underlay(&[internal_ip(1, 4)]).unwrap();
        assert_eq!((found.device.as_str(), found.mtu), ("eth0", 1500));
        let found = underlay(&[internal_ip(1, 4), internal_ip(1, 6)]).unwrap();
        assert_eq!((found.device.as_str(), found.mtu), ("eth0", 1400));
        let error = underlay(&[internal_ip(1, 4), internal_ip(9, 6)]).unwrap_err().to_string();
        assert!(error.contains("2001:db8::9") && error.contains("--node-ip"), "{error}");
    });
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    let namespace = lonely_node("words");
    let mut desired = NodePlan::of(1, &[4], &[4]).desired();
    desired.device.as_mut().unwrap().mtu = 70_000;
    Session::run(&namespace, |session| {
        let change = Change::CreateDevice(desired.device.clone().unwrap());
        let error = session.wait(session.kernel.apply(&change)).unwrap_err().to_string();
        assert!(error.contains("create device weft0") && error.contains("MTU must be between 68 and 65535"), "{error}");
    });
}

#[test]
fn a_route_of_somebody_else_in_the_way_is_named_and_stays() {
    let namespace = lonely_node("in-the-way");
    for (family, pod_cidr) in [("-4", pod_cidr(2, 4)), ("-6", pod_cidr(2, 6))] {
        namespace.run(["ip", family, "route", "add", &pod_cidr.to_string(), "dev", "eth0"]).unwrap();
        let before = json(&namespace, &format!("ip -j {family} route"));
        let route = NodePlan::of(1, &[4], &[4, 6]).desired().routes[&pod_cidr].clone();
        Session::run(&namespace, |session| {
            session.converge(&OverlayState { routes: Default::default(), ..NodePlan::of(1, &[4], &[4, 6]).desired() });
            let change = Change::SetRoute(pod_cidr, route);
            let error = session.wait(session.kernel.apply(&change)).unwrap_err().to_string();
            assert!(error.contains(&pod_cidr.to_string()) && error.contains("not weft's"), "{error}");
            session.apply(&Change::RemoveRoute(pod_cidr));
        });
        let after = json(&namespace, &format!("ip -j {family} route"));
        let missing: Vec<_> =
            before.as_array().unwrap().iter().filter(|route| !after.as_array().unwrap().contains(route)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn a_route_is_replaced_without_a_second_one_beside_it() {
    let namespace = lonely_node("replace");
    let desired = NodePlan::of(1, &[4, 6], &[4, 6]).desired();
    let (tunnel_source, tunnel_destination) = (internal_ip(1, 6), internal_ip(7, 6));
    Session::run(&namespace, |session| {
        session.converge(&desired);
        for (family, pod_cidr) in [("-4", pod_cidr(2, 4)), ("-6", pod_cidr(2, 6))] {
            let other = RouteKind::Overlay { tunnel_source, tunnel_destination, preferred_source: None };
            for kind in [other, RouteKind::Unreachable, desired.routes[&pod_cidr].clone()] {
                session.apply(&Change::SetRoute(pod_cidr, kind.clone()));
                assert_eq!(session.observe(&desired).routes[&pod_cidr], kind);
                let shown = json(&namespace, &format!("ip -j {family} route show exact {pod_cidr}"));
                assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
            }
        }
    });
}

/// Tests of the reconciler trust the fake one: what it accepts, refuses and removes along must be what a real one does.
#[test]
fn the_fake_kernel_does_what_the_real_one_does() {
    let namespace = lonely_node("fake");
    let mut desired = NodePlan::of(1, &[4], &[4, 6]).desired();
    // The fake one knows no defaults of a new device.
    desired.sysctls.retain(|path, _| !path.contains("weft0"));
    let device = desired.device.clone().unwrap();
    let [own4, own6, peer4, peer6] = [pod_cidr(1, 4), pod_cidr(1, 6), pod_cidr(2, 4), pod_cidr(2, 6)];
    let (gateway4, gateway6) = (gateway(own4), gateway(own6));
    let set_route = |destination| Change::SetRoute(destination, desired.routes[&destination].clone());
    let mut changes = vec![
        Change::AddAddress(gateway4),
        Change::SetConfig(1430),
        Change::SetDevice(device.clone()),
        Change::RemoveAddress(gateway6),
        set_route(own4),
        set_route(peer4),
        Change::CreateDevice(device.clone()),
        set_route(peer6),
        Change::AddAddress(gateway4),
        Change::AddAddress(gateway6),
    ];
    changes.extend(diff(&desired, &OverlayState::default()));
    changes.extend([
        Change::RemoveAddress(gateway4),
        Change::RemoveAddress(gateway6),
        set_route(peer4),
        set_route(peer6),
        Change::AddAddress(gateway4),
        set_route(peer4),
        Change::RemoveRoute(own6),
        Change::SetDevice(OverlayDevice { up: false, ..device.clone() }),
        set_route(peer4),
        Change::SetDevice(device.clone()),
        Change::CreateDevice(device.clone()),
        Change::RemoveUnderlayFilter("eth0".to_owned()),
        Change::SetUnderlayFilter("eth0".to_owned()),
        Change::SetUnderlayFilter("eth0".to_owned()),
        Change::SetUnderlayFilter("eth9".to_owned()),
        Change::RemoveUnderlayFilter("eth9".to_owned()),
        Change::RemoveUnderlayFilter("eth0".to_owned()),
        Change::RemoveUnderlayFilter("eth0".to_owned()),
        // A map takes the index of a device that is gone, or never was.
        Change::SetNode(peer4, NodeEntry { underlay: Some(4_000_000), ..desired.nodes[&peer4] }),
    ]);
    Session::run(&namespace, |session| {
        let start = session.observe(&desired);
        let fake = FakeKernel::new(start, Underlay { device: "eth0".to_owned(), mtu: 1500 });
        for (number, change) in changes.iter().enumerate() {
            let real = session.wait(session.kernel.apply(change));
            let faked = session.wait(fake.apply(change));
            assert_eq!(faked.is_ok(), real.is_ok(), "{number}: {change:?}: fake {faked:?}, real {real:?}");
            assert_eq!(fake.state(), session.observe(&desired), "{number}: after {change:?}");
        }
    });
}

#[test]
fn this_machine_has_what_weft_needs() {
    let namespace = lonely_node("needs");
    let missing = |pins: &str| {
        Requirements::of_this_node(pins.as_ref(), "/proc/sys".as_ref())
            .with_cgroups("/sys/fs/cgroup".as_ref())
            .missing()
    };
    // The session mounts the BPF file system.
    Session::run(&namespace, |_| assert_eq!(missing(PIN_DIRECTORY), []));
    let elsewhere = missing("/tmp/weft/v2");
    assert!(elsewhere.len() == 1 && elsewhere[0].to_string().contains("mount -t bpf"), "{elsewhere:?}");
}
