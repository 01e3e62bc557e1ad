//! ADD, CHECK and DEL of the real plugin, seen through other tools.

use std::collections::HashSet;
use std::net::IpAddr;
use std::thread;

use serde_json::{Value, json};
use weft_tests::netns::Namespace;

use crate::plugin_node::{PluginNode, call, ip, ip_in, map_entries, of_pod, pod, program_id, tool};

/// The addresses of an answer.
fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

fn host_device(result: &Value) -> &str {
    result["interfaces"][0]["name"].as_str().unwrap()
}

fn expected(families: &[u8], number: u8) -> Vec<String> {
    let of =
        |family: &u8| if *family == 4 { format!("10.244.1.{number}") } else { format!("fd00:10:244:1::{number:x}") };
    families.iter().map(of).collect()
}

/// `family` as `ip` takes it, of an address.
fn family(address: &str) -> &'static str {
    if address.contains(':') { "-6" } else { "-4" }
}

fn find<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    list.as_array()
        .unwrap()
        .iter()
        .find(|item| item[key] == value)
        .unwrap_or_else(|| panic!("no {key} {value} in {list}"))
}

#[test]
fn what_add_makes_is_there_for_every_family_and_del_takes_all_of_it() {
    for families in [&[4_u8][..], &[6], &[4, 6], &[6, 4]] {
        PluginNode::run(families, |node| {
            let pod = pod("pod");
            let result = node.add("abc", &pod).success();
            assert_eq!(addresses(&result), expected(families, 2));
            assert_pod_side(&result, &pod);
            assert_host_side(&result);
            node.check("abc", &pod, &result).success();

            node.del("abc", pod.path().to_str().unwrap()).success();
            assert_eq!(node.leftovers(), [""; 0]);
            assert_eq!(ip_in(&pod, &["link"]).as_array().unwrap().len(), 1, "only lo is left");
            let resting: HashSet<_> =
                node.names("resting").iter().map(|name| name.split_once('-').unwrap().1.to_owned()).collect();
            assert_eq!(resting, expected(families, 2).into_iter().collect());
        });
    }
}

fn assert_pod_side(result: &Value, pod: &Namespace) {
    let links = ip_in(pod, &["link", "show", "eth0"]);
    let link = &links[0];
    assert_eq!(link["address"], result["interfaces"][1]["mac"]);
    assert_eq!(link["mtu"], 1430);
    assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
    let shown = ip_in(pod, &["address", "show", "dev", "eth0"]);
    let shown = shown[0]["addr_info"].as_array().unwrap();
    assert_eq!(shown.len(), addresses(result).len(), "no link-local address: {shown:?}");
    for (entry, address) in result["ips"].as_array().unwrap().iter().zip(addresses(result)) {
        let found = shown.iter().find(|found| found["local"] == address).unwrap();
        assert_eq!(found["prefixlen"], if address.contains(':') { 128 } else { 32 });
        assert_eq!(found.get("tentative"), None);
        let gateway = entry["gateway"].as_str().unwrap();
        let routes = ip_in(pod, &[family(&address), "route", "show", "dev", "eth0"]);
        assert_eq!(find(&routes, "dst", "default")["gateway"], gateway);
        assert_eq!(find(&routes, "dst", gateway).get("gateway"), None);
        let neighbours = ip_in(pod, &[family(&address), "neigh", "show", "dev", "eth0"]);
        let neighbour = find(&neighbours, "dst", gateway);
        assert_eq!(neighbour["lladdr"], result["interfaces"][0]["mac"]);
        assert_eq!(neighbour["state"], json!(["PERMANENT"]));
    }
}

