// SPDX-License-Identifier: GPL-2.0

//! The audit trail: identifiers of important events.
//!
//! Events about an action have one of these in the field `message_id`, which is `MESSAGE_ID=` in
//! the journal, in addition to `SESSION=`, `UPDATE=`, `UID=` and `PID=`.
//! `Documentation/admin-guide/liveupdate/operation.rst` has the list. The meaning of these
//! numbers must not change.

use crate::config::Credentials;
use luod_protocol::Request;

/// Returns a text that names the user and the process of an action.
pub(crate) fn by(who: Option<Credentials>) -> String {
    who.map_or(String::new(), |who| {
        format!(" by the user {}, process {}", who.uid, who.pid)
    })
}

/// A request of an operator that concerns an update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    id: &'static str,
    what: &'static str,
    force: bool,
    dry_run: bool,
}

impl Asked {
    /// Recognizes such a request. Requests about single sessions are logged at the end of the
    /// session.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let (id, what, force, dry_run) = match request {
            Request::Update {
                force: true,
                dry_run,
                ..
            } => (UPDATE, "a forced update is started", true, *dry_run),
            Request::Update { dry_run: true, .. } => (UPDATE, "a dry run is started", false, true),
            Request::Update { .. } => (UPDATE, "an update is started", false, false),
            Request::Handover => (HANDOVER, "a handover is asked for", true, false),
            Request::Abort => (ABORT, "the update is aborted", false, false),
            _ => return None,
        };
        Some(Self {
            id,
            what,
            force,
            dry_run,
        })
    }

    /// Logs that the request is carried out.
    pub(crate) fn log(self, who: Credentials, update: u64) {
        let Self { id, what, .. } = self;
        tracing::info!(
            message_id = id,
            update,
            uid = who.uid,
            pid = who.pid,
            force = self.force,
            dry_run = self.dry_run,
            "{what}{}",
            by(Some(who))
        );
    }
}

/// An operator has started an update.
pub const UPDATE: &str = "64ccd9997555488cb80c00b8fb5748af";
/// A handover to the next kernel of the service manager was requested.
pub const HANDOVER: &str = "53f81f912b5b48e1a98b80ec25f524d2";
/// An operator has aborted an update.
pub const ABORT: &str = "a417f4b5965a4775b6cf2bf03e561014";
/// An update was aborted, for any reason.
pub const ABORTED: &str = "111341a101f6420095e68a77d55c7897";
/// The next kernel is being started.
pub const JUMP: &str = "45ccb76ab7ba4705bc780206361e70b3";
/// This kernel was started by an update.
pub const UPDATED: &str = "912d5537175a4066bd14dfc79672ea20";
/// An update continues without a session, whose contents are lost.
pub const DROPPED: &str = "8ee4f1e3081b45dfb484e556ea0ebde3";
/// No client has claimed a session in time.
pub const UNCLAIMED: &str = "27c1db32a0a04e0f9a16ee07f0ba5ba6";
/// A client has claimed a session.
pub const CLAIMED: &str = "025424a373024c8db2a3c52b923ebe00";
/// A session is finished: its client has retrieved all files.
pub const FINISHED: &str = "6f982cebfb4441a3a18d17086d81a697";
/// A session is discarded: its contents are lost.
pub const DISCARDED: &str = "ce273fd2ffa54ff6ad8a3e0c1afd3a3a";
/// luod could not read the sessions of the previous kernel.
pub const UNKNOWN: &str = "78fc2eecb1314aff8432477a97633fe6";
/// luod has read these sessions.
pub const KNOWN: &str = "8b3745f669fe4a148b619d0ef0fc132f";
/// These sessions were given up.
pub const FORGOTTEN: &str = "aea4d3f7e7b54854bbb5dec7c7f5f3d9";
