//! A run as a picture: a panel for each measurement, on one node and across nodes; a bar for each peer.

use std::path::Path;

use anyhow::Result;

use super::measurement::Measurement;
use super::peer::{LINES, Peer, Place};
use super::record::{Figures, Record};
use crate::bars::{Bar, Kind, Panel, Picture};

/// Draws into an SVG file.
pub(crate) fn draw(record: &Record, path: &Path) -> Result<()> {
    let row = |measurement: Measurement| Place::ALL.map(|place| panel(record, place, measurement));
    let picture = Picture {
        title: format!("weft and its peers, {} pods over an {0} underlay", record.family),
        subtitle: format!(
            "Linux {}, {}. Medians of {} interleaved rounds, whiskers from p10 to p90; client and server on one CPU.",
            record.kernel, record.date, record.rounds
        ),
        rows: Measurement::ALL.into_iter().map(row).collect(),
    };
    picture.draw(path)
}

fn panel(record: &Record, place: Place, measurement: Measurement) -> Panel<'_> {
    let peers = LINES.into_iter().filter(|line| line.0 == place);
    let figures: Vec<&Figures> = peers.filter_map(|(_, peer)| record.figures(place, measurement, peer)).collect();
    let unit = figures.first().map_or("", |of| of.unit.as_str());
    let better = if measurement.is_time() { "less is better" } else { "more is better" };
    Panel {
        title: format!("{}, {} ({unit}; {better})", measurement.name(), place.name()),
        bars: figures.into_iter().map(bar).collect(),
    }
}

fn bar(figures: &Figures) -> Bar<'_> {
    let kind = match figures.peer {
        Peer::Weft => Kind::Ours,
        Peer::WeftByDevice => Kind::OursOtherwise,
        _ => Kind::Reference,
    };
    Bar { label: figures.peer.short_name().to_owned(), kind, samples: &figures.samples }
}
