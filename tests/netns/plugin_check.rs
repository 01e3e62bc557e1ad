//! CHECK names what is damaged.

use serde_json::json;

use crate::plugin_node::{PINS, PluginNode, of_pod, pod};

/// Runs a shell command on the node.
fn shell(command: &str) {
    weft_tests::command::output(&mut weft_tests::command::command(["sh", "-ec", command])).unwrap();
}

#[test]
fn check_names_each_damage() {
    PluginNode::run(&[4, 6], |node| {
        // $D: the device on the host, $P: the pod's namespace.
        for (damage, words) in [
            ("ip -n $P link set eth0 down", "eth0 in the pod is down"),
            ("ip -n $P link set eth0 mtu 1400", "eth0 in the pod has the MTU 1400, not 1430"),
            ("ip -n $P link del eth0", "the host has no device"),
            ("ip -n $P link set eth0 name eth1", "the pod has no interface eth0"),
            (
                "ip -n $P link set eth0 address 02:00:00:00:00:99",
                "eth0 in the pod has the MAC address 02:00:00:00:00:99",
            ),
            ("ip -n $P address del 10.244.1.2/32 dev eth0", "eth0 in the pod has no address 10.244.1.2"),
            ("ip -n $P address del fd00:10:244:1::2/128 dev eth0", "eth0 in the pod has no address fd00:10:244:1::2"),
            ("ip -n $P route del default", "no default route via 10.244.1.1"),
            ("ip -n $P -6 route del default", "no default route via fd00:10:244:1::1"),
            ("ip -n $P route flush dev eth0", "no route to its gateway 10.244.1.1"),
            ("ip -n $P neigh del 10.244.1.1 dev eth0", "eth0 in the pod has no permanent neighbour 10.244.1.1"),
            ("ip link set $D down", "is down"),
            ("ip link set $D mtu 1400", "has the MTU 1400, not 1430"),
            ("ip link set $D group 7", "is not in weft's link group"),
            ("ip route del 10.244.1.2", "the host has no route to 10.244.1.2"),
            ("ip -6 route del fd00:10:244:1::2", "the host has no route to fd00:10:244:1::2"),
            (
                "ip neigh replace 10.244.1.2 lladdr 02:00:00:00:00:99 dev $D",
                "no permanent neighbour 10.244.1.2 with the MAC",
            ),
            ("tc filter del dev $D ingress", "the program from_pod is missing on the ingress"),
            ("tc qdisc del dev $D clsact", "the program to_pod is missing on the egress"),
            (
                "tc filter del dev $D egress; tc filter add dev $D egress prio 1 handle 1 bpf da pinned $PINS/from_pod",
                "runs the program",
            ),
            (
                "bpftool map delete pinned $PINS/ENDPOINTS key hex 00 00 00 00 00 00 00 00 00 00 ff ff 0a f4 01 02",
                "the map ENDPOINTS has no entry for 10.244.1.2",
            ),
            (
                "bpftool map update pinned $PINS/ENDPOINTS key hex 00 00 00 00 00 00 00 00 00 00 ff ff 0a f4 01 02 value hex \
                 01 00 00 00 01 01 01 01 01 01 02 02 02 02 02 02",
                "the map ENDPOINTS has another entry for 10.244.1.2",
            ),
            ("echo 'other eth0' > $STATE/addresses/10.244.1.2", "the address 10.244.1.2 is not allocated to it"),
        ] {
            let pod = pod("pod");
            let result = node.add("abc", &pod).success();
            node.check("abc", &pod, &result).success();
            let device = result["interfaces"][0]["name"].as_str().unwrap();
            let state = node.file("");
            shell(&format!("D={device} P={} PINS={PINS} STATE={}; {damage}", pod.name(), state.display()));
            let details = node.check("abc", &pod, &result).failure(105);
            assert!(details.contains(words), "after `{damage}`: {words:?} in {details:?}");
            assert!(details.contains("Delete the pod default/web"), "{details}");
            let _ = std::fs::write(node.file("addresses/10.244.1.2"), "abc eth0\n");
            // Whether it finds the damage in its way or not, what it leaves is gone after the next one.
            node.del("abc", "");
            shell(&format!("ip link del {device} 2>/dev/null || true"));
            node.del("abc", "").success();
            assert_eq!(node.leftovers(), [""; 0], "after `{damage}`");
            // So that the next round has the same addresses.
            shell(&format!("rm -f {}/resting/*", state.display()));
        }
    });
}

#[test]
fn check_compares_with_prev_result_and_knows_the_unknown() {
    PluginNode::run(&[4], |node| {
        let pods = ["one", "two"].map(pod);
        let results = [0, 1].map(|number: usize| node.add(pods[number].name(), &pods[number]).success());
        let details = node.check(pods[0].name(), &pods[0], &results[1]).failure(105);
        assert!(details.contains("prevResult"), "{details}");
        let mut changed = results[0].clone();
        changed["ips"][0]["address"] = json!("10.244.1.77/32");
        let details = node.check(pods[0].name(), &pods[0], &changed).failure(105);
        assert!(details.contains("10.244.1.77"), "{details}");
        node.check("unknown", &pods[0], &results[0]).failure(3);
        let configuration =
            node.configuration("1.0.0", &[("name", json!("other")), ("prevResult", results[0].clone())]);
        let netns = pods[0].path();
        let answer = node.call(&of_pod("CHECK", pods[0].name(), "eth0", netns.to_str().unwrap()), &configuration);
        assert!(answer.failure(105).contains("belongs to the network weft, not to other"));
    });
}
