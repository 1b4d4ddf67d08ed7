// SPDX-License-Identifier: GPL-2.0

/*
 * The tracepoints. They are called in Rust, in trace/ops.rs.
 */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include <trace/events/liveupdate.h>
