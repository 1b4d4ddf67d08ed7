// SPDX-License-Identifier: GPL-2.0

//! `liveupdate/sessions` in debugfs: all sessions, open or not.

use crate::luo_core::Luo;
use kernel::{
    debugfs::{
        Dir,
        File,
        Writer, //
    },
    fmt,
    prelude::*,
    sync::SetOnce, //
};

/// The contents of `liveupdate/sessions`.
struct Sessions(&'static Luo);

impl Writer for Sessions {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sealed = self.0.context.gate.is_sealed();
        // A report must not wait for a handler, and therefore not for a list while a
        // kexec is prepared. Sessions that are locked now are shown at the next read.
        let Some(outgoing) = self.0.outgoing.try_read() else {
            return writeln!(f, "luo-busy:\tpreparing a live update");
        };
        for session in outgoing.iter() {
            session.report(sealed, f)?;
        }
        drop(outgoing);

        if let Some(_mutating) = self.0.context.gate.try_mutate() {
            if let Some(mut incoming) = self.0.incoming.try_write() {
                let _ = incoming.load();
            }
        }
        let Some(incoming) = self.0.incoming.try_read() else {
            return writeln!(f, "luo-busy:\tlooking for sessions of the previous kernel");
        };
        for session in incoming.iter() {
            session.report(f)?;
        }
        Ok(())
    }
}

/// The directory and its file, which are never removed.
struct Tree {
    _dir: Dir,
    _sessions: Pin<KBox<File<Sessions>>>,
}

static TREE: SetOnce<Tree> = SetOnce::new();

/// Creates the files. Without debugfs, this does nothing.
pub(crate) fn init(luo: &'static Luo) -> Result {
    let dir = Dir::new(c"liveupdate");
    let sessions = KBox::pin_init(
        dir.read_only_file(c"sessions", Ok::<_, Error>(Sessions(luo))),
        GFP_KERNEL,
    )?;
    #[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
    crate::damage::init(&dir)?;
    TREE.populate(Tree {
        _dir: dir,
        _sessions: sessions,
    });
    Ok(())
}
