//! `weft services` as a table, and what is no answer to the question for one.

use anyhow::{Result, bail};
use weft_agent::report::{Address, FrontendReport, ServicePortReport, ServiceReport, ServicesReport, Source};
use weft_agent::services::plan::Outcome;

use crate::table::{list, problems, table};

/// The agent's path for one Service. A name may be anything that somebody typed.
pub(crate) fn path(name: &str) -> String {
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._/:".contains(byte);
    let encoded = |byte: u8| if keep(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    format!("/services/{}", name.bytes().map(encoded).collect::<String>())
}

/// Why the report is no answer to the question for `name`, where that is so: none or several Services have it. Where nobody can say,
/// that is an error.
pub(crate) fn wrong(report: &ServicesReport, name: &str) -> Result<Option<String>> {
    let names: Vec<_> = report.services.iter().map(self::name).collect();
    // An address may be of several: other ports, or entries of which nobody can say that they are of one Service.
    let enough = names.len() == 1 || Address::parse(name).is_some();
    Ok(match (names.as_slice(), report.problems.first()) {
        ([], Some(problem)) if report.source == Source::Agent => bail!("{problem}"),
        ([], _) => Some(format!(
            "no Service that weft serves has the name or address {name}. `weft services` shows all; headless Services, those of type \
             ExternalName and those of another proxy (label service.kubernetes.io/service-proxy-name) are not among them"
        )),
        _ if enough => None,
        (several, _) => Some(format!("several Services have the name {name}: {}; ask for one", several.join(", "))),
    })
}

/// All, a line a frontend.
pub(crate) fn text(report: &ServicesReport) -> String {
    let rows: Vec<_> = report.services.iter().flat_map(rows).collect();
    let lines = if rows.is_empty() {
        "no Service\n".to_owned()
    } else {
        table(["", "SERVICE", "PORT", "TYPE", "ADDRESS", "CLUSTER", "LOCAL", "STATE"], rows)
    };
    let differing: Vec<_> = report.services.iter().filter(|service| differs(service)).collect();
    let differences: String =
        differing.iter().map(|service| format!("  {}:\n{}", name(service), differences(service))).collect();
    let heading = if differing.is_empty() { "" } else { "\nNot in the maps as it should be (marked !):\n" };
    format!("{lines}{heading}{differences}{}", problems("\nProblems:", &all_problems(report)))
}

/// Those of the report and of each Service.
pub(crate) fn all_problems(report: &ServicesReport) -> Vec<weft_agent::model::problem::Problem> {
    report.problems.iter().chain(report.services.iter().flat_map(|service| &service.problems)).cloned().collect()
}

/// `namespace/name`; without an agent what the maps know it by.
pub(crate) fn name(service: &ServiceReport) -> String {
    match (&service.namespace, &service.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => list(&service.ports.iter().map(|port| port.id.as_str()).collect::<Vec<_>>()),
    }
}

fn differs(service: &ServiceReport) -> bool {
    service.ports.iter().any(|port| !port.differences.is_empty())
}

fn differences(service: &ServiceReport) -> String {
    let lines = service
        .ports
        .iter()
        .flat_map(|port| port.differences.iter().map(|line| format!("    {}: {line}\n", label(port))));
    lines.collect()
}

fn rows(service: &ServiceReport) -> Vec<[String; 8]> {
    let row = |port: &ServicePortReport, kind: String, address: String, state: String| {
        let mark = if port.differences.is_empty() { "" } else { "!" };
        let port_name = port.name.clone().unwrap_or_else(|| "-".to_owned());
        let sets = [port.cluster.len().to_string(), port.local.len().to_string()];
        let [cluster, local] = sets;
        [mark.to_owned(), name(service), port_name, kind, address, cluster, local, state]
    };
    let of_port = |port: &ServicePortReport| match port.frontends.as_slice() {
        [] => vec![row(port, "-".to_owned(), "-".to_owned(), "no address".to_owned())],
        frontends => {
            let of_frontend =
                |frontend: &FrontendReport| row(port, kind(frontend), address(port, frontend), state(frontend));
            frontends.iter().map(of_frontend).collect()
        }
    };
    service.ports.iter().flat_map(of_port).collect()
}

pub(crate) fn kind(frontend: &FrontendReport) -> String {
    frontend.kind.map_or_else(|| "external".to_owned(), |kind| kind.to_string())
}

pub(crate) fn address(port: &ServicePortReport, frontend: &FrontendReport) -> String {
    match port.protocol {
        Some(protocol) => format!("{}/{protocol}", frontend.address),
        None => frontend.address.to_string(),
    }
}

/// What happens to a client, in the words of a table.
pub(crate) fn state(frontend: &FrontendReport) -> String {
    if let Some(other) = &frontend.taken_by {
        return format!("not here: the address is of {other}");
    }
    let mut state = outcome(frontend.here).to_owned();
    if let Some(elsewhere) = frontend.elsewhere.filter(|elsewhere| *elsewhere != frontend.here) {
        state += &format!("; for clients from elsewhere {}", outcome(elsewhere));
    }
    if let Some(ranges) = &frontend.source_ranges {
        state += &format!("; clients in {} only", if ranges.is_empty() { "no range".to_owned() } else { list(ranges) });
    }
    state
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Cluster => "served",
        Outcome::Local => "served by this node's endpoints",
        Outcome::Refused => "refused (no endpoint)",
        Outcome::Dropped => "dropped (no local endpoint)",
    }
}

