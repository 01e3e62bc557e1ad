//! The answer to ADD, in the layout of each version.

use std::path::Path;

use serde_json::{Value, json};

use crate::{attachment::Attachment, version::CniVersion};

/// The answer for an attachment, with what plugins before us in the chain said (`previous`) in front of it.
///
/// It follows from the record alone, so a repeated ADD gives the same answer.
pub fn of_attachment(
    attachment: &Attachment,
    version: CniVersion,
    dns: Option<&Value>,
    previous: Option<&Value>,
) -> Value {
    let mut pod_side = json!({
        "name": attachment.ifname,
        "mac": attachment.pod_mac,
        "sandbox": attachment.netns,
    });
    let mut host_side = json!({ "name": attachment.host_device, "mac": attachment.host_mac });
    if version >= CniVersion::V1_1_0 {
        for side in [&mut pod_side, &mut host_side] {
            side["mtu"] = attachment.mtu.into();
        }
    }
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    for (address, gateway) in attachment.addresses_and_gateways() {
        let (length, everywhere) = if address.is_ipv4() { (32, "0.0.0.0/0") } else { (128, "::/0") };
        ips.push(ip(version, &format!("{address}/{length}"), address.is_ipv4(), 1, Some(gateway.to_string())));
        routes.push(json!({ "dst": everywhere, "gw": gateway }));
    }
    assemble(version, vec![host_side, pod_side], ips, routes, dns, previous)
}

/// The answer of the loopback plugin.
pub fn of_loopback(netns: &Path, version: CniVersion, dns: Option<&Value>, previous: Option<&Value>) -> Value {
    let interface = json!({ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns });
    let ips = vec![ip(version, "127.0.0.1/8", true, 0, None), ip(version, "::1/128", false, 0, None)];
    assemble(version, vec![interface], ips, Vec::new(), dns, previous)
}

fn ip(version: CniVersion, address: &str, is_ipv4: bool, interface: usize, gateway: Option<String>) -> Value {
    let mut ip = json!({ "address": address, "interface": interface });
    if let Some(gateway) = gateway {
        ip["gateway"] = gateway.into();
    }
    if version < CniVersion::V1_0_0 {
        ip["version"] = if is_ipv4 { "4" } else { "6" }.into();
    }
    ip
}

fn assemble(
    version: CniVersion,
    interfaces: Vec<Value>,
    mut ips: Vec<Value>,
    routes: Vec<Value>,
    dns: Option<&Value>,
    previous: Option<&Value>,
) -> Value {
    let before = |key: &str| previous.and_then(|previous| previous[key].as_array()).cloned().unwrap_or_default();
    let mut all_interfaces = before("interfaces");
    // Our addresses refer to our interfaces, which now come after those of others.
    for ip in &mut ips {
        if let Some(index) = ip["interface"].as_u64() {
            ip["interface"] = (index + all_interfaces.len() as u64).into();
        }
    }
    all_interfaces.extend(interfaces);
    let join = |key: &str, ours: Vec<Value>| before(key).into_iter().chain(ours).collect::<Vec<_>>();
    let mut result = json!({
        "cniVersion": version.as_str(),
        "interfaces": all_interfaces,
        "ips": join("ips", ips),
        "routes": join("routes", routes),
    });
    let dns = dns.or_else(|| previous.map(|previous| &previous["dns"])).filter(|dns| !dns.is_null());
    if let Some(dns) = dns {
        result["dns"] = dns.clone();
    } else if version < CniVersion::V1_0_0 {
        result["dns"] = json!({});
    }
    result
}

