// SPDX-License-Identifier: GPL-2.0

//! Parses KTAP, version 1, the output of kselftests and KUnit.

use std::sync::LazyLock;

use regex::Regex;

/// The result of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Passed,
    Failed,
    Skipped(String),
}

/// A test without subtests, or one that failed although its subtests passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The names from the outermost test to this one, joined by dots.
    pub name: String,
    pub status: Status,
    /// Its diagnostic lines.
    pub diagnostics: Vec<String>,
}

/// A parsed stream of KTAP.
#[derive(Debug, Default)]
pub struct Ktap {
    pub results: Vec<TestResult>,
    /// Violations of the plan.
    pub problems: Vec<String>,
}

struct Node {
    name: String,
    status: Status,
    diagnostics: Vec<String>,
    children: Vec<Node>,
}

static RESULT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(not )?ok (\d+)(?: -)?(?: ([^#]*?))?(?:\s*#\s*(.*))?$")
        .expect("a constant pattern")
});
static PLAN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^1\.\.(\d+)").expect("a constant pattern"));

/// One level of nesting while reading.
#[derive(Default)]
struct Level {
    done: Vec<Node>,
    diagnostics: Vec<String>,
    plan: Option<usize>,
}

/// Parses the lines of one boot; lines that are not KTAP are ignored.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Ktap {
    let mut out = Ktap::default();
    let mut levels: Vec<Level> = Vec::new();
    for line in lines {
        let text = line.trim_start_matches(' ');
        let depth = (line.len() - text.len()) / 4;
        if levels.len() <= depth {
            levels.resize_with(depth + 1, Level::default);
        }
        if let Some(plan) = PLAN.captures(text) {
            let planned = plan[1].parse().unwrap_or(0);
            *levels[depth].plan.get_or_insert(0) += planned;
        } else if let Some(result) = RESULT.captures(text) {
            let below = levels
                .get_mut(depth + 1)
                .map(std::mem::take)
                .unwrap_or_default();
            let directive = result.get(4).map_or("", |m| m.as_str());
            let status = match (result.get(1), directive.get(..4)) {
                (_, Some(word)) if word.eq_ignore_ascii_case("skip") => {
                    Status::Skipped(directive[4..].trim().to_owned())
                }
                (None, _) => Status::Passed,
                (Some(_), _) => Status::Failed,
            };
            let name = result.get(3).map_or("", |m| m.as_str()).trim();
            let name = if name.is_empty() {
                format!("test {}", &result[2])
            } else {
                name.into()
            };
            if let Some(plan) = below.plan.filter(|&plan| plan != below.done.len()) {
                out.problems.push(format!(
                    "{name} planned {plan} tests, ran {}",
                    below.done.len()
                ));
            }
            let diagnostics = std::mem::take(&mut levels[depth].diagnostics);
            let children = below.done;
            levels[depth].done.push(Node {
                name,
                status,
                diagnostics,
                children,
            });
        } else if let Some(comment) = text.strip_prefix('#') {
            levels[depth].diagnostics.push(comment.trim().to_owned());
        }
    }
    let Some(top) = levels.into_iter().next() else {
        return out;
    };
    match top.plan {
        Some(plan) if plan != top.done.len() => {
            out.problems
                .push(format!("planned {plan} tests, ran {}", top.done.len()));
        }
        None if !top.done.is_empty() => out.problems.push("there is no plan (1..N)".to_owned()),
        _ => {}
    }
    for node in top.done {
        flatten("", node, &mut out.results);
    }
    out
}

fn flatten(prefix: &str, node: Node, results: &mut Vec<TestResult>) {
    let name = format!("{prefix}{}", node.name);
    let explained = node
        .children
        .iter()
        .any(|child| child.status == Status::Failed);
    let leaf = node.children.is_empty() || (node.status == Status::Failed && !explained);
    let below = format!("{name}.");
    for child in node.children {
        flatten(&below, child, results);
    }
    if leaf {
        results.push(TestResult {
            name,
            status: node.status,
            diagnostics: node.diagnostics,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ktap: &Ktap) -> Vec<(&str, bool)> {
        ktap.results
            .iter()
            .map(|r| (r.name.as_str(), r.status == Status::Passed))
            .collect()
    }

    #[test]
    fn flat_results() {
        let ktap = parse([
            "TAP version 13",
            "1..3",
            "# why",
            "ok 1 a",
            "not ok 2 - b",
            "ok 3 c # SKIP no",
        ]);
        assert_eq!(names(&ktap), [("a", true), ("b", false), ("c", false)]);
        assert_eq!(ktap.results[0].diagnostics, ["why"]);
        assert_eq!(ktap.results[2].status, Status::Skipped("no".into()));
        assert!(ktap.problems.is_empty());
    }

    #[test]
    fn nested_results_count_once() {
        let ktap = parse([
            "KTAP version 1",
            "1..1",
            "    KTAP version 1",
            "    # Subtest: suite",
            "    1..2",
            "    ok 1 one",
            "    not ok 2 two",
            "not ok 1 suite",
        ]);
        assert_eq!(names(&ktap), [("suite.one", true), ("suite.two", false)]);
        assert!(ktap.problems.is_empty());
    }

    #[test]
    fn a_suite_that_fails_by_itself_is_a_result() {
        let ktap = parse(["1..1", "    1..1", "    ok 1 one", "not ok 1 suite"]);
        assert_eq!(names(&ktap), [("suite.one", true), ("suite", false)]);
    }

    #[test]
    fn broken_plans_are_problems() {
        assert_eq!(
            parse(["1..2", "ok 1 a"]).problems,
            ["planned 2 tests, ran 1"]
        );
        assert_eq!(parse(["ok 1 a"]).problems.len(), 1);
        let nested = parse(["1..1", "    1..2", "    ok 1 a", "ok 1 s"]);
        assert_eq!(nested.problems, ["s planned 2 tests, ran 1"]);
    }
}
