//! A run as tables.

use comfy_table::{Cell, Table};

use super::measurement::Measurement;
use super::peer::{LINES, Place};
use super::record::Record;
use crate::tables::{right, table};

/// Prints everything, for a terminal or as Markdown; the latter with the picture, where there is one.
pub(crate) fn print(record: &Record, markdown: bool, picture: Option<&str>) {
    let Record { rounds, turn_milliseconds, family, cpu, date, kernel, processor, commit, command, .. } = record;
    if markdown {
        println!("# Paths of packets, {family}\n");
    }
    println!("{date}, Linux {kernel}, {processor}, commit {commit}:\n\n    {command}\n");
    println!(
        "{family}; {rounds} rounds interleaved, {turn_milliseconds} ms a turn, all on CPU {cpu}. p10 and p90 are those of the rounds; of \
         round trips, a round's figure is the median of its trips, and \"trips' p90\" what nine in ten of them did not exceed, in the median \
         round. Ratios are medians of the rounds' own."
    );
    if let Some(picture) = picture.filter(|_| markdown) {
        println!("\n![medians and spread of every line]({picture})");
    }
    let measured = |place: &Place| record.figures.iter().any(|of| of.place == *place);
    for place in Place::ALL.into_iter().filter(measured) {
        println!("\n{}{}\n", heading(markdown), title(place));
        println!("{}", figures(record, place, markdown));
    }
    if !record.aims.is_empty() {
        println!("\n{}Aims\n\n{}", heading(markdown), aims(record, markdown));
    }
    if !record.programs.is_empty() {
        println!("\n{}Time in programs\n\n{}", heading(markdown), programs(record, markdown));
    }
}

fn title(place: Place) -> &'static str {
    match place {
        Place::SameNode => "Same node",
        Place::CrossNode => "Cross node",
    }
}

fn heading(markdown: bool) -> &'static str {
    if markdown { "## " } else { "" }
}

fn figures(record: &Record, place: Place, markdown: bool) -> Table {
    let mut table = table(markdown);
    let references = place.references();
    let mut header: Vec<String> =
        ["measured", "unit", "peer", "median", "p10", "p90", "trips' p90"].map(String::from).into();
    header.extend(references.iter().map(|peer| format!("to {}", peer.short_name())));
    table.set_header(header);
    for measurement in Measurement::ALL {
        for (_, peer) in LINES.into_iter().filter(|line| line.0 == place) {
            let Some(of) = record.figures(place, measurement, peer) else { continue };
            let mut row = vec![Cell::new(measurement.name()), Cell::new(&of.unit), Cell::new(peer.name())];
            let spread = [0.5, 0.1, 0.9].map(|share| of.samples.quantile(share));
            row.extend(spread.map(|figure| right(format!("{figure:.2}"))));
            row.push(right(if of.p90.is_empty() { String::new() } else { format!("{:.2}", of.p90.median()) }));
            for reference in references {
                let ratio = record.ratio(of, *reference).filter(|_| *reference != peer);
                row.push(right(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))));
            }
            table.add_row(row);
        }
    }
    table
}

fn aims(record: &Record, markdown: bool) -> Table {
    let mut table = table(markdown);
    table.set_header(["aim", "measured", ""]);
    for outcome in &record.aims {
        let word = if outcome.met { "met" } else { "missed" };
        table.add_row([Cell::new(&outcome.aim), right(format!("{:.3}", outcome.ratio)), Cell::new(word)]);
    }
    table
}

fn programs(record: &Record, markdown: bool) -> Table {
    let mut table = table(markdown);
    table.set_header(["TCP round trip", "way", "program", "runs", "ns a run", "ns a round trip"]);
    for cost in &record.programs {
        let (runs, each) = (cost.runs_per_round_trip, cost.nanoseconds_per_run);
        let figures = [format!("{runs:.2}"), format!("{each:.0}"), format!("{:.0}", runs * each)];
        let mut row = vec![Cell::new(cost.place.name()), Cell::new(cost.peer.name()), Cell::new(&cost.program)];
        row.extend(figures.map(right));
        table.add_row(row);
    }
    table
}
