//! A run as a picture: a panel for each measurement, on one node and across nodes; a bar for each peer, with its spread.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle, WHITE};

use super::measurement::Measurement;
use super::peer::{LINES, Peer, Place};
use super::record::{Figures, Record};

/// Width of the picture, and of one of its two columns.
const WIDTH: i32 = 1240;
const COLUMN: i32 = WIDTH / 2;
/// Room at the edges, and between panels.
const EDGE: i32 = 20;
/// Height of the picture's title, of a panel's, and of a bar with its gap.
const TITLE: i32 = 64;
const PANEL_TITLE: i32 = 34;
const BAR: i32 = 26;
/// Where bars begin in a panel, and how long the longest may be: after it comes its figure.
const LABELS: i32 = 190;
const LONGEST: i32 = COLUMN - LABELS - 2 * EDGE - 70;

const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(110, 110, 110);
const OURS: RGBColor = RGBColor(0, 114, 178);
const OURS_BY_DEVICE: RGBColor = RGBColor(104, 174, 216);
const REFERENCE: RGBColor = RGBColor(190, 190, 190);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws into an SVG file.
pub(crate) fn draw(record: &Record, path: &Path) -> Result<()> {
    let mut picture = String::new();
    let rows: Vec<Measurement> = Measurement::ALL
        .into_iter()
        .filter(|measurement| Place::ALL.into_iter().any(|place| !bars(record, place, *measurement).is_empty()))
        .collect();
    let height = EDGE / 2 + TITLE + rows.iter().map(|row| panel_height(record, *row)).sum::<i32>();
    {
        let root =
            SVGBackend::with_string(&mut picture, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let title = format!("weft and its peers, {} pods over an {0} underlay", record.family);
        text(&root, &title, (EDGE, 22), &bold(21.0, &INK))?;
        let subtitle = format!(
            "Linux {}, {}. Medians of {} interleaved rounds, whiskers from p10 to p90; client and server on one CPU.",
            record.kernel, record.date, record.rounds
        );
        text(&root, &subtitle, (EDGE, 46), &plain(15.0, &FAINT, HPos::Left))?;
        let mut top = TITLE;
        for row in rows {
            for (column, place) in (0..).zip(Place::ALL) {
                panel(&root, record, place, row, (column * COLUMN + EDGE, top))?;
            }
            top += panel_height(record, row);
        }
        root.present().map_err(failed)?;
    }
    Ok(fs::write(path, picture)?)
}

fn failed(error: impl fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

fn bars(record: &Record, place: Place, measurement: Measurement) -> Vec<&Figures> {
    let peers = LINES.into_iter().filter(|line| line.0 == place);
    peers.filter_map(|(_, peer)| record.figures(place, measurement, peer)).collect()
}

fn panel_height(record: &Record, measurement: Measurement) -> i32 {
    let most = Place::ALL.into_iter().map(|place| bars(record, place, measurement).len()).max().unwrap_or_default();
    PANEL_TITLE + most as i32 * BAR + EDGE
}

fn panel(
    root: &Area<'_>,
    record: &Record,
    place: Place,
    measurement: Measurement,
    (left, top): (i32, i32),
) -> Result<()> {
    let bars = bars(record, place, measurement);
    let longest = bars.iter().map(|bar| bar.samples.quantile(0.9)).fold(0.0, f64::max);
    let Some(first) = bars.first().filter(|_| longest > 0.0) else { return Ok(()) };
    let better = if measurement.is_time() { "less is better" } else { "more is better" };
    let title = format!("{}, {} ({}; {better})", measurement.name(), place.name(), first.unit);
    text(root, &title, (left, top + PANEL_TITLE / 2), &bold(15.0, &INK))?;
    let zero = left + LABELS;
    let at = |figure: f64| zero + (figure / longest * f64::from(LONGEST)) as i32;
    for (index, bar) in (0..).zip(&bars) {
        let middle = top + PANEL_TITLE + index * BAR + BAR / 2;
        let half = BAR / 2 - 4;
        let [low, median, high] = [0.1, 0.5, 0.9].map(|share| at(bar.samples.quantile(share)));
        text(root, bar.peer.short_name(), (zero - 8, middle), &plain(15.0, &INK, HPos::Right))?;
        let colour = colour(bar.peer).filled();
        root.draw(&Rectangle::new([(zero, middle - half), (median, middle + half)], colour)).map_err(failed)?;
        for ends in [
            [(low, middle), (high, middle)],
            [(low, middle - 4), (low, middle + 4)],
            [(high, middle - 4), (high, middle + 4)],
        ] {
            root.draw(&PathElement::new(ends, INK.stroke_width(1))).map_err(failed)?;
        }
        let figure = figure(bar.samples.median());
        text(root, &figure, (high.max(median) + 8, middle), &plain(15.0, &INK, HPos::Left))?;
    }
    let bottom = top + PANEL_TITLE + bars.len() as i32 * BAR;
    root.draw(&PathElement::new([(zero, top + PANEL_TITLE), (zero, bottom)], FAINT.stroke_width(1))).map_err(failed)
}

fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Weft => OURS,
        Peer::WeftByDevice => OURS_BY_DEVICE,
        _ => REFERENCE,
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn plain(size: f64, colour: &RGBColor, side: HPos) -> TextStyle<'_> {
    // The backend takes a size for the height of a line, not of the letters.
    TextStyle::from(("sans-serif", size * 1.24).into_font()).color(colour).pos(Pos::new(side, VPos::Center))
}

fn bold(size: f64, colour: &RGBColor) -> TextStyle<'_> {
    let font = ("sans-serif", size * 1.24).into_font().style(FontStyle::Bold);
    TextStyle::from(font).color(colour).pos(Pos::new(HPos::Left, VPos::Center))
}

fn text(root: &Area<'_>, words: &str, at: (i32, i32), style: &TextStyle<'_>) -> Result<()> {
    root.draw(&Text::new(words.to_owned(), at, style.clone())).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_that_count() {
        assert_eq!([1.234, 12.34, 123.4, 1234.0].map(figure), ["1.23", "12.3", "123", "1234"]);
    }
}
