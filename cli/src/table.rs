//! Tables as kubectl prints them: columns apart, no lines.

use comfy_table::{ContentArrangement, Table, presets};
use weft_agent::model::problem::Problem;

/// A table of strings. Long lines stay whole: a person can scroll, and `grep` wants them so.
pub(crate) fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    // Without the blanks that would be the border.
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

/// Values in one cell.
pub(crate) fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Problems under a heading; nothing where there is none.
pub(crate) fn problems(heading: &str, problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let lines = problems
        .iter()
        .map(|Problem { object, reason, next_step }| format!("  {object}: {reason}\n    -> {next_step}\n"));
    format!("{heading}\n{}", lines.collect::<String>())
}
