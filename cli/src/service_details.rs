//! `weft services NAME`: all that is known of a Service.

use std::fmt::Write;

use weft_agent::report::{Policy, ServicePortReport, ServiceReport, ServicesReport};
use weft_agent::services::plan::{EndpointPlan, Outcome, Standing, Topology};

use crate::services::{address, all_problems, kind, label, name, state};
use crate::table::{list, problems, table};

/// Each with all that is known of it.
pub(crate) fn details(report: &ServicesReport) -> String {
    let services: Vec<_> = report.services.iter().map(detail).collect();
    format!("{}{}", services.join("\n"), problems("\nProblems:", &all_problems(report)))
}

fn detail(service: &ServiceReport) -> String {
    let ports: Vec<_> = service.ports.iter().map(|port| detail_of_port(service, port)).collect();
    format!("Service {}\n\n{}", name(service), ports.join("\n"))
}

fn detail_of_port(service: &ServiceReport, port: &ServicePortReport) -> String {
    let mut text = format!("Port {}\n", label(port));
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    line("Key", port.id.clone());
    let policies = [("internal", port.internal_traffic_policy), ("external", port.external_traffic_policy)];
    let policies = policies
        .map(|(which, policy)| format!("{which} {}", if policy == Policy::Local { "Local" } else { "Cluster" }));
    line("Policies", policies.join(", "));
    line(
        "Affinity",
        port.affinity_seconds.map_or_else(|| "off".to_owned(), |seconds| format!("by client, for {seconds} s")),
    );
    if let Some(topology) = port.topology {
        line("Topology", words(topology).to_owned());
    }
    line("Cluster set", list(&port.cluster));
    line("Local set", list(&port.local));
    let rows = port.frontends.iter().map(|frontend| [kind(frontend), address(port, frontend), state(frontend)]);
    text += &indented(&table(["FRONTEND", "ADDRESS", "STATE"], rows));
    if !port.endpoints.is_empty() {
        let rows = port.endpoints.iter().map(row_of_endpoint);
        text += &indented(&table(["BACKEND", "NODE", "TARGET", "SLICE", "CLUSTER SET", "LOCAL SET"], rows));
    }
    if let Some(why) = why(service, port) {
        text += &format!("\n  {why}\n");
    }
    if !port.differences.is_empty() {
        let lines = port.differences.iter().map(|line| format!("    {line}\n"));
        text += &format!(
            "\n  Not in the maps as it should be (the agent writes it again; its log says what keeps it):\n{}",
            lines.collect::<String>()
        );
    }
    text
}

fn row_of_endpoint(endpoint: &EndpointPlan) -> [String; 6] {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let standing = |standing: Standing| format!("{}: {standing}", if standing.is_in() { "in" } else { "out" });
    let EndpointPlan { backend, slice, node, target, cluster, local } = endpoint;
    [backend.to_string(), known(node), known(target), slice.clone(), standing(*cluster), standing(*local)]
}

const fn words(topology: Topology) -> &'static str {
    match topology {
        Topology::Anywhere => "endpoints anywhere",
        Topology::SameNode => "endpoints whose hints name this node",
        Topology::SameZone => "endpoints whose hints name this node's zone",
    }
}

/// Why clients are refused or dropped, and who must act.
fn why(service: &ServiceReport, port: &ServicePortReport) -> Option<String> {
    let frontends = || port.frontends.iter().filter(|frontend| frontend.taken_by.is_none());
    let any = |outcome| frontends().any(|frontend| frontend.here == outcome || frontend.elsewhere == Some(outcome));
    if any(Outcome::Refused) {
        let none = "Clients are refused: no endpoint is ready, and none that is terminating still serves.";
        let Some(namespace) = &service.namespace else { return Some(none.to_owned()) };
        let service = service.name.as_deref().unwrap_or_default();
        return Some(format!(
            "{none}\n    -> `kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={service}` shows whether there are \
             any; the Service's selector, or the readiness of its pods, says why not"
        ));
    }
    let dropped = "Packets are dropped: the traffic policy is Local, and no endpoint is on this node.\n    -> run one on each node with \
                   clients, or set the policy to Cluster";
    any(Outcome::Dropped).then(|| dropped.to_owned())
}

fn indented(table: &str) -> String {
    let lines: String = table.lines().map(|line| format!("  {line}\n")).collect();
    format!("\n{lines}")
}

#[cfg(test)]
mod tests {
    use weft_agent::services::plan::FrontendKind;

    use super::*;
    use crate::services::tests::{frontend, report, service, words};

    #[test]
    fn the_details_say_of_every_endpoint_why_it_is_in_or_out() {
        let lines = words(&details(&report(vec![service(
            "web",
            vec![frontend(FrontendKind::ClusterIp, "10.96.0.7:80", Outcome::Cluster)],
        )])));
        for line in [
            "Service default/web",
            "Port http 80/TCP IPv4",
            "Key 0807060504030201",
            "Policies internal Cluster, external Local",
            "Affinity off",
            "Topology endpoints whose hints name this node's zone",
            "Cluster set 10.244.2.2:8080",
            "Local set -",
            "ClusterIP 10.96.0.7:80/TCP served",
            "10.244.2.2:8080 two - web-abc in: ready out: on another node",
        ] {
            assert!(lines.iter().any(|told| told == line), "{line} is missing in\n{}", lines.join("\n"));
        }
    }

    #[test]
    fn the_details_say_why_clients_are_refused_or_dropped_and_who_must_act() {
        let of = |outcome| {
            details(&report(vec![service("web", vec![frontend(FrontendKind::ClusterIp, "10.96.0.7:80", outcome)])]))
        };
        assert!(of(Outcome::Refused).contains("kubernetes.io/service-name=web` shows"), "{}", of(Outcome::Refused));
        assert!(of(Outcome::Dropped).contains("-> run one on each node"), "{}", of(Outcome::Dropped));
        assert!(!of(Outcome::Cluster).contains("->"), "{}", of(Outcome::Cluster));
    }
}
