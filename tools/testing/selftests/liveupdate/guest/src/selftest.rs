// SPDX-License-Identifier: GPL-2.0

//! Runs tests, in all kernels that they need.

use crate::{
    support::{
        args::Args,
        error::{Failure, Result},
        json, kexec,
        registry::{Case, Last, Stage, Suite},
        state,
    },
    tests,
};
use std::{
    any::Any,
    io::{self, Write},
    panic,
};

/// The result of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Failed,
    Skipped,
}

/// A case of this run, and its result so far.
struct Entry {
    case: Case,
    /// The name, with the name of the suite.
    name: String,
    verdict: Verdict,
    why: String,
}

const VERDICTS: &str = "verdicts";

impl Entry {
    fn new(suite: &Suite, case: Case) -> Self {
        Self {
            name: format!("{}.{}", suite.name, case.name),
            case,
            verdict: Verdict::Good,
            why: String::new(),
        }
    }

    fn end(&mut self, failure: &Failure) {
        self.verdict = if failure.is_skip() {
            Verdict::Skipped
        } else {
            Verdict::Failed
        };
        self.why = failure.to_string().replace(['\n', '#'], " ");
    }

    /// Runs the part for this kernel, unless the case has ended before.
    fn run(&mut self, stage: usize, held: &mut Vec<Box<dyn Any>>, last: &mut Vec<Last>) {
        let Some(part) = self.case.parts.get(stage - 1) else {
            return;
        };
        if self.verdict != Verdict::Good {
            return;
        }
        let mut context = Stage::new(&self.name, held, last);
        // A panic in a test must not end process 1.
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| part(&mut context)));
        let result = result.unwrap_or_else(|_| Err(Failure::new("the test has panicked")));
        if let Err(failure) = result {
            self.end(&failure);
            let word = if failure.is_skip() {
                "skipped"
            } else {
                "failed"
            };
            println!("# {} {word} in stage {stage}: {failure}", self.name);
        }
    }

    fn remember(&self) -> Result {
        let verdict = match self.verdict {
            Verdict::Good => "good",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
        };
        state::put(VERDICTS, &self.name, &format!("{verdict} {}", self.why))
    }

    fn recall(&mut self) -> Result {
        let text = state::get(VERDICTS, &self.name)?;
        let (verdict, why) = text.split_once(' ').unwrap_or_default();
        self.verdict = match verdict {
            "good" => Verdict::Good,
            "skipped" => Verdict::Skipped,
            _ => Verdict::Failed,
        };
        self.why = why.into();
        Ok(())
    }

    fn result(&self, number: usize) -> String {
        let name = &self.case.name;
        match self.verdict {
            Verdict::Good => format!("ok {number} {name}"),
            Verdict::Failed => format!("not ok {number} {name}"),
            Verdict::Skipped => format!("ok {number} {name} # SKIP {}", self.why),
        }
    }
}

/// A suite of this run.
struct Chosen {
    name: &'static str,
    stages: usize,
    entries: Vec<Entry>,
}

impl Chosen {
    fn new(mut suite: Suite, words: &[String]) -> Option<Self> {
        let named = words.iter().any(|w| *w == suite.name || *w == suite.group);
        // Without names, the suites that need no kernel parameters.
        let whole = named || (words.is_empty() && suite.cmdline.is_empty());
        let cases = std::mem::take(&mut suite.cases).into_iter();
        let entries: Vec<_> = cases
            .map(|case| Entry::new(&suite, case))
            .filter(|entry| whole || words.contains(&entry.name))
            .collect();
        let stages = entries.iter().map(|entry| entry.case.parts.len()).max()?;
        Some(Self {
            name: suite.name,
            stages,
            entries,
        })
    }

    fn print(&self, number: usize) -> bool {
        println!("    KTAP version 1\n    1..{}", self.entries.len());
        for (number, entry) in self.entries.iter().enumerate() {
            if entry.verdict == Verdict::Failed {
                println!("    # {}: {}", entry.name, entry.why);
            }
            println!("    {}", entry.result(number + 1));
        }
        let good = !self.entries.iter().any(|e| e.verdict == Verdict::Failed);
        println!(
            "{}ok {number} {}",
            if good { "" } else { "not " },
            self.name
        );
        good
    }
}

fn entries(chosen: &mut [Chosen]) -> impl Iterator<Item = &mut Entry> {
    chosen.iter_mut().flat_map(|suite| &mut suite.entries)
}

/// Starts the next kernel. Returns if this fails.
fn next_stage(args: &Args, chosen: &mut [Chosen], stage: usize, last: Vec<Last>) -> Failure {
    let go = || -> Result {
        for entry in entries(chosen) {
            entry.remember()?;
        }
        kexec::Plan::stage(args, stage)?.load()?;
        println!("# stage {stage}: starting the next kernel");
        let _ = io::stdout().flush();
        for act in last {
            act()?;
        }
        Err(kexec::jump())
    };
    match go() {
        Err(failure) => failure,
        Ok(()) => Failure::new("the next kernel did not start"),
    }
}

/// Runs the named suites, groups or cases, or all suites.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()?;
    let words = args.rest();
    let mut chosen: Vec<_> = tests::all()
        .into_iter()
        .filter_map(|suite| Chosen::new(suite, words))
        .collect();
    let stages = chosen.iter().map(|suite| suite.stages).max().unwrap_or(0);
    if stages == 0 || stage == 0 {
        return Err(Failure::new("there is no such test"));
    }
    println!("# stage {stage} of {stages}");
    if stage > 1 {
        for entry in entries(&mut chosen) {
            entry.recall().unwrap_or_else(|failure| entry.end(&failure));
        }
    }

    let mut held = Vec::new();
    let mut last = Vec::new();
    for entry in entries(&mut chosen) {
        entry.run(stage, &mut held, &mut last);
    }
    if stage < stages {
        let failure = next_stage(args, &mut chosen, stage + 1, last);
        println!("# {failure}");
        let unfinished = entries(&mut chosen)
            .filter(|entry| entry.verdict == Verdict::Good && entry.case.parts.len() > stage);
        for entry in unfinished {
            entry.end(&failure);
        }
    }
    drop(held);

    println!("KTAP version 1\n1..{}", chosen.len());
    let mut good = true;
    for (number, suite) in chosen.iter().enumerate() {
        good &= suite.print(number + 1);
    }
    Ok(u8::from(!good))
}

/// Prints the suites as JSON, with their cases about faults of C.
pub fn list() {
    let case = |case: &Case| {
        let hazard = case.hazard.as_ref()?;
        let items: Vec<_> = hazard.items.iter().map(|item| json::string(item)).collect();
        Some(format!(
            "\n    {{\"name\": {}, \"kexecs\": {}, \"reader_only\": {}, \"unseen\": {}, \"items\": [{}]}}",
            json::string(&case.name),
            case.parts.len().saturating_sub(1),
            case.reader_only,
            hazard.unseen.map_or("null".into(), json::string),
            items.join(", ")
        ))
    };
    let suites: Vec<_> = tests::all()
        .iter()
        .map(|suite| {
            let cases: Vec<_> = suite.cases.iter().filter_map(case).collect();
            format!(
                "  {{\"name\": {}, \"group\": {}, \"kexecs\": {}, \"cmdline\": {}, \"hazards\": [{}]}}",
                json::string(suite.name),
                json::string(suite.group),
                suite.stages().saturating_sub(1),
                json::string(suite.cmdline),
                cases.join(",")
            )
        })
        .collect();
    println!("[\n{}\n]", suites.join(",\n"));
}
