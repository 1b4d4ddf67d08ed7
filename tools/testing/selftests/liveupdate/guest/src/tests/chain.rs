// SPDX-License-Identifier: GPL-2.0

//! Consecutive updates.

use crate::support::{
    error::{ensure, Result},
    kernel_log::kernel_log,
    memfd,
    pattern::Pattern,
    registry::{Case, Part, Stage, Suite},
    sessions::{create, retrieve},
};
use std::fs::File;

/// The number of kernels after the first one.
const UPDATES: usize = 3;
const TOKEN: u64 = 42;

/// The data that each stage appends.
fn piece(stage: usize) -> Pattern {
    Pattern::new(200 + stage as u64, 300_000)
}

/// Retrieves the file of the previous stage, appends to it, and preserves it.
fn pass_on(stage: usize, context: &mut Stage<'_>) -> Result {
    let file = if stage == 1 {
        memfd::new()?
    } else {
        let session = retrieve(&format!("chain-{}", stage - 1))?;
        let file = File::from(session.retrieve(TOKEN)?);
        for earlier in 1..stage {
            let piece = piece(earlier);
            piece.check(&file, piece.len * (earlier as u64 - 1))?;
        }
        session.finish()?;
        file
    };
    let piece = piece(stage);
    piece.write(&file, piece.len * (stage as u64 - 1))?;
    if stage <= UPDATES {
        let session = create(&format!("chain-{stage}"))?;
        session.preserve(&file, TOKEN)?;
        context.hold((session, file));
    }
    Ok(())
}

/// The kernel counts the updates.
fn count(stage: usize) -> Result {
    let wanted = format!(
        "Retrieved live update data, liveupdate number: {}",
        stage - 1
    );
    ensure!(
        kernel_log()?.contains(&wanted),
        "the kernel log lacks: {wanted}"
    );
    Ok(())
}

pub fn suite() -> Suite {
    let parts = |part: fn(usize, &mut Stage<'_>) -> Result| -> Vec<Part> {
        (1..=UPDATES + 1)
            .map(|stage| -> Part { Box::new(move |context| part(stage, context)) })
            .collect()
    };
    let cases = vec![
        Case::with_parts("memfd_passed_on", parts(pass_on)),
        Case::with_parts(
            "updates_are_counted",
            parts(|stage, context| {
                if stage > 1 {
                    count(stage)?;
                    retrieve("chain-count")?.finish()?;
                }
                context.hold(create("chain-count")?);
                Ok(())
            }),
        ),
    ];
    Suite::new("chain", cases)
}
