// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Verdicts, and the comparison of formats.

use crate::{Formats, Image, Needs};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// Whether a live update would work, from the best verdict to the worst. There will be no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All requirements are known to be met.
    Yes,
    /// All requirements that can be checked are met.
    Likely,
    /// The requirements cannot be checked.
    Unknown,
    /// It is known that data would be lost.
    No,
}

impl Verdict {
    /// The verdict as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Likely => "likely",
            Self::Unknown => "unknown",
            Self::No => "no",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The checked property.
    pub check: Cow<'static, str>,
    /// The result.
    pub verdict: Verdict,
    /// The reason and the solution.
    pub reason: String,
}

impl Finding {
    /// Creates a finding.
    pub fn new(check: &'static str, verdict: Verdict, reason: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict,
            reason: reason.into(),
        }
    }
}

/// The verdict of all findings together: [`Verdict::Unknown`] if there are none.
pub fn worst(findings: &[Finding]) -> Verdict {
    let verdicts = findings.iter().map(|finding| finding.verdict);
    verdicts.max().unwrap_or(Verdict::Unknown)
}

/// The name of a format without its version.
fn family(name: &str) -> &str {
    name.rsplit_once("-v").map_or(name, |(family, _)| family)
}

/// A format that only a module supports.
fn needs_module(name: &str) -> Finding {
    Finding::new(
        "formats",
        Verdict::Likely,
        format!(
            "a module that is installed for the image supports {name}: load it before files are \
             retrieved"
        ),
    )
}

/// Families of formats whose code cannot be in a module, so that their names are in the image.
const BUILT_IN: [&str; 5] = ["kho", "luo", "memfd", "hugetlb", "hugetlb-memfd"];

/// Checks whether the kernel of `image` supports the formats to be handed over.
pub fn check_formats(image: &Image, needs: &Needs) -> Vec<Finding> {
    const CHECK: &str = "formats";
    let mut findings = Vec::new();
    match &image.formats {
        Formats::Unreadable(why) => {
            findings.push(Finding::new(CHECK, Verdict::Unknown, why.as_str()));
        }
        Formats::List(known) => {
            let of_module = |name: &&String| image.modules.contains(name);
            let others = needs.in_use.iter().filter(|name| !known.contains(*name));
            let (of_modules, others): (Vec<_>, Vec<_>) = others.partition(of_module);
            for name in others {
                let family = family(name);
                findings.push(match image.features.get(family) {
                    None => Finding::new(
                        CHECK,
                        Verdict::No,
                        format!(
                            "the image does not support {name}: data in this format would be lost"
                        ),
                    ),
                    Some(features) => Finding::new(
                        CHECK,
                        Verdict::Unknown,
                        format!(
                            "the image has features of {family} ({:#x}) instead of versions: \
                             it is not known whether it supports {name}",
                            features.supported
                        ),
                    ),
                });
            }
            if findings.is_empty() {
                findings.push(Finding::new(
                    CHECK,
                    if needs.complete {
                        Verdict::Yes
                    } else {
                        Verdict::Likely
                    },
                    match (needs.complete, of_modules.is_empty()) {
                        (true, true) => {
                            "the list in the image has all formats that would be handed over now"
                        }
                        (true, false) => {
                            "the list in the image has all other formats that would be handed over \
                             now"
                        }
                        (false, _) => {
                            "the list in the image has all usual formats, but this kernel \
                             does not report which ones are in use"
                        }
                    },
                ));
            }
            findings.extend(of_modules.into_iter().map(|name| needs_module(name)));
            let possible = needs.possible.difference(&needs.in_use);
            for name in possible.filter(|name| !known.contains(*name) && !of_module(name)) {
                findings.push(Finding::new(
                    CHECK,
                    Verdict::Likely,
                    format!(
                        "the image does not support {name}, which is not in use now: check \
                         again when all files are preserved"
                    ),
                ));
            }
        }
        Formats::Strings(found) => {
            for name in &needs.in_use {
                if found.contains(name) {
                    continue;
                }
                if image.modules.contains(name) {
                    findings.push(needs_module(name));
                    continue;
                }
                let of_family = |other: &&String| family(other) == family(name);
                let (verdict, reason) = match found.iter().find(of_family) {
                    Some(other) => (
                        Verdict::No,
                        format!("the image has {other} where {name} would be handed over"),
                    ),
                    None if BUILT_IN.contains(&family(name)) => (
                        Verdict::No,
                        format!("there is no {name} in the image: it cannot take over data in this format"),
                    ),
                    None => (
                        Verdict::Unknown,
                        format!("the image has no list of formats; it is not known whether it supports {name}"),
                    ),
                };
                findings.push(Finding::new(CHECK, verdict, reason));
            }
            if findings.is_empty() {
                findings.push(Finding::new(
                    CHECK,
                    Verdict::Likely,
                    "the image has no list of formats, but their names are in it",
                ));
            }
        }
    }
    if let Some(why) = &image.unverified {
        findings.push(Finding::new("checksum", Verdict::Likely, why.as_str()));
    }
    for (setting, what) in [
        ("KEXEC_HANDOVER", "memory"),
        ("LIVEUPDATE", "sessions"),
        ("LIVEUPDATE_MEMFD", "memfds"),
    ] {
        if image.setting(setting) == Some("n") {
            findings.push(Finding::new(
                "configuration",
                Verdict::No,
                format!("CONFIG_{setting} is not set in the image: it cannot take over {what}"),
            ));
        }
    }
    findings
}
