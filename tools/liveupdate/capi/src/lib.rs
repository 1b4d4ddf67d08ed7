// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The client library for C, `libliveupdate`.
//!
//! `cbindgen` writes `include/liveupdate.h` from the documentation and the signatures in these
//! files when cargo-c builds the library: `cargo capi build`.
//!
//! The functions borrow the descriptors of the caller and return new ones, as is usual in C.
//!
//! # Safety
//!
//! Pointers must be null, or valid as usual in C: strings end with a null byte, buffers have the
//! size that is passed with them, and a [`liveupdate_member`] is from [`liveupdate_join`] and was
//! not passed to [`liveupdate_leave`].

#![expect(
    clippy::missing_safety_doc,
    reason = "the documentation of functions becomes that of the header; see above"
)]

mod ffi;
mod member;
mod session;

pub use ffi::liveupdate_error;
pub use member::{
    liveupdate_join, liveupdate_leave, liveupdate_member, liveupdate_participant,
    liveupdate_poll_fd, liveupdate_poll_timeout, liveupdate_set_timeout, liveupdate_step,
};
pub use session::{
    liveupdate_create_session, liveupdate_finish, liveupdate_kind, liveupdate_open,
    liveupdate_preserve, liveupdate_retrieve, liveupdate_retrieve_session, liveupdate_session_kind,
    liveupdate_session_name, LIVEUPDATE_NAME_MAX,
};
