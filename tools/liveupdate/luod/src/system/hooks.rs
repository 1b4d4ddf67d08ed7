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

/// The time for systemd to start the service, in addition to that of the hooks.
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
            Some(dir) => by_service(dir, input, hooks.len()),
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

fn by_service(dir: &Path, input: &Input, hooks: usize) -> io::Result<()> {
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
    let unit = format!("luod-hooks@{stage}.service");
    let Err(error) = systemctl_within(&["start", &unit], limit) else {
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
    use std::{os::unix::fs::symlink, time::Instant};

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
}
