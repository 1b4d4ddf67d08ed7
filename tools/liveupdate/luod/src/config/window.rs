// SPDX-License-Identifier: GPL-2.0

//! Maintenance windows.

use std::{fmt, str::FromStr};

const MINUTE_US: u64 = 60_000_000;
const DAY: u32 = 24 * 60;

/// The names of days, from Monday.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A time of some days of the week in which updates may start, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The days on which it begins: the lowest bit is Monday.
    days: u8,
    /// The first minute of the day.
    from: u32,
    /// Its length in minutes, at most a day.
    length: u32,
}

impl Window {
    /// Returns whether it contains a time, in microseconds since 1970 (`CLOCK_REALTIME`).
    pub fn contains(&self, realtime_us: u64) -> bool {
        let minutes = realtime_us / MINUTE_US;
        let day = minutes / u64::from(DAY);
        let minute = u32::try_from(minutes % u64::from(DAY)).unwrap_or_default();
        // The first day of 1970 was a Thursday. Windows that began the day before can last.
        let weekday = u32::try_from((day + 3) % 7).unwrap_or_default();
        let begins = |weekday: u32| self.days & (1 << weekday) != 0;
        let end = self.from + self.length;
        (begins(weekday) && (self.from..end).contains(&minute))
            || (begins((weekday + 6) % 7) && (self.from..end).contains(&(minute + DAY)))
    }
}

fn time(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY).then_some(minute)
}

fn day(text: &str) -> Option<usize> {
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(text))
}

/// Days like `Sat,Sun` or `Mon-Fri`.
fn days(text: &str) -> Option<u8> {
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        loop {
            days |= 1 << at;
            if at == last {
                break;
            }
            at = (at + 1) % DAYS.len();
        }
    }
    Some(days)
}

/// The expected format.
#[derive(Debug)]
pub struct BadWindow;

impl fmt::Display for BadWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write a window like \"Sat,Sun 22:00-06:00\" or \"02:00-04:00\", in UTC")
    }
}

impl FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let mut words = text.split_ascii_whitespace();
        let last = words.next_back().ok_or(BadWindow)?;
        let days = match (words.next(), words.next()) {
            (None, _) => Some(0x7f),
            (Some(text), None) => days(text),
            _ => None,
        };
        let (from, to) = last.split_once('-').ok_or(BadWindow)?;
        let (from, to) = (time(from).ok_or(BadWindow)?, time(to).ok_or(BadWindow)?);
        if from == DAY || from == to {
            return Err(BadWindow);
        }
        Ok(Self {
            days: days.ok_or(BadWindow)?,
            from,
            length: if from < to {
                to - from
            } else {
                to + DAY - from
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time on a day of the week from Monday, 1970-01-05.
    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        (((day + 4) * 24 + hour) * 60 + minute) * MINUTE_US
    }

    #[test]
    fn times() {
        let window: Window = "Sat,sun 22:00-06:00".parse().unwrap();
        for (day, hour, minute, inside) in [
            (5, 21, 59, false),
            (5, 22, 0, true),
            (6, 5, 59, true),
            (6, 6, 0, false),
            (6, 23, 0, true),
            // Monday, in the window that began on Sunday.
            (0, 5, 59, true),
            (0, 6, 0, false),
            (1, 5, 0, false),
            (0, 22, 0, false),
        ] {
            let seen = window.contains(at(day, hour, minute));
            assert_eq!(seen, inside, "{day} {hour}:{minute}");
        }
        let window: Window = "Fri-Mon 02:00-24:00".parse().unwrap();
        for day in 0..7 {
            let inside = matches!(day, 4 | 5 | 6 | 0);
            assert_eq!(window.contains(at(day, 23, 59)), inside, "{day}");
            assert!(!window.contains(at(day, 1, 59)));
        }
        let window: Window = "00:00-24:00".parse().unwrap();
        assert!((0..7).all(|day| window.contains(at(day, 12, 0))));
        // 2026-11-29 was a Sunday.
        let sunday: Window = "Sun 18:00-20:00".parse().unwrap();
        assert!(sunday.contains(1_795_978_800 * 1_000_000));
    }

    #[test]
    fn mistakes() {
        for text in [
            "",
            "Sat",
            "22:00",
            "22:00-22:00",
            "24:00-01:00",
            "22:60-23:00",
            "2:00-3:00",
            "+2:00-03:00",
            "25:00-26:00",
            "Sat, Sun 22:00-23:00",
            "Foo 22:00-23:00",
            "Mon- 22:00-23:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }
}