fn assert_host_side(result: &Value) {
    let device = host_device(result);
    let links = ip(&["link", "show", device]);
    let link = &links[0];
    assert_eq!(link["address"], result["interfaces"][0]["mac"]);
    assert_eq!(link["mtu"], 1430);
    assert_eq!(link["group"].as_str().map_or_else(|| link["group"].to_string(), str::to_owned), "2003134068");
    assert_eq!(link["inet6_addr_gen_mode"], "none");
    assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
    let shown = ip(&["address", "show", "dev", device]);
    assert_eq!(shown[0]["addr_info"], json!([]), "the host side has no address");
    let entries = map_entries();
    assert_eq!(entries.len(), addresses(result).len());
    for address in addresses(result) {
        let routes = ip(&[family(&address), "route", "show", "dev", device]);
        let route = find(&routes, "dst", &address);
        assert_eq!(route["protocol"], "static");
        assert_eq!(route.get("prefsrc"), None);
        let neighbours = ip(&[family(&address), "neigh", "show", "dev", device]);
        let neighbour = find(&neighbours, "dst", &address);
        assert_eq!(neighbour["lladdr"], result["interfaces"][1]["mac"]);
        assert_eq!(neighbour["state"], json!(["PERMANENT"]));
        let key = match address.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mac = |side: usize| result["interfaces"][side]["mac"].as_str().unwrap().replace(':', "");
        let index = u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap();
        let value = format!("{}{}{}", digits(&index.to_ne_bytes()), mac(1), mac(0));
        assert!(entries.contains(&(digits(&key.octets()), value)), "{address} in {entries:?}");
    }
    for (direction, program) in [("ingress", "from_pod"), ("egress", "to_pod")] {
        let filters = tool(&["tc", "-j", "filter", "show", "dev", device, direction]);
        let ours: Vec<_> =
            filters.as_array().unwrap().iter().filter(|filter| filter["options"]["prog"].is_object()).collect();
        assert_eq!(ours.len(), 1, "{filters}");
        assert_eq!(ours[0]["options"]["prog"]["id"], program_id(program), "{direction}");
        assert_eq!(ours[0]["options"]["direct-action"], true);
        assert_eq!((&ours[0]["pref"], &ours[0]["options"]["handle"]), (&json!(1), &json!("0x1")));
    }
}

#[test]
fn pods_of_a_node_and_the_node_itself_reach_each_other() {
    PluginNode::run_with_overlay(&[4, 6], |node| {
        let pods = ["one", "two"].map(pod);
        let results: Vec<_> = pods.iter().map(|pod| node.add(pod.name(), pod).success()).collect();
        for (number, family) in node.families.iter().enumerate() {
            let (from, to) = (&pods[0], &addresses(&results[1])[number]);
            // 1430 bytes with headers: the whole MTU fits.
            let bytes = if *family == 4 { "1402" } else { "1382" };
            from.run(["ping", "-c", "1", "-W", "5", "-M", "do", "-s", bytes, to]).unwrap();
            from.run(["ping", "-c", "1", "-W", "5", results[0]["ips"][number]["gateway"].as_str().unwrap()]).unwrap();
            let mut from_host = weft_tests::command::command(["ping", "-c", "1", "-W", "5", to]);
            weft_tests::command::output(&mut from_host).unwrap();
        }
    });
}

#[test]
fn the_same_add_twice_gives_the_same_answer_and_makes_nothing_more() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        let first = node.add("abc", &pod).success();
        let before = (ip(&["link"]), node.leftovers());
        // Neither the agent's word nor its programs are needed for what is known.
        std::fs::remove_file(node.file("node.json")).unwrap();
        assert_eq!(node.add("abc", &pod).success(), first);
        assert_eq!((ip(&["link"]), node.leftovers()), before);
        node.check("abc", &pod, &first).success();
    });
}

#[test]
fn several_interfaces_of_one_pod_have_their_own_addresses() {
    PluginNode::run(&[4, 6], |node| {
        let pod = pod("pod");
        let first = node.add("abc", &pod).success();
        let configuration = node.configuration("1.0.0", &[("name", json!("other"))]);
        let second = node.add_as("abc", "net1", &pod, &configuration).success();
        assert_eq!(addresses(&second), expected(&node.families, 3));
        for version in ["-4", "-6"] {
            let routes = ip_in(&pod, &[version, "route", "show", "default"]);
            let devices: Vec<_> = routes.as_array().unwrap().iter().map(|route| route["dev"].clone()).collect();
            // The kernel lists them by metric: the first interface stays the way out.
            assert_eq!(devices, ["eth0", "net1"]);
        }
        let configuration = node.configuration("1.0.0", &[("name", json!("other")), ("prevResult", second)]);
        let netns = pod.path();
        let call =
            |command| node.call(&of_pod(command, "abc", "net1", netns.to_str().unwrap()), &configuration).success();
        call("CHECK");
        call("DEL");
        node.check("abc", &pod, &first).success();
    });
}

