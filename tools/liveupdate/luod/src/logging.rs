// SPDX-License-Identifier: GPL-2.0

//! Logging to standard error.
//!
//! The journal and the kernel log read the level from a prefix like `<6>`; people do not want it.

use std::{fmt, io::IsTerminal};
use tracing::{field, Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        format::{FormatEvent, FormatFields, Writer},
        FmtContext,
    },
    registry::LookupSpan,
};

struct Lines {
    prefix: bool,
}

/// Puts the message first and the fields after it.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Parts {
    fn add(&mut self, field: &field::Field, value: &str) {
        // What a client calls itself or says must not make lines of its own.
        let value = value.replace(|c: char| c.is_control(), " ");
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields = format!("{} {}={value}", self.fields, field.name());
        }
    }
}

impl field::Visit for Parts {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.add(field, value);
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.prefix {
            let number = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(writer, "<{number}>")?;
        } else {
            write!(writer, "luod: ")?;
        }
        let mut parts = Parts::default();
        event.record(&mut parts);
        writeln!(writer, "{}{}", parts.message, parts.fields)
    }
}

/// Starts to log what is at least as important as `level`.
pub fn start(level: Level) {
    let prefix = !std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .event_format(Lines { prefix })
        .init();
}
