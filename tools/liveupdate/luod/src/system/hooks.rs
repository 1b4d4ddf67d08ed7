// SPDX-License-Identifier: GPL-2.0

//! Runs hooks outside of the sandbox of luod.
//!
//! The unit of luod permits it neither the network nor most capabilities, and its children inherit
//! that. Under systemd, `luod-hooks@.service` therefore runs the hooks: it calls `luod --run-hooks`.

use super::manager::systemctl_within;
use crate::hooks::{self, Input, Stage};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The time for systemd to stop a service that still runs, and to start it, in addition to that of
/// the hooks.
const SPARE: Duration = Duration::from_secs(12);

/// How hooks are run.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    /// The directory of the directories of hooks.
    pub(super) dir: PathBuf,
    /// The directory for the files of the service; without it, luod runs hooks itself.
    pub(super) service: Option<PathBuf>,
}

impl Runner {
    /// Runs the hooks of a stage, if there are any.
    pub(super) fn run(&self, input: &Input) -> io::Result<bool> {
        let hooks = hooks::find(&self.dir, input.stage).map_err(io::Error::other)?;
        let result = match &self.service {
            _ if hooks.is_empty() => return Ok(true),
            Some(dir) => by_service(dir, input, hooks.len(), systemctl_within),
            None => hooks::run(&self.dir, input).map_err(io::Error::other),
        };
        if let Err(error) = &result {
            if input.stage != Stage::Pre {
                tracing::error!(update = input.update, "{error}");
            }
        }
        result.map(|()| true)
    }
}

/// The service that runs the hooks of a stage.
fn unit(stage: Stage) -> String {
    format!("luod-hooks@{stage}.service")
}

fn by_service(
    dir: &Path,
    input: &Input,
    hooks: usize,
    systemctl: impl Fn(&[&str], Duration) -> io::Result<String>,
) -> io::Result<()> {
    let stage = input.stage;
    let file = |suffix| dir.join(format!("hooks-{stage}.{suffix}"));
    let (given, result) = (file("json"), file("result"));
    let cannot = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot write {}: {error}", given.display()),
        )
    };
    fs::write(&given, serde_json::to_vec(input)?).map_err(cannot)?;
    // It may not exist.
    let _ = fs::remove_file(&result);
    let each = Duration::from_millis(input.timeout_ms);
    let hooks = u32::try_from(hooks).unwrap_or(u32::MAX);
    let limit = each.saturating_mul(hooks).saturating_add(SPARE);
    if stage == Stage::Abort {
        // They must not do again what is being undone. luod may have been killed while they ran.
        if let Err(error) = systemctl(&["stop", &unit(Stage::Pre)], SPARE) {
            tracing::warn!(update = input.update, "{error}");
        }
    }
    // A service that is still running, for the same reason, has the input of another update: start
    // would only wait for it.
    let Err(error) = systemctl(&["restart", &unit(stage)], limit) else {
        return Ok(());
    };
    let said = fs::read_to_string(&result).unwrap_or_default();
    Err(match said.trim() {
        "" => error,
        said => io::Error::other(said.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, os::unix::fs::symlink, time::Instant};

    #[test]
    fn without_a_service() {
        let dir = std::env::temp_dir().join(format!("luod-runner-{}", std::process::id()));
        let runner = Runner {
            dir: dir.clone(),
            service: None,
        };
        let input = |stage| Input::new(stage, 1, String::new(), Duration::from_secs(600));
        let start = Instant::now();
        assert!(runner.run(&input(Stage::Pre)).unwrap());
        for (stage, program) in [("pre", "/bin/false"), ("post", "/bin/true")] {
            let dir = dir.join(format!("{stage}.d"));
            fs::create_dir_all(&dir).unwrap();
            symlink(program, dir.join("10")).unwrap();
        }
        let failed = runner.run(&input(Stage::Pre)).unwrap_err();
        let passed = runner.run(&input(Stage::Post));
        fs::remove_dir_all(&dir).unwrap();
        assert!(failed.to_string().contains("pre.d/10 failed"), "{failed}");
        assert!(passed.unwrap());
        assert!(start.elapsed() < Duration::from_secs(600));
    }

    /// luod was killed while hooks ran: a service that still runs has the input of another update.
    #[test]
    fn a_service_that_still_runs() {
        let dir = std::env::temp_dir().join(format!("luod-service-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (stage, expected) in [
            (Stage::Pre, &["restart luod-hooks@pre.service"][..]),
            (Stage::Post, &["restart luod-hooks@post.service"]),
            (
                Stage::Abort,
                &[
                    "stop luod-hooks@pre.service",
                    "restart luod-hooks@abort.service",
                ],
            ),
        ] {
            let result = dir.join(format!("hooks-{stage}.result"));
            for fails in [false, true] {
                let input = Input::new(stage, 2, String::new(), Duration::from_secs(600));
                fs::write(&result, "of the update before").unwrap();
                let calls = RefCell::new(Vec::new());
                let ran = by_service(&dir, &input, 1, |args, _| {
                    calls.borrow_mut().push(args.join(" "));
                    if args[0] == "restart" {
                        assert!(!result.exists());
                        let given = fs::read(dir.join(format!("hooks-{stage}.json"))).unwrap();
                        assert_eq!(serde_json::from_slice::<Input>(&given).unwrap(), input);
                        fs::write(&result, "the hook x failed\n").unwrap();
                    }
                    match fails {
                        false => Ok(String::new()),
                        true => Err(io::Error::other("systemctl failed")),
                    }
                });
                assert_eq!(*calls.borrow(), expected);
                let ran = ran.map_err(|error| error.to_string());
                let failed = Err("the hook x failed".to_owned());
                assert_eq!(ran, if fails { failed } else { Ok(()) });
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
