//! `weft nodes` as a table.

use weft_agent::report::{NodeReport, NodesReport};

use crate::table::{list, problems, table};

pub(crate) fn text(report: &NodesReport) -> String {
    let rows = report.nodes.iter().map(row);
    let table = table(["NODE", "ADDRESSES", "PODCIDRS", "VIA", "WAY", "STATE"], rows);
    format!("{table}{}", problems("\nProblems:", &report.problems))
}

fn row(node: &NodeReport) -> [String; 6] {
    let name = node.name.clone().unwrap_or_else(|| "?".to_owned());
    [
        if node.this_node { format!("{name} (this node)") } else { name },
        list(&node.internal_ips),
        list(&node.pod_cidrs),
        match node.tunnel {
            _ if node.this_node => "local".to_owned(),
            Some(tunnel) => format!("vxlan {tunnel}"),
            None => "-".to_owned(),
        },
        node.way.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        if node.in_sync { "ok".to_owned() } else { format!("missing: {}", list(&node.missing)) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent::report::{Source, WayReport};

    #[test]
    fn a_node_with_something_missing_says_what() {
        let way = WayReport { past_overlay: true, device: Some("eth0".to_owned()), reason: None, explanation: None };
        let node = NodeReport {
            name: Some("two".to_owned()),
            this_node: false,
            internal_ips: vec![[192, 0, 2, 2].into()],
            pod_cidrs: vec!["10.244.2.0/24".parse().unwrap()],
            tunnel: Some([192, 0, 2, 2].into()),
            way: Some(way),
            in_sync: false,
            missing: vec!["route 10.244.2.0/24".to_owned()],
        };
        let own =
            NodeReport { name: None, this_node: true, way: None, in_sync: true, missing: Vec::new(), ..node.clone() };
        let text = text(&NodesReport { source: Source::Agent, problems: Vec::new(), nodes: vec![own, node] });
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("NODE"), "{text}");
        assert!(lines[1].contains("? (this node)") && lines[1].ends_with("ok"), "{text}");
        assert!(lines[2].contains("vxlan 192.0.2.2") && lines[2].ends_with("missing: route 10.244.2.0/24"), "{text}");
        assert!(lines[2].contains("past weft0 by eth0"), "{text}");
    }
}
