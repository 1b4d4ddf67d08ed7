// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Outgoing and incoming sessions.

use crate::{
    error::Context,
    raw::{self, take_fd, Policy, Token},
    transport,
};
use std::{
    error::Error,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

/// The maximum length of the name of a session in bytes.
pub const NAME_MAX: usize = raw::NAME_LENGTH - 1;

/// A valid name: neither empty nor too long, and without null bytes.
pub(crate) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    pub(crate) fn new(name: &'a [u8]) -> io::Result<Self> {
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > NAME_MAX {
            "is too long"
        } else if name.contains(&0) {
            "contains a null byte"
        } else {
            return Ok(Self(name));
        };
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the session name '{}' {problem}", name.escape_ascii()),
        ))
    }

    /// The name in the format of the kernel.
    pub(crate) fn field(&self) -> [u8; raw::NAME_LENGTH] {
        let mut field = [0; raw::NAME_LENGTH];
        for (to, from) in field.iter_mut().zip(self.0) {
            *to = *from;
        }
        field
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Returns the name of the session `fd`, which can be an outgoing or an incoming one.
fn name(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut command = raw::GetName::default();
    transport::call(fd, &mut command).context(|| "get the name of a session".into())?;
    let name = command.name.split(|byte| *byte == 0).next();
    Ok(name.unwrap_or_default().to_vec())
}

/// A session that will be handed over to the next kernel.
///
/// When its last descriptor is closed, it ends and its files are not handed over: keep it open
/// until the kexec, or send it to a process that does.
#[derive(Debug)]
pub struct OutgoingSession {
    fd: OwnedFd,
    bytes: AtomicU64,
}

impl OutgoingSession {
    /// Preserves a file: the next kernel can retrieve it as `token`.
    ///
    /// Only the caller interprets tokens. The file can still be used, within limits that depend
    /// on its type; the contents at the time of the kexec are handed over.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the token is in use, `ENOENT` if the kernel cannot preserve this type of file,
    /// `EBUSY` if the file is preserved already, `EOPNOTSUPP` if it has a property that cannot be
    /// preserved; `EINVAL` if this is an incoming session.
    pub fn preserve(&self, file: impl AsFd, token: Token) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let mut command = raw::PreserveFd {
            size: 0,
            fd: file.as_fd().as_raw_fd(),
            token,
        };
        transport::call(self.as_fd(), &mut command)
            .context(|| format!("preserve a file with the token {token}"))?;
        let size = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size);
        let size = u64::try_from(size).unwrap_or_default();
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the size of all files that were preserved by [`Self::preserve`] of this object, in
    /// bytes. It is for statistics: files without a size, such as devices, count as 0.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Sets whether an update continues if a file of this session cannot be frozen. The default is
    /// [`Policy::Abort`].
    ///
    /// # Errors
    ///
    /// `ENOTTY` if the kernel does not support policies, and behaves as with [`Policy::Abort`];
    /// `EINVAL` if this is an incoming session.
    pub fn set_policy(&self, policy: Policy) -> io::Result<()> {
        let mut command = raw::SetPolicy {
            size: 0,
            policy: policy as u32,
        };
        transport::call(self.as_fd(), &mut command)
            .context(|| format!("set the policy {policy:?} of a session"))
    }

    /// Returns the session's name.
    ///
    /// # Errors
    ///
    /// `ENOTTY` if this is not a session.
    pub fn name(&self) -> io::Result<Vec<u8>> {
        name(self.as_fd())
    }
}

/// A session that the previous kernel handed over.
///
/// After it is closed without [`finish`](Self::finish), it can be retrieved again, with all of
/// its files.
#[derive(Debug)]
pub struct IncomingSession {
    fd: OwnedFd,
}

impl IncomingSession {
    /// Retrieves a file. Calling it again returns another descriptor of the same file.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such file, `EOPNOTSUPP` if this kernel has no support for it;
    /// `EINVAL` if this is an outgoing session.
    pub fn retrieve(&self, token: Token) -> io::Result<OwnedFd> {
        let mut command = raw::RetrieveFd {
            size: 0,
            fd: -1,
            token,
        };
        transport::call(self.as_fd(), &mut command)
            .map(|()| take_fd(command.fd))
            .context(|| format!("retrieve the file with the token {token}"))
    }

    /// Ends the session. Files that were not retrieved are lost.
    ///
    /// # Errors
    ///
    /// `EBUSY` if a file is not ready; the session stays open, and is part of the error.
    pub fn finish(self) -> Result<(), FinishError> {
        let mut command = raw::Finish::default();
        match transport::call(self.as_fd(), &mut command).context(|| "finish a session".into()) {
            Ok(()) => Ok(()),
            Err(source) => Err(FinishError {
                session: self,
                source,
            }),
        }
    }

    /// Returns the session's name.
    ///
    /// # Errors
    ///
    /// `ENOTTY` if this is not a session.
    pub fn name(&self) -> io::Result<Vec<u8>> {
        name(self.as_fd())
    }
}

/// A session that could not be finished.
#[derive(Debug)]
pub struct FinishError {
    session: IncomingSession,
    source: io::Error,
}

impl FinishError {
    /// Returns the session, to try again.
    pub fn into_session(self) -> IncomingSession {
        self.session
    }
}

impl fmt::Display for FinishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl Error for FinishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<FinishError> for io::Error {
    fn from(error: FinishError) -> Self {
        error.source
    }
}

macro_rules! is_a_descriptor {
    ($session:ident, $new:expr, $operations:literal) => {
        impl AsFd for $session {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.fd.as_fd()
            }
        }

        impl From<OwnedFd> for $session {
            /// Uses an existing descriptor, for example of a service manager.
            ///
            /// If it is not such a session, each operation
            #[doc = $operations]
            /// fails with `EINVAL` or `ENOTTY`.
            fn from(fd: OwnedFd) -> Self {
                $new(fd)
            }
        }

        impl From<$session> for OwnedFd {
            fn from(session: $session) -> Self {
                session.fd
            }
        }
    };
}

fn outgoing(fd: OwnedFd) -> OutgoingSession {
    let bytes = AtomicU64::new(0);
    OutgoingSession { fd, bytes }
}

fn incoming(fd: OwnedFd) -> IncomingSession {
    IncomingSession { fd }
}

is_a_descriptor!(OutgoingSession, outgoing, "[`preserve`](Self::preserve)");
is_a_descriptor!(IncomingSession, incoming, "[`retrieve`](Self::retrieve)");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(Name::new(b"").is_err());
        assert!(Name::new(b"a\0b").is_err());
        assert!(Name::new(&[b'a'; NAME_MAX + 1]).is_err());
        let field = Name::new(&[b'a'; NAME_MAX]).unwrap().field();
        assert_eq!(field[NAME_MAX - 1..], [b'a', 0]);
    }
}
