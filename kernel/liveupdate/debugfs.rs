// SPDX-License-Identifier: GPL-2.0

//! `liveupdate/sessions` in debugfs: all sessions, whether or not somebody has them open.

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
        let sealed = self.0.gate.is_sealed();
        for session in self.0.outgoing.read().iter() {
            session.report(sealed, f)?;
        }
        let mut incoming = self.0.incoming.write();
        // What there was no memory for is shown the next time.
        let _ = incoming.load();
        for session in incoming.iter() {
            session.report(f)?;
        }
        Ok(())
    }
}

/// The directory and its file; they stay for ever.
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
