//! Bars as a picture: panels in two columns; a bar for each line, with its spread.

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

use crate::sample::Samples;

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

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Whose a bar is, as its colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    OursOtherwise,
    Reference,
}

impl Kind {
    fn colour(self) -> RGBColor {
        match self {
            Self::Ours => RGBColor(0, 114, 178),
            Self::OursOtherwise => RGBColor(104, 174, 216),
            Self::Reference => RGBColor(190, 190, 190),
        }
    }
}

/// A line of a panel.
pub(crate) struct Bar<'a> {
    pub(crate) label: String,
    pub(crate) kind: Kind,
    pub(crate) samples: &'a Samples,
}

/// Bars of one scale.
pub(crate) struct Panel<'a> {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar<'a>>,
}

impl Panel<'_> {
    fn height(&self) -> i32 {
        PANEL_TITLE + self.bars.len() as i32 * BAR + EDGE
    }
}

/// A picture; a row without any bar is left out.
pub(crate) struct Picture<'a> {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) rows: Vec<[Panel<'a>; 2]>,
}

impl Picture<'_> {
    /// Draws into an SVG file.
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let rows: Vec<_> = self.rows.iter().filter(|row| row.iter().any(|panel| !panel.bars.is_empty())).collect();
        let row_height = |row: &[Panel<'_>; 2]| row[0].height().max(row[1].height());
        let height = EDGE / 2 + TITLE + rows.iter().map(|row| row_height(row)).sum::<i32>();
        let mut picture = String::new();
        {
            let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
            let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
            root.fill(&WHITE).map_err(failed)?;
            text(&root, &self.title, (EDGE, 22), &bold(21.0, &INK))?;
            text(&root, &self.subtitle, (EDGE, 46), &plain(15.0, &FAINT, HPos::Left))?;
            let mut top = TITLE;
            for row in rows {
                for (column, panel) in (0..).zip(row) {
                    draw_panel(&root, panel, (column * COLUMN + EDGE, top))?;
                }
                top += row_height(row);
            }
            root.present().map_err(failed)?;
        }
        Ok(fs::write(path, picture)?)
    }
}

fn failed(error: impl fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

fn draw_panel(root: &Area<'_>, panel: &Panel<'_>, (left, top): (i32, i32)) -> Result<()> {
    let Panel { title, bars } = panel;
    let longest = bars.iter().map(|bar| bar.samples.quantile(0.9)).fold(0.0, f64::max);
    if longest <= 0.0 {
        return Ok(());
    }
    text(root, title, (left, top + PANEL_TITLE / 2), &bold(15.0, &INK))?;
    let zero = left + LABELS;
    let at = |figure: f64| zero + (figure / longest * f64::from(LONGEST)) as i32;
    for (index, bar) in (0..).zip(bars) {
        let middle = top + PANEL_TITLE + index * BAR + BAR / 2;
        let half = BAR / 2 - 4;
        let [low, median, high] = [0.1, 0.5, 0.9].map(|share| at(bar.samples.quantile(share)));
        text(root, &bar.label, (zero - 8, middle), &plain(15.0, &INK, HPos::Right))?;
        let colour = bar.kind.colour().filled();
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