/// A port in the words of a heading.
pub(crate) fn label(port: &ServicePortReport) -> String {
    let number = port.port.map(|port| port.to_string());
    let protocol = port.protocol.map(|protocol| protocol.to_string());
    let numbers: Vec<_> = number.into_iter().chain(protocol).collect();
    let family = port.family.map(|family| format!(" {family}")).unwrap_or_default();
    match &port.name {
        Some(name) => format!("{name} {}{family}", numbers.join("/")),
        None => format!("{}{family}", numbers.join("/")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::service_details::details;
    use weft_agent::model::problem::Problem;
    use weft_agent::model::services::Protocol;
    use weft_agent::report::Policy;
    use weft_agent::services::plan::{EndpointPlan, Family, FrontendKind, Standing, Topology};

    pub(crate) fn frontend(kind: FrontendKind, address: &str, here: Outcome) -> FrontendReport {
        let address = address.parse().unwrap();
        FrontendReport { kind: Some(kind), address, here, elsewhere: None, source_ranges: None, taken_by: None }
    }

    pub(crate) fn service(name: &str, frontends: Vec<FrontendReport>) -> ServiceReport {
        let endpoint = EndpointPlan {
            backend: "10.244.2.2:8080".parse().unwrap(),
            slice: "web-abc".to_owned(),
            node: Some("two".to_owned()),
            target: None,
            cluster: Standing::Ready,
            local: Standing::OtherNode,
        };
        let port = ServicePortReport {
            id: "0807060504030201".to_owned(),
            name: Some("http".to_owned()),
            port: Some(80),
            protocol: Some(Protocol::Tcp),
            family: Some(Family::V4),
            internal_traffic_policy: Policy::Cluster,
            external_traffic_policy: Policy::Local,
            affinity_seconds: None,
            topology: Some(Topology::SameZone),
            frontends,
            cluster: vec!["10.244.2.2:8080".parse().unwrap()],
            local: Vec::new(),
            endpoints: vec![endpoint],
            differences: Vec::new(),
        };
        let (namespace, name) = (Some("default".to_owned()), Some(name.to_owned()));
        ServiceReport { namespace, name, ports: vec![port], problems: Vec::new() }
    }

    pub(crate) fn report(services: Vec<ServiceReport>) -> ServicesReport {
        ServicesReport { source: Source::Agent, problems: Vec::new(), services }
    }

    pub(crate) fn words(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn every_frontend_has_a_line_that_says_what_happens_to_clients() {
        let cluster_ip = |outcome| frontend(FrontendKind::ClusterIp, "10.96.0.7:80", outcome);
        let external = FrontendReport {
            elsewhere: Some(Outcome::Dropped),
            source_ranges: Some(vec!["198.51.100.0/24".parse().unwrap()]),
            ..frontend(FrontendKind::LoadBalancer, "[2001:db8::7]:80", Outcome::Cluster)
        };
        let taken = FrontendReport {
            taken_by: Some("other/first".to_owned()),
            ..frontend(FrontendKind::ExternalIp, "203.0.113.9:80", Outcome::Cluster)
        };
        let frontends = vec![
            cluster_ip(Outcome::Cluster),
            external,
            taken,
            cluster_ip(Outcome::Refused),
            cluster_ip(Outcome::Dropped),
        ];
        let lines = words(&text(&report(vec![service("web", frontends)])));
        assert_eq!(
            lines,
            [
                "SERVICE PORT TYPE ADDRESS CLUSTER LOCAL STATE",
                "default/web http ClusterIP 10.96.0.7:80/TCP 1 0 served",
                "default/web http LoadBalancer [2001:db8::7]:80/TCP 1 0 served; for clients from elsewhere dropped (no local endpoint); \
                 clients in 198.51.100.0/24 only",
                "default/web http externalIP 203.0.113.9:80/TCP 1 0 not here: the address is of other/first",
                "default/web http ClusterIP 10.96.0.7:80/TCP 1 0 refused (no endpoint)",
                "default/web http ClusterIP 10.96.0.7:80/TCP 1 0 dropped (no local endpoint)",
            ]
        );
        assert_eq!(text(&report(Vec::new())), "no Service\n");
    }

    #[test]
    fn what_is_not_in_the_maps_is_marked_and_said_below() {
        let mut differing = service("web", vec![frontend(FrontendKind::ClusterIp, "10.96.0.7:80", Outcome::Cluster)]);
        differing.ports[0].differences = vec!["FRONTENDS lacks 10.96.0.7:80".to_owned()];
        differing.problems = vec![Problem::new("Service default/web", "odd", "look")];
        let report = report(vec![differing, service("well", vec![])]);
        let text = text(&report);
        let marks: Vec<bool> = text.lines().skip(1).take(2).map(|line| line.starts_with('!')).collect();
        assert_eq!(marks, [true, false], "{text}");
        assert!(
            text.contains("(marked !):\n  default/web:\n    http 80/TCP IPv4: FRONTENDS lacks 10.96.0.7:80\n"),
            "{text}"
        );
        assert!(text.ends_with("\nProblems:\n  Service default/web: odd\n    -> look\n"), "{text}");
        let details = details(&report);
        assert!(details.contains("    FRONTENDS lacks 10.96.0.7:80\n"), "{details}");
    }

    #[test]
    fn no_name_and_a_name_of_several_are_no_answer() {
        let (web, mut other) = (service("web", vec![]), service("web", vec![]));
        other.namespace = Some("other".to_owned());
        let wrong = |services, name| wrong(&report(services), name).unwrap();
        assert_eq!(wrong(vec![web.clone()], "web"), None);
        let unknown = wrong(vec![], "web").unwrap();
        assert!(unknown.starts_with("no Service that weft serves has the name or address web."), "{unknown}");
        let several = wrong(vec![web.clone(), other.clone()], "web").unwrap();
        assert_eq!(several, "several Services have the name web: default/web, other/web; ask for one");
        assert_eq!(wrong(vec![web, other], "203.0.113.7"), None, "they share an address");
    }

    #[test]
    fn where_nobody_can_say_that_is_an_error_unless_the_maps_were_asked() {
        let problems = vec![Problem::new("API server", "Services have not been listed", "wait")];
        let mut report = ServicesReport { problems, ..report(Vec::new()) };
        assert_eq!(wrong(&report, "web").unwrap_err().to_string(), "API server: Services have not been listed; wait");
        report.source = Source::Offline;
        assert!(wrong(&report, "10.96.0.7").unwrap().unwrap().starts_with("no Service"));
    }

    #[test]
    fn a_name_goes_into_the_agents_path_whatever_it_is() {
        assert_eq!(path("kube-system/kube-dns"), "/services/kube-system/kube-dns");
        assert_eq!(path("[fd00::a]:53"), "/services/%5Bfd00::a%5D:53");
        assert_eq!(path("a b?c%"), "/services/a%20b%3Fc%25");
    }
}
