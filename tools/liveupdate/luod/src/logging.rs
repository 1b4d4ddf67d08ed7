// SPDX-License-Identifier: GPL-2.0

//! Logging, to the journal or to standard error.
//!
//! If standard error is the journal, events are sent by the protocol of the journal, with their
//! fields: `SESSION=`, `UPDATE=`, `UID=`, `PID=` and, for those of the [audit
//! trail](crate::audit), `MESSAGE_ID=`. Otherwise they are lines. The level is written as a
//! prefix like `<6>` for the kernel log and other readers, but not on a terminal.

use rustix::fs::fstat;
use std::{env, fmt, io::IsTerminal};
use tracing::{field, level_filters::LevelFilter, Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    fmt::{
        format::{FormatEvent, FormatFields, Writer},
        FmtContext,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

struct Lines {
    prefix: bool,
}

/// Formats the message first and the fields after it.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Parts {
    fn add(&mut self, field: &field::Field, value: &str) {
        // Text of a client must not contain line breaks.
        let value = value.replace(|c: char| c.is_control(), " ");
        if field.name() == "message" {
            self.message = value;
        } else if field.name() != "message_id" {
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

/// Returns whether standard error is `stream`, the value of `$JOURNAL_STREAM`.
fn is_stderr(stream: &str) -> bool {
    let Ok(stat) = fstat(std::io::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The journal, if standard error is connected to it and it can be reached.
fn journal() -> Option<tracing_journald::Layer> {
    let stream = env::var("JOURNAL_STREAM").ok()?;
    let journal = is_stderr(&stream).then(tracing_journald::layer)?.ok()?;
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    Some(
        journal
            .with_syslog_identifier("luod".to_owned())
            .with_priority_mappings(priorities)
            // The fields have the documented names.
            .with_field_prefix(None),
    )
}

/// Starts to log events of `level` and above.
pub fn start(level: Level) {
    let journal = journal();
    let lines = journal.is_none().then(|| {
        let prefix = !std::io::stderr().is_terminal();
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .event_format(Lines { prefix })
    });
    tracing_subscriber::registry()
        .with(LevelFilter::from_level(level))
        .with(journal)
        .with(lines)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_is_recognized() {
        let stat = fstat(std::io::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        for other in ["", "1", "1:2", "x:y"] {
            assert!(!is_stderr(other), "{other}");
        }
    }
}
