// SPDX-License-Identifier: GPL-2.0

//! The figures as tables.

use std::fmt::Write;
use std::iter;

use super::catalogue::PHASES;
use super::{minimum, Row};

fn shown(value: u64, unit: &str) -> String {
    match unit {
        "us" => format!("{:.3} s", value as f64 / 1e6),
        _ => format!("{:.2} MiB", value as f64 / 1024.0),
    }
}

fn spread(values: &[u64], unit: &str) -> String {
    let most = values.iter().copied().max().unwrap_or_default();
    format!("{} - {}", shown(minimum(values), unit), shown(most, unit))
}

const COLUMNS: usize = 7;

const HEADER: [&str; COLUMNS] = [
    "Figure (medians)",
    "C",
    "Ours",
    "Ratio",
    "Goal",
    "Spread of C",
    "Spread of ours",
];

fn columns(row: &Row) -> [String; COLUMNS] {
    let target = row.target.map(|target| target.to_string());
    [
        row.title.clone(),
        shown(row.c_median, row.unit),
        shown(row.ours_median, row.unit),
        format!("{:.3}", row.ratio),
        target.unwrap_or_default(),
        spread(&row.c, row.unit),
        spread(&row.ours, row.unit),
    ]
}

/// For the terminal.
pub fn plain(rows: &[Row]) -> String {
    let mut text = String::new();
    let header = HEADER.map(str::to_owned);
    for line in iter::once(header).chain(rows.iter().map(columns)) {
        let [figure, c, ours, ratio, goal, spread_c, spread_ours] = line;
        let _ = writeln!(
            text,
            "{figure:<58} {c:>12} {ours:>12} {ratio:>7} {goal:>7}  {spread_c:<24} {spread_ours}"
        );
    }
    text
}

/// For the documentation: the same, but only with the phases of the smallest blackout.
pub fn rst(caption: &str, rows: &[Row]) -> String {
    let mut text = format!(
        ".. SPDX-License-Identifier: GPL-2.0\n\n.. Written by `make bench`.\n\n\
         .. list-table:: {caption}\n   :header-rows: 1\n   :widths: 36 10 10 8 8 14 14\n\n"
    );
    cells(&mut text, &HEADER.map(str::to_owned));
    for row in rows {
        if !PHASES.contains(&row.figure) || row.title.starts_with("small state") {
            cells(&mut text, &columns(row));
        }
    }
    text
}

fn cells(text: &mut String, cells: &[String]) {
    for (number, cell) in cells.iter().enumerate() {
        let start = if number == 0 { "   * -" } else { "     -" };
        let _ = writeln!(text, "{}", format!("{start} {cell}").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_have_the_row() {
        let row = Row {
            figure: "preserve",
            title: "1k files: preserve".to_owned(),
            unit: "us",
            c: vec![1_000_000, 3_000_000],
            ours: vec![500_000],
            c_median: 3_000_000,
            ours_median: 500_000,
            ratio: 0.1667,
            ratio_of_minima: 0.5,
            target: Some(0.1),
        };
        let text = plain(std::slice::from_ref(&row));
        assert!(text.contains("1.000 s - 3.000 s"));
        let text = rst("a machine", &[row]);
        assert!(text.contains(
            "   * - 1k files: preserve\n     - 3.000 s\n     - 0.500 s\n     - 0.167\n     - 0.1\n"
        ));
    }
}
