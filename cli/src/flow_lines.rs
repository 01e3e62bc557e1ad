//! Lines of `weft flows`, laid out a block at a time: there may be a hundred thousand, and whoever reads them should not wait for the
//! last one.

use weft_agent::report::{FlowKind, FlowReport};

use crate::flows::state;

/// Lines that are laid out together.
const BLOCK: usize = 1000;
/// Columns, the last three for `-o wide` only.
const COLUMNS: [&str; 12] =
    ["KIND", "STATE", "SERVICE", "PROTOCOL", "CLIENT", "DIALLED", "BACKEND", "IDLE", "LEFT", "POD", "SOURCE", "SET"];
const NARROW: usize = COLUMNS.len() - 3;

/// Lines that wait until there are enough of them.
pub(crate) struct Lines {
    waiting: Vec<Vec<String>>,
    /// Each as wide as its widest value so far.
    widths: Vec<usize>,
}

impl Lines {
    pub(crate) fn new(wide: bool) -> Self {
        let columns = if wide { COLUMNS.len() } else { NARROW };
        Self { waiting: vec![COLUMNS.iter().map(|title| (*title).to_owned()).collect()], widths: vec![0; columns] }
    }

    /// Takes a flow, and gives the lines that are to be printed now.
    pub(crate) fn add(&mut self, flow: &FlowReport) -> String {
        self.waiting.push(row(flow).into());
        if self.waiting.len() < BLOCK { String::new() } else { self.flush() }
    }

    /// The last lines; none where there never was a flow.
    pub(crate) fn rest(&mut self) -> String {
        let only_header = self.waiting.len() == 1 && self.widths[0] == 0;
        if only_header { String::new() } else { self.flush() }
    }

    fn flush(&mut self) -> String {
        let rows = std::mem::take(&mut self.waiting);
        for row in &rows {
            for (width, value) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(value.len());
            }
        }
        let line = |row: &Vec<String>| {
            let cells: Vec<_> = row.iter().zip(&self.widths).map(|(value, width)| format!("{value:<width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        };
        rows.iter().map(line).collect()
    }
}

fn row(flow: &FlowReport) -> [String; COLUMNS.len()] {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let kind = match flow.kind {
        FlowKind::Packets => "packets",
        FlowKind::Socket => "socket",
        FlowKind::Affinity => "affinity",
    };
    let service = &flow.service;
    let name = service.namespace.as_ref().zip(service.name.as_ref()).map(|(namespace, name)| {
        let port = service.port.as_ref().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{namespace}/{name}{port}")
    });
    let client = flow.client_address.map(|address| match flow.client_port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    });
    let set = flow.local_set.map(|local| if local { "local" } else { "cluster" }.to_owned());
    [
        kind.to_owned(),
        state(flow),
        known(name.or_else(|| service.id.clone())),
        known(flow.protocol.map(|protocol| protocol.to_string())),
        known(client),
        known(flow.dialled.map(|dialled| dialled.to_string())),
        flow.backend.to_string(),
        known(flow.idle_seconds.map(span)),
        known(flow.remaining_seconds.map(span)),
        known(flow.pod.clone()),
        known(flow.source.map(|source| source.to_string())),
        known(set),
    ]
}

/// A span in the unit that a person would use, without a blank.
fn span(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1}s"),
        ..120.0 => format!("{seconds:.0}s"),
        ..7200.0 => format!("{:.0}m", seconds / 60.0),
        _ => format!("{:.0}h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use weft_agent::model::services::Protocol;
    use weft_agent::report::{FlowService, FlowState};

    use super::*;

    fn flow() -> FlowReport {
        FlowReport {
            kind: FlowKind::Packets,
            state: FlowState::Established,
            service: FlowService {
                id: Some("0102030405060708".to_owned()),
                namespace: Some("default".to_owned()),
                name: Some("dns".to_owned()),
                port: Some("dns".to_owned()),
            },
            protocol: Some(Protocol::Udp),
            client_address: Some("fd00::2".parse().unwrap()),
            client_port: Some(4321),
            pod: Some("default/web".to_owned()),
            dialled: Some("[fd00:96::a]:53".parse().unwrap()),
            backend: "[fd00::9]:5353".parse().unwrap(),
            backend_serves: Some(true),
            source: None,
            local_set: Some(false),
            idle_seconds: Some(2.5),
            remaining_seconds: Some(117.5),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_flow_is_a_line_and_what_nobody_knows_a_dash() {
        let mut lines = Lines::new(true);
        assert_eq!(lines.add(&flow()), "");
        let nameless = FlowService { id: Some("0102030405060708".to_owned()), ..FlowService::default() };
        let _ = lines.add(&FlowReport {
            kind: FlowKind::Affinity,
            state: FlowState::Over,
            service: nameless,
            protocol: None,
            client_port: None,
            dialled: None,
            backend_serves: Some(false),
            pod: None,
            local_set: None,
            remaining_seconds: Some(0.0),
            ..flow()
        });
        assert_eq!(
            words(&lines.rest())[1..],
            [
                "packets established default/dns:dns UDP [fd00::2]:4321 [fd00:96::a]:53 [fd00::9]:5353 2.5s 118s default/web - cluster",
                "affinity over,backend-gone 0102030405060708 - fd00::2 - [fd00::9]:5353 2.5s 0.0s - - -",
            ]
        );
    }

    #[test]
    fn lines_come_in_blocks_under_one_header_and_columns_never_shrink() {
        let mut lines = Lines::new(false);
        let blocks: Vec<_> = (0..2500).map(|_| lines.add(&flow())).filter(|text| !text.is_empty()).collect();
        assert_eq!(blocks.iter().map(|block| block.lines().count()).collect::<Vec<_>>(), [1000, 1000]);
        let rest = lines.rest();
        let all = format!("{}{rest}", blocks.concat());
        assert_eq!((all.lines().count(), all.matches("KIND").count(), all.contains("POD")), (2501, 1, false));
        let place = |line: &str| line.find("2.5s");
        assert!(all.lines().skip(1).all(|line| place(line) == place(&rest)), "{}", &all[..400]);
    }

    #[test]
    fn no_flow_is_no_line() {
        assert_eq!(Lines::new(true).rest(), "");
    }
}
