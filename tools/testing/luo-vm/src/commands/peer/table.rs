// SPDX-License-Identifier: GPL-2.0

//! The results as a table: on the terminal, and in the documentation.

use std::fmt::Write;

use anyhow::Result;

use super::Row;
use crate::ctx::Ctx;
use crate::files::write_if_changed;
use crate::image::programs::HazardItem;

/// The page with the table.
const FILE: &str = "Documentation/project/hazards-table.rst";

/// Prints all items with results.
pub fn print(items: &[HazardItem], rows: &[Row]) {
    for item in items {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.is_about(item)).collect();
        if rows.is_empty() {
            continue;
        }
        println!("\n{:<6} {}", item.item, item.what);
        for row in rows {
            println!("       {}", row.test);
            println!("         C     {}", row.c);
            if let Some(why) = &row.unseen {
                println!("               ({why})");
            }
            println!("         ours  {}", row.ours);
        }
    }
}

/// Writes the table of all results to the documentation.
pub fn document(ctx: &Ctx, items: &[HazardItem], rows: &[Row]) -> Result<()> {
    write_if_changed(&ctx.top.join(FILE), text(items, rows)?.as_bytes())?;
    Ok(())
}

fn text(items: &[HazardItem], rows: &[Row]) -> Result<String> {
    let mut text = String::from(
        ".. SPDX-License-Identifier: GPL-2.0\n\n\
         .. Written by `make test-peer`, included by hazards.rst.\n\n\
         .. list-table:: Faults of the implementation in C\n   \
         :header-rows: 1\n   \
         :widths: 7 33 25 10 25\n\n   \
         * - Item\n     - What C does\n     - C\n     - Ours\n     - Test\n",
    );
    for item in items {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.is_about(item)).collect();
        let how = match &item.otherwise {
            Some(how) => how.as_str(),
            None if rows.is_empty() => "not tested yet",
            None => "",
        };
        if rows.is_empty() {
            line(&mut text, [&item.item, &item.what, "", "", how])?;
        }
        for (number, row) in rows.into_iter().enumerate() {
            let what = if number == 0 { item.what.as_str() } else { "" };
            let c = match &row.unseen {
                Some(why) => format!("{}; {why}", row.c.verb()),
                None => row.c.to_string(),
            };
            let cells = [
                &item.item,
                what,
                &escape(&c),
                &escape(&row.ours.to_string()),
            ];
            let [item, what, c, ours] = cells;
            line(
                &mut text,
                [item, what, c, ours, &format!("``{}``", row.test)],
            )?;
        }
    }
    Ok(text)
}

fn line(text: &mut String, cells: [&str; 5]) -> Result<()> {
    for (number, cell) in cells.into_iter().enumerate() {
        let start = if number == 0 { "   * -" } else { "     -" };
        writeln!(text, "{}", format!("{start} {cell}").trim_end())?;
    }
    Ok(())
}

/// Escapes markup of reStructuredText.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '`' | '|' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(if c.is_control() { ' ' } else { c });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    /// The list of all items.
    const ITEMS: &str = include_str!("../../../../selftests/liveupdate/guest/src/tests/hazards.rs");

    /// The table in the documentation.
    const TABLE: &str = include_str!("../../../../../../Documentation/project/hazards-table.rst");

    #[test]
    fn each_item_has_a_row() {
        let items = ITEMS.lines().filter_map(|line| {
            let (item, rest) = line.trim().strip_prefix("(\"")?.split_once("\", ")?;
            rest.starts_with('"').then_some(item)
        });
        let items: Vec<&str> = items.collect();
        assert!(items.len() > 70, "{items:?}");
        let has_row = |item: &str| {
            let row = format!("   * - {item}");
            TABLE.lines().any(|line| line == row)
        };
        let missing: Vec<&str> = items.into_iter().filter(|item| !has_row(item)).collect();
        assert_eq!(missing, [""; 0], "add these items to {FILE}");
    }

    #[test]
    fn rows_of_the_table() {
        let item = |item: &str, otherwise: Option<&str>| HazardItem {
            item: item.into(),
            what: "does wrong".into(),
            otherwise: otherwise.map(String::from),
        };
        let row = Row {
            items: vec!["1A.1b".into()],
            test: "s.c".into(),
            unseen: None,
            c: Outcome::Fails("a_b is *".into()),
            ours: Outcome::Passes,
            seconds: 1.0,
        };
        assert_eq!(row.problem(), None);
        let text = text(
            &[item("1A.1", None), item("1A.11", Some("not at all"))],
            &[row],
        )
        .unwrap();
        let (_, table) = text.split_once("- Test\n").unwrap();
        assert_eq!(
            table,
            "   * - 1A.1\n     - does wrong\n     - fails: a\\_b is \\*\n     - passes\n     - ``s.c``\n\
             \x20  * - 1A.11\n     - does wrong\n     -\n     -\n     - not at all\n"
        );
    }
}
