// SPDX-License-Identifier: GPL-2.0

//! The group `docs`: what `make htmldocs` and `make docs` do.

use anyhow::Result;

use crate::commands::{docs, pages};
use crate::ctx::Ctx;
use crate::report::results::Report;

/// Runs the group.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let warned = |clean: bool| {
        let log = ctx.shown(&ctx.log("htmldocs"));
        (!clean).then(|| format!("Sphinx or kernel-doc warns, see {log}"))
    };
    report.attempt("the pages have no warning", pages::html(ctx).map(warned));
    report.attempt(
        "rustdoc, man pages and completions are written",
        docs::write(ctx).map(|()| None),
    );
    Ok(())
}
