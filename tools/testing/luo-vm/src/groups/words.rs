// SPDX-License-Identifier: GPL-2.0

//! A check for words that comments, pages and messages must not contain.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use regex::{Regex, RegexBuilder};

use crate::ctx::Ctx;
use crate::files::files;
use crate::report::results::Report;

/// The list of words.
const LIST: &str = "tools/testing/luo-vm/words";

/// A word and its replacement.
struct Word {
    pattern: Regex,
    instead: String,
}

/// Parses a list of words, one per line.
fn words(list: &str) -> Result<Vec<Word>> {
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (pattern, instead) = line
                .split_once('\t')
                .with_context(|| format!("{LIST}: no tab in {line:?}"))?;
            Ok(Word {
                pattern: RegexBuilder::new(&format!(r"\b(?:{pattern})\b"))
                    .case_insensitive(true)
                    .build()?,
                instead: instead.to_owned(),
            })
        })
        .collect()
}

/// The words of a line, without the marks of comments and of text that continues.
fn content(line: &str) -> &str {
    line.trim_matches(|c: char| c.is_whitespace() || "/!*#+\\".contains(c))
}

/// The findings in `text`, line by line. A finding of several words can continue in the next line.
fn find(words: &[Word], name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let line = content(line);
        let next = lines.peek().map_or("", |(_, next)| content(next));
        let both = format!("{line} {next}");
        for word in words {
            let mut hits = word.pattern.find_iter(&both);
            if let Some(hit) = hits.find(|hit| hit.start() < line.len()) {
                let (number, hit) = (number + 1, hit.as_str());
                found.push(format!("{name}:{number}: {hit:?}: {}", word.instead));
            }
        }
    }
    found
}

/// Checks comments, pages and messages for listed words.
pub fn run(ctx: &Ctx, report: &mut Report) {
    report.attempt("words of comments, pages and messages", check(ctx));
}

/// Searches the files of the checkout for the words.
fn check(ctx: &Ctx) -> Result<Option<String>> {
    let words = words(&fs::read_to_string(ctx.top.join(LIST))?)?;
    // Build results and hidden files are not checked.
    let enter = |dir: &Path| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && !["build", "target"].contains(&&*name)
    };
    let mut found = Vec::new();
    for path in files(&ctx.top, &enter)? {
        let name = path.to_string_lossy();
        if name == LIST || name.ends_with("Cargo.lock") {
            continue;
        }
        // Binary files are skipped.
        if let Ok(text) = fs::read_to_string(ctx.top.join(&path)) {
            found.extend(find(&words, &name, &text));
        }
    }
    Ok((!found.is_empty()).then(|| found.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found() -> Result<()> {
        let words = words("# a comment\nwho(?:so)?ever\tname the actor\nonce and again\tagain\n")?;
        let found = find(
            &words,
            "a.rs",
            "fine\n// Whosoever reads this\nwhoeverness\n/// Try it once\n/// and again.\n",
        );
        assert_eq!(
            found,
            [
                r#"a.rs:2: "Whosoever": name the actor"#,
                r#"a.rs:4: "once and again": again"#
            ]
        );
        assert!(super::words("no tab").is_err());
        Ok(())
    }
}
