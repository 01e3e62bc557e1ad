//! A run as a table.

use comfy_table::Cell;

use super::{Figures, Record};
use crate::sample::Samples;
use crate::tables::{right, table};

/// A line of the table: what, in which unit, of which aim, and how it is made of the figures.
type Line = (&'static str, &'static str, fn(&Figures) -> String);

const LINES: [Line; 20] = [
    ("lists", "MiB", |of| median(&of.listed_mebibytes, 1)),
    ("from the start until the lists have come", "s", |of| spread(&of.lists, 2)),
    ("from then until all is in the maps", "s", |of| spread(&of.load, 2)),
    ("writes to maps", "", |of| median(&of.load_writes, 0)),
    ("longest answer about health meanwhile", "ms", |of| spread(&of.load_health, 0)),
    ("memory (RSS)", "MiB", |of| spread(&of.memory, 1)),
    ("of these its own, without pages of the program's file", "MiB", |of| spread(&of.own_memory, 1)),
    ("most memory at any time", "MiB", |of| spread(&of.peak_memory, 1)),
    ("restart: from the start until all is programmed", "s", |of| spread(&of.restart, 2)),
    ("of these after the lists have come", "s", |of| spread(&of.restart_after_lists, 2)),
    ("writes to maps", "", |of| median(&of.restart_writes, 0)),
    ("memory after it", "MiB", |of| spread(&of.restart_memory, 1)),
    ("most memory at any time", "MiB", |of| spread(&of.restart_peak, 1)),
    ("CPU while nothing changes", "%", |of| spread(&of.idle, 2)),
    ("CPU at changes of endpoints", "%", |of| spread(&of.busy, 2)),
    ("changes a second then", "", |of| median(&of.changes_a_second, 1)),
    ("one endpoint's change until it is in the maps, median and p99", "ms", |of| tail(&of.change)),
    ("writes to maps a change", "", |of| median(&of.change_writes, 1)),
    ("one endpoint's change of the largest Service, median and p99", "ms", |of| tail(&of.large_change)),
    ("writes to maps a change", "", |of| median(&of.large_change_writes, 1)),
];

/// Prints everything, for a terminal or as Markdown.
pub(crate) fn print(record: &Record, markdown: bool) {
    if markdown {
        println!("# Size\n");
    }
    println!("{}\n", record.machine);
    let mut table = table(markdown);
    let of = |figures: &Figures| {
        format!("{} Services, {} endpoints, {} nodes", figures.services, figures.endpoints, figures.nodes)
    };
    let mut header = vec![Cell::new(""), Cell::new("unit")];
    header.extend(record.sizes.iter().map(|figures| right(of(figures))));
    table.set_header(header);
    for (what, unit, text) in LINES {
        let mut row = vec![Cell::new(what), Cell::new(unit)];
        row.extend(record.sizes.iter().map(|figures| right(text(figures))));
        table.add_row(row);
    }
    println!("{table}");
}

fn median(samples: &Samples, digits: usize) -> String {
    format!("{:.digits$}", samples.median())
}

/// The median, with the least and the most in brackets.
fn spread(samples: &Samples, digits: usize) -> String {
    let [least, middle, most] = [samples.quantile(0.0), samples.median(), samples.quantile(1.0)];
    format!("{middle:.digits$} ({least:.digits$} - {most:.digits$})")
}

fn tail(samples: &Samples) -> String {
    format!("{:.1}, {:.1}", samples.median(), samples.quantile(0.99))
}