#[test]
fn answers_have_the_format_of_the_version_that_was_asked() {
    PluginNode::run(&[4, 6], |node| {
        let dns = json!({"nameservers": ["192.0.2.53"]});
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = pod("pod");
            let configuration = node.configuration(version, &[("dns", dns.clone())]);
            let result = node.add_as("abc", "eth0", &pod, &configuration).success();
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["dns"], dns);
            assert_eq!(result["interfaces"][1]["sandbox"], pod.path().to_str().unwrap());
            let is_old = version.starts_with('0');
            assert_eq!(result["ips"][0].get("version"), is_old.then_some(&json!("4")));
            assert_eq!(result["ips"][1].get("version"), is_old.then_some(&json!("6")));
            assert_eq!(result["interfaces"][1].get("mtu"), (version == "1.1.0").then_some(&json!(1430)));
            if version != "0.3.1" {
                let configuration = node.configuration(version, &[("prevResult", result)]);
                node.call(&of_pod("CHECK", "abc", "eth0", pod.path().to_str().unwrap()), &configuration).success();
            }
            node.call(&of_pod("DEL", "abc", "eth0", ""), &configuration).success();
        }
    });
}

#[test]
fn fifty_adds_at_once_get_fifty_addresses_and_fifty_dels_leave_nothing() {
    PluginNode::run(&[4, 6], |node| {
        let pods: Vec<_> = (0..50).map(|_| pod("pod")).collect();
        let all = |work: &(dyn Fn(&Namespace) -> Value + Sync)| -> Vec<Value> {
            thread::scope(|scope| {
                let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| work(pod))).collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            })
        };
        let results = all(&|pod| node.add(pod.name(), pod).success());
        let distinct: HashSet<_> = results.iter().flat_map(addresses).collect();
        assert_eq!(distinct.len(), 100);
        assert_eq!(map_entries().len(), 100);
        for (pod, result) in pods.iter().zip(&results) {
            node.check(pod.name(), pod, result).success();
        }
        all(&|pod| node.del(pod.name(), pod.path().to_str().unwrap()).success());
        assert_eq!(node.leftovers(), [""; 0]);
    });
}

#[test]
fn a_freed_address_is_used_again_last() {
    PluginNode::run(&[4, 6], |node| {
        node.write_facts(&[("podCIDRs", json!(["10.244.1.0/29", "fd00:10:244:1::/125"]))]);
        let pods: Vec<_> = (0..4).map(|_| pod("pod")).collect();
        for pod in &pods {
            node.add(pod.name(), pod).success();
        }
        for freed in [1, 0] {
            node.del(pods[freed].name(), "").success();
        }
        // Of 10.244.1.2 to .6 the last is fresh; then .3 rests longer than .2.
        let used: Vec<_> = ["x", "y", "z"].map(|id| addresses(&node.add(id, &pod(id)).success())[0].clone()).into();
        assert_eq!(used, ["10.244.1.6", "10.244.1.3", "10.244.1.2"]);
    });
}

#[test]
fn the_loopback_plugin_serves_by_its_name() {
    PluginNode::run(&[4], |node| {
        let program = node.loopback_program();
        let pod = pod("pod");
        pod.run(["ip", "link", "set", "lo", "down"]).unwrap();
        let netns = pod.path();
        let lo = |command| {
            let variables = of_pod(command, "abc", "lo", netns.to_str().unwrap());
            call(
                &program,
                &variables,
                &json!({"cniVersion": "0.4.0", "name": "cni-loopback", "type": "loopback", "prevResult": {}}),
            )
        };
        lo("CHECK").failure(105);
        let result = lo("ADD").success();
        assert_eq!(addresses(&result), ["127.0.0.1", "::1"]);
        assert_eq!(result["interfaces"], json!([{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}]));
        lo("CHECK").success();
        pod.run(["ping", "-c", "1", "-W", "5", "127.0.0.1"]).unwrap();
        lo("DEL").success();
        assert!(!ip_in(&pod, &["link", "show", "lo"])[0]["flags"].as_array().unwrap().contains(&json!("UP")));
        let gone = call(
            &program,
            &of_pod("DEL", "abc", "lo", "/run/netns/gone"),
            &json!({"cniVersion": "0.3.1", "name": "lo"}),
        );
        gone.success();
    });
}
