//! Tables of a report, for a terminal or as Markdown.

use comfy_table::{Cell, CellAlignment, Table, presets};

/// An empty one.
pub(crate) fn table(markdown: bool) -> Table {
    let mut table = Table::new();
    table.load_style(if markdown { presets::ASCII_MARKDOWN } else { presets::NOTHING });
    table
}

/// A figure: all of a column end at the same place.
pub(crate) fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
