// SPDX-License-Identifier: GPL-2.0

//! Parses the table in the documentation.

use std::fmt;

const TEXT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../../../Documentation/userspace-api/liveupdate-errno.rst"
));

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub ioctl: String,
    pub errno: String,
    pub when: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.ioctl, self.errno, self.when)
    }
}

/// The rows of a `list-table`, without the header.
fn parse(text: &str) -> Vec<Row> {
    let mut cells: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        let indented = line.starts_with("   ");
        let line = line.trim();
        if let Some(cell) = line.strip_prefix("* - ") {
            cells.push(vec![cell.into()]);
        } else if let (Some(row), true, false) = (cells.last_mut(), indented, line.is_empty()) {
            match (line.strip_prefix("- "), row.last_mut()) {
                (Some(cell), _) => row.push(cell.into()),
                (None, Some(cell)) => {
                    cell.push(' ');
                    cell.push_str(line);
                }
                (None, None) => (),
            }
        }
    }
    let rows = cells.into_iter().skip(1).filter_map(|row| {
        let [ioctl, errno, when] = row.try_into().ok()?;
        Some(Row { ioctl, errno, when })
    });
    rows.collect()
}

pub fn rows() -> Vec<Row> {
    parse(TEXT)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn continued_lines() {
        let text =
            "   * - a\n     - b\n     - c\n   * - x\n     - Y\n     - one,\n       two\n\nend\n";
        let row = Row {
            ioctl: "x".into(),
            errno: "Y".into(),
            when: "one, two".into(),
        };
        assert_eq!(parse(text), [row]);
    }
}
