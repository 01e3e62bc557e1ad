//! `weft drops` as a table, and what `--watch` prints of two reports.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use weft_agent::report::{Drop, DropsReport, Source};
use weft_common::reason::SOCKET;

use crate::table::{problems, table};

pub(crate) fn text(report: &DropsReport) -> String {
    let lost = report.drops.iter().filter(|drop| !drop.sender_told);
    let lost = if lost.clone().next().is_none() { "no packet was dropped\n".to_owned() } else { counters(lost) };
    let told: Vec<_> = report.drops.iter().filter(|drop| drop.sender_told).collect();
    let told = match told.as_slice() {
        [] => String::new(),
        told => format!("\nRefused, and the sender was told at once:\n{}", counters(told.iter().copied())),
    };
    let mut steps: Vec<_> = report.drops.iter().map(|drop| (&drop.reason, &drop.next_step)).collect();
    steps.sort();
    steps.dedup();
    let steps = steps.into_iter().map(|(reason, next_step)| format!("  {reason}\n    -> {next_step}\n"));
    let what_to_do = if report.drops.is_empty() { "" } else { "\nWhat to do:\n" };
    format!("{lost}{told}{what_to_do}{}{}", steps.collect::<String>(), problems("\nProblems:", &report.problems))
}

/// A table of counters; `weft status` shows the same.
pub(crate) fn counters<'a>(drops: impl Iterator<Item = &'a Drop>) -> String {
    let row =
        |drop: &Drop| [drop.program.clone(), drop.reason.clone(), drop.packets.to_string(), drop.explanation.clone()];
    table(["PROGRAM", "REASON", "PACKETS", "MEANING"], drops.map(row))
}

/// A counter that rose since the last look. As JSON it is one line of `weft drops --watch -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rise {
    /// When it was looked at, by RFC 3339.
    time: String,
    /// Who answered.
    source: Source,
    /// The program.
    program: String,
    /// The reason's name.
    reason: String,
    /// Whoever sent it was told at once.
    sender_told: bool,
    /// Packets since the last look.
    packets: u64,
    /// The same, a second.
    per_second: f64,
    /// Packets since the maps were made.
    total_packets: u64,
    /// The reason in a sentence.
    explanation: String,
    /// What to do about it.
    next_step: String,
}

/// What rose between two reports. Another map than the last time, as after an upgrade that changed the layout, began at zero, and so
/// does a counter that is below its last value.
pub(crate) fn rises(before: &DropsReport, after: &DropsReport, elapsed: Duration, time: &str) -> Vec<Rise> {
    let key = |drop: &Drop| (drop.program.clone(), drop.reason.clone());
    let is_same_map = |drop: &&Drop| {
        if drop.program == SOCKET { before.socket_map_id == after.socket_map_id } else { before.map_id == after.map_id }
    };
    let known: BTreeMap<_, _> = before.drops.iter().filter(is_same_map).map(|drop| (key(drop), drop.packets)).collect();
    let rise = |drop: &Drop| {
        let last = known.get(&key(drop)).copied().unwrap_or_default();
        let packets = drop.packets.checked_sub(last).unwrap_or(drop.packets);
        (packets > 0).then(|| Rise {
            time: time.to_owned(),
            source: after.source,
            program: drop.program.clone(),
            reason: drop.reason.clone(),
            sender_told: drop.sender_told,
            packets,
            per_second: rate(packets, elapsed),
            total_packets: drop.packets,
            explanation: drop.explanation.clone(),
            next_step: drop.next_step.clone(),
        })
    };
    after.drops.iter().filter_map(rise).collect()
}

/// Packets a second, to the tenth.
fn rate(packets: u64, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than a float's 53 bits")]
    let packets = packets as f64;
    (packets / elapsed.as_secs_f64().max(0.001) * 10.0).round() / 10.0
}

/// The first line of `--watch`.
pub(crate) fn watch_header() -> String {
    watch_line("TIME", "PROGRAM", "REASON", ["PACKETS", "PER-SECOND", "TOTAL"], "MEANING")
}

impl Rise {
    /// A line of `--watch` for people.
    pub(crate) fn line(&self) -> String {
        let Self { time, program, reason, packets, per_second, total_packets, explanation, .. } = self;
        let numbers = [&packets.to_string(), &format!("{per_second:.1}"), &total_packets.to_string()];
        watch_line(time, program, reason, numbers.map(String::as_str), explanation)
    }
}

