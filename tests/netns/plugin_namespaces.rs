//! What programs for sockets know of a pod.

use std::net::IpAddr;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use weft_agent::datapath::netns_cookie;
use weft_common::address;
use weft_common::layout::map::POD_NAMESPACES;
use weft_common::services::PodAddresses;
use weft_tests::netns::Namespace;

use crate::plugin_node::{PINS, PluginNode, of_pod, pod};

/// All that is recorded, by the number of the namespace.
fn recorded() -> Vec<(u64, PodAddresses)> {
    let data = MapData::from_pin(Path::new(PINS).join(POD_NAMESPACES)).unwrap();
    let map: HashMap<_, u64, PodAddresses> = Map::LruHashMap(data).try_into().unwrap();
    map.iter().collect::<Result<_, _>>().unwrap()
}

fn cookie(pod: &Namespace) -> u64 {
    pod.enter(netns_cookie::own).unwrap().unwrap()
}

fn add(node: &PluginNode, pod: &Namespace, ifname: &str) -> Vec<IpAddr> {
    let configuration = node.configuration("1.1.0", &[("name", ifname.into())]);
    let result = node.add_as("abc", ifname, pod, &configuration).success();
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

/// The addresses as the map has them.
fn entry(addresses: &[IpAddr]) -> PodAddresses {
    let of = |is_v4: bool| addresses.iter().find(|address| address.is_ipv4() == is_v4);
    let [v4, v6] = [true, false].map(|is_v4| of(is_v4).map_or([0; 16], |address| address::to_bytes(*address)));
    PodAddresses { v4, v6 }
}

#[test]
fn a_pod_is_known_by_its_namespace_with_the_addresses_of_its_first_interface() {
    for families in [&[4][..], &[6], &[4, 6], &[6, 4]] {
        PluginNode::run(families, |node| {
            let pod = pod("known");
            let addresses = add(node, &pod, "eth0");
            let expected = [(cookie(&pod), entry(&addresses))];
            assert_eq!(recorded(), expected);
            add(node, &pod, "net1");
            assert_eq!(recorded(), expected);
            // The same namespace may come again, with other addresses.
            for ifname in ["net1", "eth0"] {
                let configuration = node.configuration("1.1.0", &[("name", ifname.into())]);
                node.call(&of_pod("DEL", "abc", ifname, pod.path().to_str().unwrap()), &configuration).success();
            }
            let again = add(node, &pod, "eth0");
            assert_ne!(again, addresses, "they rest");
            assert_eq!(recorded(), [(cookie(&pod), entry(&again))]);
        });
    }
}

#[test]
fn an_agent_without_the_map_is_enough_for_a_pod() {
    PluginNode::run(&[4, 6], |node| {
        std::fs::remove_file(Path::new(PINS).join(POD_NAMESPACES)).unwrap();
        assert_eq!(add(node, &pod("old"), "eth0").len(), 2);
    });
}

#[test]
fn somebody_elses_map_in_its_place_is_named() {
    PluginNode::run(&[4], |node| {
        let path = Path::new(PINS).join(POD_NAMESPACES);
        std::fs::remove_file(&path).unwrap();
        HashMap::<MapData, u64, PodAddresses>::create(16, 0).unwrap().pin(&path).unwrap();
        let pod = pod("other");
        let answer = node.add_as("abc", "eth0", &pod, &node.configuration("1.1.0", &[]));
        assert_ne!(answer.code, Some(0));
        assert!(answer.output.contains("POD_NAMESPACES") && answer.output.contains("type 9"), "{answer:?}");
        assert!(node.names("addresses").is_empty() && node.names("attachments").is_empty(), "nothing is left");
    });
}
