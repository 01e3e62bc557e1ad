//! `weft routes` as a table: a line a destination, and what differs marked.

use weft_agent::overlay::state::RouteKind;
use weft_agent::report::{RouteReport, RouteState, RoutesReport};

use crate::table::{problems, table};

pub(crate) fn text(report: &RoutesReport) -> String {
    let rows = report.routes.iter().map(row);
    let table = table(["", "DESTINATION", "NODE", "SHOULD BE", "KERNEL"], rows);
    let differing = report.routes.iter().filter(|route| route.state != RouteState::Ok).count();
    let summary = match differing {
        0 => format!("{} routes, all as they should be\n", report.routes.len()),
        _ => format!("{} routes, {differing} not as they should be (marked !)\n", report.routes.len()),
    };
    format!("{table}{summary}{}", problems("\nProblems:", &report.problems))
}

fn row(route: &RouteReport) -> [String; 5] {
    let kind = |kind: &Option<RouteKind>| kind.as_ref().map_or_else(|| "-".to_owned(), RouteKind::to_string);
    let (mark, kernel) = match route.state {
        RouteState::Ok => ("", "ok".to_owned()),
        RouteState::Missing => ("!", "missing".to_owned()),
        RouteState::Unexpected | RouteState::Different => ("!", kind(&route.kernel)),
    };
    let node = route.node.clone().unwrap_or_else(|| "-".to_owned());
    [mark.to_owned(), route.destination.to_string(), node, kind(&route.desired), kernel]
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent::report::Source;

    fn route(destination: &str, state: RouteState) -> RouteReport {
        let kind = RouteKind::Unreachable;
        let desired = (state != RouteState::Unexpected).then(|| kind.clone());
        let kernel = (state != RouteState::Missing).then_some(kind);
        RouteReport { destination: destination.parse().unwrap(), node: None, desired, kernel, state }
    }

    #[test]
    fn differences_are_marked_and_counted() {
        let routes = vec![
            route("10.244.1.0/24", RouteState::Ok),
            route("10.244.2.0/24", RouteState::Missing),
            route("10.244.3.0/24", RouteState::Unexpected),
        ];
        let text = text(&RoutesReport { source: Source::Agent, problems: Vec::new(), routes });
        let marks: Vec<bool> = text.lines().skip(1).take(3).map(|line| line.starts_with('!')).collect();
        assert_eq!(marks, [false, true, true], "{text}");
        assert!(text.ends_with("3 routes, 2 not as they should be (marked !)\n"), "{text}");
    }
}
