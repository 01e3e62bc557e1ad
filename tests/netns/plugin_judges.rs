//! Everything that the plugin reads and writes, by another implementation of the specification: configurations come from
//! rscni's types as a runtime would write them, and answers and errors are read into them.

use rscni_types::error::Error;
use rscni_types::types::{CNIResult, Cmd, Dns, ErrorResult, GcAttachment, NetConf};
use rscni_types::version::PluginInfo;
use serde_json::{Value, json};

use crate::plugin_node::{Answer, PINS, PluginNode, of_pod, pod};

/// The versions of the specification, with some that we do not speak.
const VERSIONS: [&str; 7] = ["0.1.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0"];
const VERBS: [&str; 5] = ["ADD", "CHECK", "DEL", "STATUS", "GC"];

/// A configuration with everything that the specification knows.
fn configuration(node: &PluginNode, version: &str) -> NetConf {
    NetConf {
        cni_version: version.to_owned(),
        name: "weft".to_owned(),
        r#type: "weft-cni".to_owned(),
        runtime_config: serde_json::from_value(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]})).ok(),
        capabilities: Some([("portMappings".to_owned(), true)].into()),
        ip_masq: Some(true),
        ipam: serde_json::from_value(json!({"type": "host-local"})).ok(),
        dns: Some(Dns { nameservers: vec!["192.0.2.53".to_owned()], ..Dns::default() }),
        args: Some([("cni".to_owned(), json!({"labels": []}))].into()),
        custom: [("stateDirectory".to_owned(), json!(node.file(""))), ("pinDirectory".to_owned(), json!(PINS))].into(),
        ..NetConf::default()
    }
}

fn call(node: &PluginNode, verb: &str, netns: &str, configuration: &NetConf) -> Answer {
    node.call(&of_pod(verb, "abc", "eth0", netns), &serde_json::to_value(configuration).unwrap())
}

/// The error as the other implementation understands it.
fn error(answer: &Answer) -> Error {
    assert_eq!((answer.code, answer.errors.as_str()), (Some(1), ""));
    let error: ErrorResult = serde_json::from_str(&answer.output).unwrap();
    error.into()
}

#[test]
fn a_whole_life_is_understood_in_every_version() {
    PluginNode::run(&[4, 6], |node| {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = pod("pod");
            let netns = pod.path();
            let netns = netns.to_str().unwrap();
            let mut conf = configuration(node, version);
            let added = call(node, "ADD", netns, &conf).success();
            let result: CNIResult = serde_json::from_value(added.clone()).unwrap();
            assert_eq!(result.dns, conf.dns);
            assert_eq!(result.routes.len(), 2);
            assert_eq!(result.ips.iter().map(|ip| ip.address.prefix_len()).collect::<Vec<_>>(), [32, 128]);
            for ip in &result.ips {
                let interface = &result.interfaces[usize::try_from(ip.interface.unwrap()).unwrap()];
                assert_eq!((interface.name.as_str(), interface.sandbox.as_deref()), ("eth0", Some(netns)));
                assert_eq!(interface.mtu, (version == "1.1.0").then_some(1430));
            }
            // What the other implementation made of our answer comes back to us, in the way it writes it.
            conf.prev_result = Some(result);
            if version != "0.3.1" {
                call(node, "CHECK", netns, &conf).success();
            }
            if version == "1.1.0" {
                call(node, "STATUS", "", &conf).success();
                let kept = GcAttachment { container_id: "abc".to_owned(), ifname: "eth0".to_owned() };
                conf.valid_attachments = Some(vec![kept]);
                call(node, "GC", "", &conf).success();
                call(node, "CHECK", netns, &conf).success();
                conf.valid_attachments = Some(Vec::new());
                call(node, "GC", "", &conf).success();
                assert_eq!(node.leftovers(), [""; 0]);
            }
            call(node, "DEL", netns, &conf).success();
            assert_eq!(node.leftovers(), [""; 0]);
        }
    });
}

#[test]
fn which_command_each_version_has_is_agreed_on() {
    PluginNode::run(&[4], |node| {
        for version in VERSIONS {
            let asked = node.call(&[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": version})).success();
            assert_eq!(asked["cniVersion"], version);
            let info: PluginInfo = serde_json::from_value(asked).unwrap();
            for verb in VERBS {
                let conf = configuration(node, version);
                // Whatever else is wrong with the call, the version comes first.
                let answer = call(node, verb, "/run/netns/weft-gone", &conf);
                let refused = answer.code == Some(1) && matches!(error(&answer), Error::IncompatibleVersion(_));
                let verdict = info.negotiate(&conf, verb.parse::<Cmd>().unwrap());
                assert_eq!(refused, verdict.is_err(), "{verb} in {version}: {answer:?}, {verdict:?}");
            }
        }
    });
}

#[test]
fn each_error_has_the_meaning_that_others_read_in_it() {
    PluginNode::run(&[4], |node| {
        let pod = pod("pod");
        let netns = pod.path();
        let netns = netns.to_str().unwrap();
        let good = configuration(node, "1.1.0");
        let checked = NetConf { prev_result: Some(CNIResult::default()), ..good.clone() };
        let raw = |variables: &[(&str, &str)], text: Value| error(&node.call(variables, &text));
        assert!(matches!(error(&call(node, "CHECK", netns, &checked)), Error::NotExist(_)));
        assert!(matches!(error(&call(node, "ADD", "", &good)), Error::InvalidEnvValue(_)));
        assert!(matches!(error(&call(node, "UPDATE", netns, &good)), Error::InvalidEnvValue(_)));
        assert!(matches!(raw(&of_pod("ADD", "abc", "eth0", netns), json!([])), Error::FailedToDecode(_)));
        let nameless = NetConf { name: String::new(), ..good.clone() };
        assert!(matches!(error(&call(node, "ADD", netns, &nameless)), Error::InvalidNetworkConfig(_)));
        assert!(matches!(error(&call(node, "CHECK", netns, &good)), Error::InvalidNetworkConfig(_)));
        assert!(matches!(error(&call(node, "ADD", "/run/netns/weft-gone", &good)), Error::InvalidNetNS(_)));
        call(node, "ADD", netns, &good).success();
        // The other implementation's empty result does not know our interface.
        assert!(matches!(error(&call(node, "CHECK", netns, &checked)), Error::Custom(105, _, _)));
        call(node, "DEL", netns, &good).success();
        std::fs::remove_file(node.file("node.json")).unwrap();
        assert!(matches!(error(&call(node, "ADD", netns, &good)), Error::TryAgainLater(_)));
        assert!(matches!(error(&call(node, "STATUS", "", &good)), Error::PluginNotAvailable(_)));
    });
}
