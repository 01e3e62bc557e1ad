//! Says in the log that flows through Services are refused because there is no place for them: programs can only count.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};
use weft_common::reason::DropReason;

use crate::datapath::drop_counters::DropCounters;
use crate::datapath::maps::Maps;
use crate::report;

/// Wait between two looks at the counters.
const PERIOD: Duration = Duration::from_secs(30);

/// Looks as long as the process lives.
pub async fn watch(pin_directory: PathBuf) {
    let mut table = FlowTable::default();
    loop {
        // Without maps there is nothing to look at, which others tell of.
        if let Ok(counted) = Maps::open(&pin_directory).and_then(|maps| maps.drop_counters()) {
            table.look(&counted);
        }
        sleep(PERIOD).await;
    }
}

/// What is known of the table.
#[derive(Debug, Default)]
struct FlowTable {
    /// The maps that count, and their sum at the last look.
    last: Option<([u32; 2], u64)>,
    is_full: bool,
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// So many packets were refused since the last one.
    Refused(u64),
    /// None was any more.
    Again,
    /// The same as before.
    Nothing,
}

impl FlowTable {
    fn look(&mut self, counted: &DropCounters) {
        match self.news(counted) {
            News::Refused(packets) => warn!(
                object = "flow table",
                reason = DropReason::FlowTableFull.name(),
                packets,
                next_step = "`weft flows` shows whose flows they are, `weft pods` who wants more",
                "flows through Services are refused: there is no place for more; those that are there stay"
            ),
            News::Again => info!(object = "flow table", "there are places for flows through Services again"),
            News::Nothing => {}
        }
    }

    fn news(&mut self, counted: &DropCounters) -> News {
        let maps = [counted.map_id, counted.socket_map_id];
        let is_ours = |(_, reason, _): &(&str, DropReason, u64)| *reason == DropReason::FlowTableFull;
        let sum = report::counters(counted).filter(is_ours).map(|(_, _, packets)| packets).sum();
        // What was refused before the agent's start was told of by the one before, or by nobody.
        let last = self.last.replace((maps, sum)).filter(|(then, _)| *then == maps).map_or(sum, |(_, sum)| sum);
        let (refused, was_full) = (sum.saturating_sub(last), self.is_full);
        self.is_full = refused > 0;
        match (refused, was_full) {
            (0, true) => News::Again,
            (0, false) => News::Nothing,
            _ => News::Refused(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_common::reason::Program;

    use super::*;

    fn counted(map_id: u32, from_pod: u64, at_sockets: u64) -> DropCounters {
        let full = DropReason::FlowTableFull;
        let packets =
            vec![(Program::FromPod, full, from_pod), (Program::FromPod, DropReason::ServiceRefused, from_pod * 7)];
        DropCounters { map_id, packets, socket_map_id: 2, sockets: vec![(full, at_sockets)] }
    }

    #[test]
    fn a_full_table_is_told_of_once_a_look_and_when_it_is_over() {
        let mut table = FlowTable::default();
        let news: Vec<_> = [(1, 5, 0), (1, 5, 0), (1, 8, 0), (1, 9, 1), (1, 9, 1), (1, 9, 1)]
            .map(|(map, from_pod, at_sockets)| table.news(&counted(map, from_pod, at_sockets)))
            .into();
        let expected = [News::Nothing, News::Nothing, News::Refused(3), News::Refused(2), News::Again, News::Nothing];
        assert_eq!(news, expected);
        // Other maps begin at zero, and may be at more by the time of the look.
        assert_eq!(table.news(&counted(4, 100, 1)), News::Nothing);
        assert_eq!(table.news(&counted(4, 101, 1)), News::Refused(1));
    }
}
