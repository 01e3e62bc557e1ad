//! `weft status` for people.

use std::fmt::Write;

use weft_agent::report::{ApiServerStatus, Source, Status};

use crate::table::{list, problems, table};

pub(crate) fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("Health", if status.healthy { "healthy".to_owned() } else { "NOT HEALTHY".to_owned() });
    line("Node", status.node.clone());
    line(
        "Answered by",
        match status.source {
            Source::Agent => format!("agent {}", status.version),
            Source::Offline => {
                format!("weft {}, from the pinned maps and the kernel: the agent does not answer", status.version)
            }
        },
    );
    line("API server", status.api_server.as_ref().map_or_else(|| "not asked".to_owned(), api_server));
    line("Last sync", status.sync_age_seconds.map_or_else(|| "unknown".to_owned(), ago));
    line("Addresses", list(&status.internal_ips));
    line("podCIDRs", list(&status.pod_cidrs));
    line(
        "Underlay",
        status.underlay.as_ref().map_or_else(
            || "unknown".to_owned(),
            |underlay| format!("{}, MTU {} bytes", underlay.device, underlay.mtu),
        ),
    );
    line("Pods' MTU", status.pod_mtu_bytes.map_or_else(|| "unknown".to_owned(), |mtu| format!("{mtu} bytes")));
    line("Kernel", format!("{}, layout {}", status.kernel.release, status.layout));
    for missing in &status.kernel.missing {
        line("", format!("lacks {missing}"));
    }
    text += &problems("\nNot healthy because:", &status.reasons);
    text += &problems("\nProblems elsewhere:", &status.problems);
    if !status.drops.is_empty() {
        let rows = status.drops.iter().map(|drop| {
            [drop.program.clone(), drop.reason.clone(), drop.packets.to_string(), drop.explanation.clone()]
        });
        text += &format!(
            "\nPackets dropped since the maps were made:\n{}",
            table(["PROGRAM", "REASON", "PACKETS", "MEANING"], rows)
        );
    }
    text
}

fn api_server(server: &ApiServerStatus) -> String {
    let ApiServerStatus { address, source, connected, last_error, sync_age_seconds, .. } = server;
    let heard = sync_age_seconds.map_or_else(|| "never heard".to_owned(), |age| format!("last heard {}", ago(age)));
    let state = if *connected { "connected" } else { "NOT CONNECTED" };
    let error = last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{address} (from {source}), {state}, {heard}{error}")
}

/// An age in the unit that a person would use.
fn ago(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s ago"),
        ..7200.0 => format!("{:.0} min ago", seconds / 60.0),
        _ => format!("{:.0} h ago", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent::model::problem::Problem;
    use weft_agent::report::KernelStatus;

    fn status() -> Status {
        Status {
            source: Source::Agent,
            healthy: true,
            reasons: Vec::new(),
            problems: Vec::new(),
            node: "one".to_owned(),
            version: "0.1.0".to_owned(),
            api_server: None,
            kernel: KernelStatus { release: "6.1.0".to_owned(), missing: Vec::new() },
            layout: 1,
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            internal_ips: Vec::new(),
            underlay: None,
            pod_mtu_bytes: Some(1450),
            sync_age_seconds: Some(7.4),
            drops: Vec::new(),
        }
    }

    #[test]
    fn health_comes_first_and_reasons_say_who_must_act() {
        let healthy = text(&status());
        assert!(healthy.starts_with("Health       healthy\n"), "{healthy}");
        assert!(healthy.contains("7 s ago") && !healthy.contains("because"), "{healthy}");
        let reasons = vec![Problem::of_node(
            "one",
            "it has no podCIDR",
            "start the controller manager with --allocate-node-cidrs",
        )];
        let sick = text(&Status { healthy: false, reasons, ..status() });
        assert!(sick.starts_with("Health       NOT HEALTHY\n"), "{sick}");
        assert!(sick.contains("it has no podCIDR\n    -> start the controller manager"), "{sick}");
    }

    #[test]
    fn ages_have_the_unit_of_their_size() {
        assert_eq!([3.0, 600.0, 36_000.0].map(ago), ["3 s ago", "10 min ago", "10 h ago"]);
    }
}
