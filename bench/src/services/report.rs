//! A run as tables.

use comfy_table::{Cell, Table};

use super::measurement::{Measurement, Peer, Place, Target};
use super::record::{Daemon, Record};
use crate::sample::Samples;
use crate::tables::{right, table};

/// Prints everything, for a terminal or as Markdown; the latter with the picture, where there is one.
pub(crate) fn print(record: &Record, markdown: bool, picture: Option<&str>) {
    let Record { date, kernel, processor, commit, kube_proxy, command, rounds, operations, cpu, seconds, .. } = record;
    let heading = if markdown { "## " } else { "" };
    if markdown {
        println!("# Services\n");
    }
    println!("{date}, Linux {kernel}, {processor}, commit {commit}; kube-proxy: {kube_proxy}:\n\n    {command}\n");
    println!(
        "{rounds} rounds interleaved, {operations} operations a turn, clients and servers on CPU {cpu}. A round's figure is the median of its \
         operations; p10 and p90 are those of the rounds; \"operations' p90\" is what nine in ten did not exceed, in the median round. Ratios \
         are medians of the rounds' own."
    );
    if let Some(picture) = picture.filter(|_| markdown) {
        println!("\n![medians and spread of every line]({picture})");
    }
    for measurement in Measurement::ALL {
        println!("\n{heading}{}, µs\n\n{}", measurement.name(), lines(record, measurement, markdown));
    }
    println!("\n{heading}Daemons\n\n{}", daemons(record, markdown));
    println!("\nCPU over {seconds} seconds each; 100 % is one CPU.");
    println!("\n{heading}Aims\n\n{}", aims(record, markdown));
}

fn lines(record: &Record, measurement: Measurement, markdown: bool) -> Table {
    let mut table = table(markdown);
    table.set_header([
        "backend",
        "Services",
        "network",
        "dialled",
        "median",
        "p10",
        "p90",
        "operations' p90",
        "to its Pod",
        "to kube-proxy",
    ]);
    for place in Place::ALL {
        for of in record.lines.iter().filter(|of| (of.measurement, of.place) == (measurement, place)) {
            let name = if of.target == Target::Pod { of.peer.network() } else { of.peer.name() };
            let mut row = vec![Cell::new(place.name()), right(of.services.to_string())];
            row.extend([name, of.target.name()].map(Cell::new));
            let spread = [0.5, 0.1, 0.9].map(|share| of.median.quantile(share));
            row.extend(spread.into_iter().chain([of.p90.median()]).map(|figure| right(format!("{figure:.1}"))));
            let to_pod = record.ratio(of, of.peer, Target::Pod).filter(|_| of.target != Target::Pod);
            let to_other = record.ratio(of, Peer::KubeProxy, of.target).filter(|_| of.peer != Peer::KubeProxy);
            row.extend([to_pod, to_other].map(|ratio| right(ratio.map_or_else(String::new, |of| format!("{of:.3}")))));
            table.add_row(row);
        }
    }
    table
}

fn daemons(record: &Record, markdown: bool) -> Table {
    let mut table = table(markdown);
    let mut header = vec![Cell::new(""), Cell::new("unit")];
    header.extend(record.daemons.iter().map(|daemon| {
        let Daemon { services, endpoints, nodes, .. } = daemon;
        right(format!("{}: {services} Services, {endpoints} endpoints, {nodes} nodes", daemon.peer.name()))
    }));
    table.set_header(header);
    type Row = (&'static str, &'static str, fn(&Daemon) -> String);
    let rows: [Row; 8] = [
        ("full load, from the start", "s", |of| spread(&of.load, 2)),
        ("a backend's change until it answers", "ms", |of| spread(&of.update, 1)),
        ("p90 of these", "ms", |of| format!("{:.1}", of.update.quantile(0.9))),
        ("memory after the load", "MiB", |of| format!("{:.1}", of.memory)),
        ("memory after the changes", "MiB", |of| format!("{:.1}", of.busy_memory)),
        ("the most at any time", "MiB", |of| format!("{:.1}", of.peak)),
        ("CPU without changes", "%", |of| format!("{:.2}", of.idle)),
        ("CPU with changes", "%", |of| format!("{:.2} at {:.0}/s", of.busy, of.changes_a_second)),
    ];
    for (what, unit, text) in rows {
        let mut row = vec![Cell::new(what), Cell::new(unit)];
        row.extend(record.daemons.iter().map(|daemon| right(text(daemon))));
        table.add_row(row);
    }
    table
}

/// The median, with the least and the most in brackets.
fn spread(samples: &Samples, digits: usize) -> String {
    let [least, middle, most] = [0.0, 0.5, 1.0].map(|share| samples.quantile(share));
    format!("{middle:.digits$} ({least:.digits$} - {most:.digits$})")
}

fn aims(record: &Record, markdown: bool) -> Table {
    let mut table = table(markdown);
    table.set_header(["aim", "measured", ""]);
    for outcome in record.outcomes() {
        let word = if outcome.met { "met" } else { "missed" };
        table.add_row([Cell::new(&outcome.aim), right(format!("{:.3}", outcome.ratio)), Cell::new(word)]);
    }
    table
}
