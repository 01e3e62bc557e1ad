//! `weft pods` as a table: a line an attachment.

use weft_agent::report::{PodReport, PodsReport};

use crate::table::{list, problems, table};

/// Characters of a container id that `crictl` prints too.
const SHORT_ID: usize = 13;
/// The name of nearly every pod's interface, which is left out.
const USUAL_IFNAME: &str = "eth0";

pub(crate) fn text(report: &PodsReport, wide: bool) -> String {
    let pods = &report.pods;
    let lines = if wide {
        let header = [
            "POD",
            "ADDRESSES",
            "DEVICE",
            "INDEX",
            "CONTAINER",
            "MTU",
            "MAC",
            "NETNS",
            "RX-PACKETS",
            "RX-BYTES",
            "TX-PACKETS",
            "TX-BYTES",
            "DROPPED-WEFT",
            "DROPPED-DEVICE",
            "STATE",
        ];
        table(header, pods.iter().map(wide_row))
    } else {
        let header = [
            "POD",
            "ADDRESSES",
            "DEVICE",
            "CONTAINER",
            "MTU",
            "RX-PACKETS",
            "RX-BYTES",
            "TX-PACKETS",
            "TX-BYTES",
            "DROPPED",
            "STATE",
        ];
        table(header, pods.iter().map(row))
    };
    let lines = if pods.is_empty() { "no pod of this node has an interface of weft\n".to_owned() } else { lines };
    format!("{lines}{}{}", damage(pods), problems("\nProblems:", &report.problems))
}

fn row(pod: &PodReport) -> [String; 11] {
    let [rx_packets, rx_bytes, tx_packets, tx_bytes, programs, device] = counters(pod);
    let dropped = programs.zip(device).map(|(programs, device)| programs + device);
    [
        name(pod),
        list(&pod.addresses),
        pod.host_device.clone(),
        pod.container_id.chars().take(SHORT_ID).collect(),
        known(pod.mtu_bytes),
        known(rx_packets),
        known(rx_bytes),
        known(tx_packets),
        known(tx_bytes),
        known(dropped),
        state(pod),
    ]
}

fn wide_row(pod: &PodReport) -> [String; 15] {
    let [rx_packets, rx_bytes, tx_packets, tx_bytes, programs, device] = counters(pod);
    [
        name(pod),
        list(&pod.addresses),
        pod.host_device.clone(),
        known(pod.host_ifindex),
        pod.container_id.clone(),
        known(pod.mtu_bytes),
        known(pod.pod_mac),
        known(pod.netns.as_ref().map(|netns| netns.display())),
        known(rx_packets),
        known(rx_bytes),
        known(tx_packets),
        known(tx_bytes),
        known(programs),
        known(device),
        state(pod),
    ]
}

/// In the order of the columns; none where they cannot be read.
fn counters(pod: &PodReport) -> [Option<u64>; 6] {
    let of = |counter: fn(&weft_agent::report::PodCounters) -> u64| pod.counters.as_ref().map(counter);
    [
        of(|counters| counters.rx_packets),
        of(|counters| counters.rx_bytes),
        of(|counters| counters.tx_packets),
        of(|counters| counters.tx_bytes),
        of(|counters| counters.dropped_by_programs),
        of(|counters| counters.dropped_by_device),
    ]
}

/// `namespace/name`, and the interface where it is not the usual one: `namespace/name@net1`.
fn name(pod: &PodReport) -> String {
    let name = match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        _ => "?".to_owned(),
    };
    if pod.ifname == USUAL_IFNAME { name } else { format!("{name}@{}", pod.ifname) }
}

fn known<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn state(pod: &PodReport) -> String {
    if pod.healthy {
        return "ok".to_owned();
    }
    let mut kinds: Vec<_> = pod.damage.iter().map(|damage| damage.kind).collect();
    kinds.dedup();
    list(&kinds)
}

/// What is wrong in sentences, by pod.
fn damage(pods: &[PodReport]) -> String {
    let damaged = pods.iter().filter(|pod| !pod.damage.is_empty());
    let text: String = damaged
        .map(|pod| {
            let lines = pod.damage.iter().map(|damage| format!("    {}\n    -> {}\n", damage.reason, damage.next_step));
            let id: String = pod.container_id.chars().take(SHORT_ID).collect();
            format!("  {} (container {id}):\n{}", name(pod), lines.collect::<String>())
        })
        .collect();
    if text.is_empty() { text } else { format!("\nNot in order:\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent::model::problem::Problem;
    use weft_agent::report::{Damage, DamageKind, PodCounters, Source};

    fn pod(name: &str) -> PodReport {
        PodReport {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            uid: None,
            container_id: "0123456789abcdef0123456789abcdef".to_owned(),
            ifname: "eth0".to_owned(),
            network: Some("weft".to_owned()),
            netns: Some("/run/netns/pod".into()),
            addresses: vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            host_device: "weft0123456789a".to_owned(),
            host_ifindex: Some(7),
            pod_mac: Some("02:00:00:00:00:01".parse().unwrap()),
            host_mac: None,
            mtu_bytes: Some(1450),
            counters: Some(PodCounters {
                rx_packets: 1,
                rx_bytes: 22,
                tx_packets: 333,
                tx_bytes: 4444,
                dropped_by_programs: 5,
                dropped_by_device: 6,
            }),
            healthy: true,
            damage: Vec::new(),
        }
    }

    fn report(pods: Vec<PodReport>) -> PodsReport {
        PodsReport { source: Source::Agent, problems: Vec::new(), pods }
    }

    #[test]
    fn a_line_has_what_an_operator_looks_for() {
        let text = text(&report(vec![pod("web"), PodReport { ifname: "net1".to_owned(), ..pod("db") }]), false);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            [
                "default/web",
                "10.244.1.2,fd00::2",
                "weft0123456789a",
                "0123456789abc",
                "1450",
                "1",
                "22",
                "333",
                "4444",
                "11",
                "ok"
            ]
        );
        assert_eq!(lines[2][0], "default/db@net1");
        assert_eq!(lines.len(), 3, "{text}");
    }

    #[test]
    fn the_wide_table_leaves_nothing_out() {
        let text = text(&report(vec![pod("web")]), true);
        for word in ["0123456789abcdef0123456789abcdef", "02:00:00:00:00:01", "/run/netns/pod", " 7 ", " 5 ", " 6 "] {
            assert!(text.contains(word), "{word} is missing in\n{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_a_word_in_the_line_and_a_sentence_with_the_next_step_below() {
        let damage = |kind, reason: &str| Damage { kind, reason: reason.to_owned(), next_step: "do this".to_owned() };
        let damaged = PodReport {
            healthy: false,
            counters: None,
            damage: vec![
                damage(DamageKind::DeviceMissing, "no device"),
                damage(DamageKind::EntryMissing, "no entry for one"),
                damage(DamageKind::EntryMissing, "no entry for two"),
            ],
            ..pod("web")
        };
        let mut report = report(vec![damaged]);
        report.problems.push(Problem::new("map ENDPOINTS", "odd", "look"));
        let text = text(&report, false);
        let line = text.lines().nth(1).unwrap();
        assert!(line.ends_with("device missing,map entry missing"), "{line}");
        assert!(
            text.contains("\nNot in order:\n  default/web (container 0123456789abc):\n    no device\n    -> do this\n"),
            "{text}"
        );
        assert!(text.ends_with("\nProblems:\n  map ENDPOINTS: odd\n    -> look\n"), "{text}");
    }

    #[test]
    fn a_node_without_pods_says_so() {
        assert_eq!(text(&report(Vec::new()), false), "no pod of this node has an interface of weft\n");
    }
}