/// Columns of a fixed width, because nobody knows what comes: the longest names fit.
fn watch_line(time: &str, program: &str, reason: &str, [packets, rate, total]: [&str; 3], meaning: &str) -> String {
    format!("{time:<24}  {program:<13}  {reason:<25}  {packets:>10}  {rate:>10}  {total:>12}  {meaning}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(reason: &str, packets: u64) -> Drop {
        Drop {
            program: "from_pod".to_owned(),
            reason: reason.to_owned(),
            sender_told: false,
            explanation: "A sentence.".to_owned(),
            next_step: "do this".to_owned(),
            packets,
        }
    }

    fn report(map_id: u32, drops: &[(&str, u64)]) -> DropsReport {
        let drops = drops.iter().map(|(reason, packets)| drop(reason, *packets)).collect();
        DropsReport { source: Source::Agent, problems: Vec::new(), map_id, socket_map_id: 1, drops }
    }

    fn risen(before: &DropsReport, after: &DropsReport) -> Vec<(String, u64, f64, u64)> {
        let rises = rises(before, after, Duration::from_secs(2), "2026-01-01T00:00:00.000Z");
        rises.into_iter().map(|rise| (rise.reason, rise.packets, rise.per_second, rise.total_packets)).collect()
    }

    #[test]
    fn only_what_rose_is_told_with_its_rate() {
        let (before, after) = (report(1, &[("a", 10), ("b", 5)]), report(1, &[("a", 13), ("b", 5), ("c", 1)]));
        assert_eq!(risen(&before, &after), [("a".to_owned(), 3, 1.5, 13), ("c".to_owned(), 1, 0.5, 1)]);
        assert_eq!(risen(&after, &after), []);
    }

    #[test]
    fn a_counter_that_went_back_counts_from_zero() {
        assert_eq!(risen(&report(1, &[("a", 10)]), &report(1, &[("a", 4)])), [("a".to_owned(), 4, 2.0, 4)]);
        assert_eq!(risen(&report(1, &[("a", 10)]), &report(1, &[])), []);
    }

    #[test]
    fn another_map_counts_from_zero_even_where_it_is_ahead_already() {
        let before = report(1, &[("a", 10)]);
        assert_eq!(risen(&before, &report(2, &[("a", 12)])), [("a".to_owned(), 12, 6.0, 12)]);
        let other_sockets = |packets| DropsReport { socket_map_id: 2, ..report(1, &[("a", packets)]) };
        assert_eq!(risen(&before, &other_sockets(12)), [("a".to_owned(), 2, 1.0, 12)], "that map counts other things");
        let mut socket = other_sockets(12);
        socket.drops[0].program = SOCKET.to_owned();
        let mut before = before;
        before.drops[0].program = SOCKET.to_owned();
        assert_eq!(risen(&before, &socket), [("a".to_owned(), 12, 6.0, 12)]);
    }

    #[test]
    fn what_was_refused_stands_below_what_was_lost() {
        let mut both = report(1, &[("service_refused", 10), ("no_local_endpoint", 11)]);
        both.drops[0].sender_told = true;
        let whole = text(&both);
        let place = |word: &str| whole.find(word).unwrap();
        assert!(
            place("no_local_endpoint") < place("Refused, and the sender") && whole.starts_with("PROGRAM"),
            "{whole}"
        );
        assert!(place("Refused, and the sender") < place("service_refused"), "{whole}");
        both.drops.truncate(1);
        let told = text(&both);
        assert!(
            told.starts_with("no packet was dropped\n\nRefused, and the sender was told at once:\nPROGRAM"),
            "{told}"
        );
    }

    #[test]
    fn lines_have_the_columns_of_their_header() {
        let rises = rises(
            &report(1, &[]),
            &report(1, &[("outer_source_unknown", 4)]),
            Duration::from_secs(1),
            "2026-01-01T00:00:00.000Z",
        );
        let (header, line) = (watch_header(), rises[0].line());
        for (title, value) in
            [("TIME", "2026"), ("PROGRAM", "from_pod"), ("REASON", "outer_"), ("MEANING", "A sentence.")]
        {
            assert_eq!(header.find(title), line.find(value), "{header}{line}");
        }
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..6], ["2026-01-01T00:00:00.000Z", "from_pod", "outer_source_unknown", "4", "4.0", "4"]);
    }

    #[test]
    fn the_names_in_json_are_those_that_programs_read() {
        let rises = rises(&report(1, &[]), &report(1, &[("a", 4)]), Duration::from_secs(1), "now");
        let json = serde_json::to_value(&rises[0]).unwrap();
        for key in
            "time source program reason senderTold packets perSecond totalPackets explanation nextStep".split(' ')
        {
            assert!(json.get(key).is_some(), "{key} is missing in {json}");
        }
    }

    #[test]
    fn every_known_name_fits_into_its_column() {
        use weft_common::reason::{DropReason, Program};
        assert!(DropReason::ALL.iter().all(|reason| reason.name().len() <= 25));
        assert!(Program::ALL.iter().all(|program| program.name().len() <= 13));
    }

    #[test]
    fn the_table_ends_with_what_to_do_and_an_empty_one_says_so() {
        assert_eq!(text(&report(1, &[])), "no packet was dropped\n");
        let text = text(&report(1, &[("a", 10), ("a", 11)]));
        assert!(text.starts_with("PROGRAM") && text.ends_with("\nWhat to do:\n  a\n    -> do this\n"), "{text}");
    }
}