/// What of an attachment is not as a `prevResult` says, in words.
pub fn disagreements(attachment: &Attachment, netns: &Path, previous: &Value) -> Vec<String> {
    let none = Vec::new();
    let list = |key: &str| previous[key].as_array().unwrap_or(&none);
    let is_ours = |interface: &Value| {
        interface["name"].as_str() == Some(&attachment.ifname)
            && interface["sandbox"].as_str().is_none_or(|sandbox| Path::new(sandbox) == netns)
            && interface["sandbox"].is_string()
    };
    let Some(index) = list("interfaces").iter().position(is_ours) else {
        return vec![format!("prevResult has no interface {} in the netns {}", attachment.ifname, netns.display())];
    };
    let mut wrong = Vec::new();
    let mac = list("interfaces")[index]["mac"].as_str().unwrap_or_default();
    if mac.parse() != Ok(attachment.pod_mac) {
        wrong.push(format!("prevResult has the MAC address {mac:?}, the record has {}", attachment.pod_mac));
    }
    let address = |ip: &Value| -> Option<std::net::IpAddr> { ip["address"].as_str()?.split('/').next()?.parse().ok() };
    let listed: Vec<_> =
        list("ips").iter().filter(|ip| ip["interface"].as_u64() == Some(index as u64)).filter_map(address).collect();
    for address in &attachment.addresses {
        if !listed.contains(address) {
            wrong.push(format!("prevResult has no address {address} on {}, the record has", attachment.ifname));
        }
    }
    for address in listed.iter().filter(|address| !attachment.addresses.contains(address)) {
        wrong.push(format!("prevResult has the address {address} on {}, the record has not", attachment.ifname));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use rscni_types::types::{CNIResult, NetConf};

    fn attachment() -> Attachment {
        Attachment {
            container_id: "abc".into(),
            ifname: "eth0".into(),
            network: "weft".into(),
            netns: "/run/netns/pod".into(),
            host_device: "weft0123456789a".into(),
            host_ifindex: 7,
            pod_mac: "02:00:00:00:00:01".parse().unwrap(),
            host_mac: "02:00:00:00:00:02".parse().unwrap(),
            addresses: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            gateways: vec!["10.244.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            mtu: 1450,
            table: None,
            pod_namespace: None,
            pod_name: None,
            pod_uid: None,
        }
    }

    fn answer(version: CniVersion) -> Value {
        of_attachment(&attachment(), version, None, None)
    }

    #[test]
    fn version_1_1_0_as_a_whole() {
        assert_eq!(
            answer(CniVersion::V1_1_0),
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "weft0123456789a", "mac": "02:00:00:00:00:02", "mtu": 1450},
                    {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/pod"},
                ],
                "ips": [
                    {"address": "10.244.1.2/32", "gateway": "10.244.1.1", "interface": 1},
                    {"address": "fd00::2/128", "gateway": "fd00::1", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}, {"dst": "::/0", "gw": "fd00::1"}],
            })
        );
    }

    #[test]
    fn version_0_4_0_as_a_whole() {
        assert_eq!(
            answer(CniVersion::V0_4_0),
            json!({
                "cniVersion": "0.4.0",
                "interfaces": [
                    {"name": "weft0123456789a", "mac": "02:00:00:00:00:02"},
                    {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/pod"},
                ],
                "ips": [
                    {"version": "4", "address": "10.244.1.2/32", "gateway": "10.244.1.1", "interface": 1},
                    {"version": "6", "address": "fd00::2/128", "gateway": "fd00::1", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}, {"dst": "::/0", "gw": "fd00::1"}],
                "dns": {},
            })
        );
    }

    #[test]
    fn versions_differ_only_in_what_the_specification_says() {
        let without = |version: CniVersion| {
            let mut answer = answer(version);
            answer["cniVersion"] = Value::Null;
            answer
        };
        assert_eq!(without(CniVersion::V0_3_1), without(CniVersion::V0_4_0));
        let mut newest = without(CniVersion::V1_1_0);
        for interface in newest["interfaces"].as_array_mut().unwrap() {
            interface.as_object_mut().unwrap().remove("mtu");
        }
        assert_eq!(newest, without(CniVersion::V1_0_0));
    }

    #[test]
    fn the_oracle_reads_the_same_from_every_version() {
        for version in CniVersion::ALL {
            for (answer, interfaces) in
                [(answer(version), 2), (of_loopback(Path::new("/run/netns/pod"), version, None, None), 1)]
            {
                // As a runtime hands it to the next plugin.
                let conf = json!({"cniVersion": version.as_str(), "name": "weft", "type": "x", "prevResult": answer});
                let conf: NetConf = serde_json::from_value(conf).unwrap();
                let result: CNIResult = conf.prev_result.unwrap();
                assert_eq!((result.interfaces.len(), result.ips.len()), (interfaces, 2));
                for ip in &result.ips {
                    let interface = &result.interfaces[ip.interface.unwrap() as usize];
                    assert_eq!(interface.sandbox.as_deref(), Some("/run/netns/pod"));
                }
            }
        }
    }

    #[test]
    fn dns_is_passed_on() {
        let dns = json!({"nameservers": ["192.0.2.53"], "search": ["example.org"]});
        for version in CniVersion::ALL {
            assert_eq!(of_attachment(&attachment(), version, Some(&dns), None)["dns"], dns);
        }
        assert_eq!(answer(CniVersion::V1_0_0).get("dns"), None);
    }

    #[test]
    fn what_plugins_before_us_said_comes_first() {
        let previous = json!({
            "cniVersion": "1.0.0", "dns": {"domain": "example.org"},
            "interfaces": [{"name": "net1", "sandbox": "/run/netns/pod"}],
            "ips": [{"address": "192.0.2.7/24", "interface": 0}],
            "routes": [{"dst": "198.51.100.0/24"}],
        });
        let result = of_attachment(&attachment(), CniVersion::V1_0_0, None, Some(&previous));
        assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["routes"].as_array().unwrap().len(), 3);
        assert_eq!(result["dns"], previous["dns"]);
    }

    #[test]
    fn our_own_answer_agrees_with_the_record() {
        for version in CniVersion::ALL {
            assert_eq!(disagreements(&attachment(), Path::new("/run/netns/pod"), &answer(version)), [""; 0]);
        }
    }

    #[test]
    fn every_disagreement_is_named() {
        let netns = Path::new("/run/netns/pod");
        let mut changed = answer(CniVersion::V1_0_0);
        changed["ips"][0]["address"] = json!("10.244.1.9/32");
        changed["interfaces"][1]["mac"] = json!("02:00:00:00:00:09");
        let wrong = disagreements(&attachment(), netns, &changed);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        for part in ["02:00:00:00:00:09", "10.244.1.2", "10.244.1.9"] {
            assert!(wrong.iter().any(|text| text.contains(part)), "{part} in {wrong:?}");
        }
        assert_eq!(disagreements(&attachment(), Path::new("/run/netns/other"), &answer(CniVersion::V1_0_0)).len(), 1);
        for other in [json!({}), json!([]), json!("text"), Value::Null] {
            assert_eq!(disagreements(&attachment(), netns, &other).len(), 1);
        }
    }
}
