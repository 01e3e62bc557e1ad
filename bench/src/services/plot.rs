//! A run as a picture: a panel for each measurement, on one node and across nodes; a bar for each size, peer and target.

use std::path::Path;

use anyhow::Result;

use super::measurement::{Measurement, Peer, Place, Target};
use super::record::{Line, Record};
use crate::bars::{Bar, Kind, Panel, Picture};

/// Draws into an SVG file.
pub(crate) fn draw(record: &Record, path: &Path) -> Result<()> {
    let row = |measurement: Measurement| Place::ALL.map(|place| panel(record, measurement, place));
    let picture = Picture {
        title: "weft, kube-proxy nftables, and the Pod itself, by number of Services".to_owned(),
        subtitle: format!(
            "Linux {}, {}. Medians of {} interleaved rounds, whiskers from p10 to p90; client and server on one CPU.",
            record.kernel, record.date, record.rounds
        ),
        rows: Measurement::ALL.into_iter().map(row).collect(),
    };
    picture.draw(path)
}

fn panel(record: &Record, measurement: Measurement, place: Place) -> Panel<'_> {
    let lines = record.lines.iter().filter(|line| (line.measurement, line.place) == (measurement, place));
    let title = format!("{}, {} (µs; less is better)", measurement.name(), place.name());
    Panel { title, bars: lines.map(bar).collect() }
}

fn bar(line: &Line) -> Bar<'_> {
    let (name, kind) = match (line.peer, line.target) {
        (Peer::Weft, Target::ClusterIp) => ("weft", Kind::Ours),
        (Peer::Weft, Target::Pod) => ("weft's Pod", Kind::OursOtherwise),
        (Peer::KubeProxy, Target::ClusterIp) => ("kube-proxy", Kind::Reference),
        (Peer::KubeProxy, Target::Pod) => ("ptp's Pod", Kind::Reference),
    };
    Bar { label: format!("{name}, {}", line.services), kind, samples: &line.median }
}
