// SPDX-License-Identifier: GPL-2.0

//! The state of each client in the running update.

use liveupdate::OutgoingSession;
use luod_protocol::Stamp;

/// The state of a subscribed session in the running update.
#[derive(Debug)]
pub(super) enum Part {
    /// There is no update.
    None,
    /// The client was asked; the session is not created yet.
    Requested { asked: Stamp, deadline: u64 },
    /// The client has the session.
    Preserving {
        asked: Stamp,
        deadline: u64,
        session: OutgoingSession,
        pause: Pause,
    },
    /// The client is ready.
    Ready {
        /// It is only kept open.
        session: OutgoingSession,
        ready: Stamp,
        preserve_us: u64,
        /// The size of its files.
        bytes: Option<u64>,
    },
    /// The update continues without it.
    Dropped,
}

/// Whether a client that preserves its files stops its work only when it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// The client has not sent PRESERVED.
    No,
    /// The client still works, and waits for PAUSE.
    Waits,
    /// luod has sent PAUSE.
    Told,
}

impl Part {
    /// The deadline of the client. A client that waits for luod has none.
    pub(super) fn deadline(&self) -> Option<u64> {
        match self {
            Self::Preserving {
                pause: Pause::Waits,
                ..
            } => None,
            Self::Requested { deadline, .. } | Self::Preserving { deadline, .. } => Some(*deadline),
            Self::None | Self::Ready { .. } | Self::Dropped => None,
        }
    }

    /// Whether the client was asked, and is not ready, or waits until it may stop its work.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Requested { .. } | Self::Preserving { .. })
    }
}
