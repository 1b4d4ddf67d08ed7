// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The command line of the next kernel.

use crate::{Finding, Image, Verdict};

/// Splits a command line like the kernel: at spaces that are not between quotation marks, which the
/// words still have.
fn split(cmdline: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let space = move |c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    };
    cmdline.split(space).filter(|word| !word.is_empty())
}

/// The words for the kernel, without quotation marks; text after `--` is for init.
fn words(cmdline: &str) -> Vec<String> {
    let words = split(cmdline).map(|word| word.replace('"', ""));
    words.take_while(|word| word != "--").collect()
}

/// A command line without the parameters of some names. What is for init is kept.
///
/// ```
/// use luo_check::cmdline::without;
///
/// let cmdline = "BOOT_IMAGE=/vmlinuz-7.3.4 ro quiet -- BOOT_IMAGE=x";
/// assert_eq!(without(cmdline, &["BOOT_IMAGE"]), "ro quiet -- BOOT_IMAGE=x");
/// ```
pub fn without(cmdline: &str, names: &[&str]) -> String {
    retain(cmdline, |word| {
        let name = word.split('=').next().unwrap_or_default();
        !names.contains(&name.trim_start_matches('"'))
    })
}

/// A command line with the words for the kernel that `keep` accepts, and with those for init.
fn retain(cmdline: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut for_kernel = true;
    let kept = split(cmdline).filter(|word| {
        for_kernel &= *word != "--";
        !for_kernel || keep(word)
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// The words for the kernel, unchanged.
fn of_kernel(cmdline: &str) -> impl Iterator<Item = &str> {
    split(cmdline).take_while(|word| *word != "--")
}

/// The command line with further parameters for the kernel.
///
/// ```
/// assert_eq!(luo_check::cmdline::with("ro -- single", "a=1 b"), "ro a=1 b -- single");
/// ```
pub fn with(cmdline: &str, parameters: &str) -> String {
    let mut words: Vec<&str> = split(cmdline).collect();
    let end = words.iter().position(|word| *word == "--");
    words.insert(end.unwrap_or(words.len()), parameters);
    words.join(" ")
}

/// Returns whether a word is the `reserve_mem=` of this name.
fn reserves(word: &str, name: &str) -> bool {
    let memory = word.strip_prefix("reserve_mem=");
    memory.is_some_and(|memory| memory.rsplit(':').next() == Some(name))
}

/// The parameters with which a kernel keeps its log for the next one: ramoops in memory of a name.
///
/// Kexec Handover preserves that memory if both kernels have the same `reserve_mem=`.
fn log_parameters(cmdline: &str) -> Option<String> {
    let name = value(cmdline, "ramoops.mem_name")?;
    let wanted =
        of_kernel(cmdline).filter(|word| reserves(word, &name) || word.starts_with("ramoops."));
    Some(wanted.collect::<Vec<_>>().join(" "))
}

/// `trace_instance=`: a buffer for events.
struct Instance<'a> {
    name: &'a str,
    /// The name of the memory of the buffer.
    memory: Option<&'a str>,
    /// The buffer of which this one is a copy.
    copy_of: Option<&'a str>,
}

impl<'a> Instance<'a> {
    fn parse(word: &'a str) -> Option<Self> {
        let buffer = word.strip_prefix("trace_instance=")?;
        // Events come after a comma, flags after a circumflex.
        let buffer = buffer.split(',').next()?;
        let (buffer, copy_of) = match buffer.split_once('=') {
            Some((buffer, original)) => (buffer, Some(original)),
            None => (buffer, None),
        };
        let memory = buffer
            .split_once('@')
            .and_then(|(_, memory)| memory.split('^').next());
        Some(Self {
            name: buffer.split(['@', '^']).next()?,
            // Memory at an address is not that of a name.
            memory: memory.filter(|name| !name.starts_with(|c: char| c.is_ascii_digit())),
            copy_of,
        })
    }
}

/// The parameters with which a kernel keeps events for the next one: buffers in memory of a name, and
/// copies of what they had at boot. [`None`] if there is no such buffer.
fn trace_parameters(cmdline: &str) -> Option<String> {
    let instances = || of_kernel(cmdline).filter_map(Instance::parse);
    let kept = |instance: &Instance<'_>| match instance.copy_of {
        Some(original) => instances().any(|i| i.memory.is_some() && i.name == original),
        None => instance.memory.is_some(),
    };
    let wanted = of_kernel(cmdline).filter(|word| match Instance::parse(word) {
        Some(instance) => kept(&instance),
        None => instances().any(|i| i.memory.is_some_and(|memory| reserves(word, memory))),
    });
    let wanted: Vec<_> = wanted.collect();
    (!wanted.is_empty()).then(|| wanted.join(" "))
}

/// The command line `next` with the parameters with which the next kernel can read the log and the
/// events of a kernel that was started with `running`.
///
/// Nothing is added for what the running kernel does not keep, and for what `next` keeps itself in the
/// same memory, or without `reserve_mem=`. Parameters with other memory than the running kernel has are
/// replaced or removed: only a kernel that is started without Kexec Handover can reserve it. If it cannot be
/// preserved, Kexec Handover preserves the memory of no `reserve_mem=`.
///
/// ```
/// use luo_check::cmdline::with_log;
///
/// let running = "ro reserve_mem=1M:4096:log ramoops.mem_name=log";
/// assert_eq!(with_log("rw", running), "rw reserve_mem=1M:4096:log ramoops.mem_name=log");
/// ```
pub fn with_log(next: &str, running: &str) -> String {
    let kept = [log_parameters, trace_parameters];
    let is_reserved = |word: &str| {
        !word.starts_with("reserve_mem=") || of_kernel(running).any(|reserved| reserved == word)
    };
    let adapt = |next: String, kept: fn(&str) -> Option<String>| {
        let next = match kept(&next) {
            Some(own) if split(&own).all(is_reserved) => return next,
            Some(own) => retain(&next, |word| split(&own).all(|other| other != word)),
            None => next,
        };
        match kept(running) {
            Some(parameters) => with(&next, &parameters),
            None => next,
        }
    };
    kept.into_iter().fold(next.to_owned(), adapt)
}

/// Returns whether a kernel with this command line keeps events for the next one.
pub fn keeps_events(cmdline: &str) -> bool {
    trace_parameters(cmdline).is_some()
}

/// `kstrtobool()` of the kernel.
fn parse_bool(value: &str) -> Option<bool> {
    let mut chars = value.bytes().map(|byte| byte.to_ascii_lowercase());
    match (chars.next(), chars.next()) {
        (Some(b'e' | b'y' | b't' | b'1'), _) => Some(true),
        (Some(b'd' | b'n' | b'f' | b'0'), _) => Some(false),
        (Some(b'o'), Some(b'n')) => Some(true),
        (Some(b'o'), Some(b'f')) => Some(false),
        _ => None,
    }
}

/// The last value of a parameter that the kernel accepts. It ignores other values.
pub fn switch(cmdline: &str, name: &str) -> Option<bool> {
    words(cmdline)
        .iter()
        .filter_map(|word| {
            let (key, value) = word.split_once('=')?;
            (key == name).then(|| parse_bool(value))?
        })
        .last()
}

/// The last value of a parameter, unparsed.
pub fn value(cmdline: &str, name: &str) -> Option<String> {
    let words = words(cmdline);
    let values = words.iter().filter_map(|word| {
        let (key, value) = word.split_once('=')?;
        (key == name).then(|| value.to_owned())
    });
    values.last()
}

/// The size of the scratch area for the next kernel: the value of `kho_scratch=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scratch {
    /// In percent of the memory that the running kernel has allocated during boot.
    Percent(u32),
    /// In bytes: below 4 GiB, anywhere, and on each node.
    Bytes([u64; 3]),
}

impl Scratch {
    /// Parses a value like the kernel; [`None`] if the kernel ignores it.
    pub fn parse(value: &str) -> Option<Self> {
        if let Some(percent) = value.strip_suffix('%') {
            return percent.parse().ok().map(Self::Percent);
        }
        let sizes: Option<Vec<u64>> = value.split(',').map(size).collect();
        let sizes: [u64; 3] = sizes?.try_into().ok()?;
        (sizes != [0; 3]).then_some(Self::Bytes(sizes))
    }

    /// The value in a command line. Linux 7.4 renames `kho_scratch=` to `kho_bootmem=`.
    pub fn of_cmdline(cmdline: &str) -> Option<Self> {
        let value = value(cmdline, "kho_bootmem").or_else(|| value(cmdline, "kho_scratch"))?;
        Self::parse(&value)
    }
}

/// A size in bytes, with the suffix K, M or G.
pub fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (text.split_at(text.len() - 1).0, 10),
        b'M' => (text.split_at(text.len() - 1).0, 20),
        b'G' => (text.split_at(text.len() - 1).0, 30),
        _ => (text, 0),
    };
    let number: u64 = match number.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    number.checked_mul(1 << shift)
}

/// Returns whether kernels of a release use `kho_bootmem=` and not `kho_scratch=`.
pub fn has_bootmem(release: &str) -> Option<bool> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let version: (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(version >= (7, 4))
}

/// Checks the size of the scratch area for the kernel after the next one.
fn check_scratch(cmdline: &str, image: Option<&Image>) -> Option<Finding> {
    const CHECK: &str = "command line";
    let likely = |reason| Some(Finding::new(CHECK, Verdict::Likely, reason));
    let values = ["kho_scratch", "kho_bootmem"].map(|name| Some((name, value(cmdline, name)?)));
    for (name, value) in values.iter().flatten() {
        if Scratch::parse(value).is_none() {
            return likely(format!(
                "{name}={value} is malformed: the next kernel ignores it"
            ));
        }
    }
    let version = image.and_then(|image| image.version.as_deref());
    let bootmem = version.and_then(has_bootmem)?;
    match values {
        [Some(_), None] if bootmem => likely(
            "kernels from Linux 7.4 on ignore kho_scratch=: use kho_bootmem= as well".to_owned(),
        ),
        [None, Some(_)] if !bootmem => likely(
            "kernels before Linux 7.4 ignore kho_bootmem=: use kho_scratch= as well".to_owned(),
        ),
        _ => None,
    }
}

/// Checks whether a command line enables Kexec Handover and live updates.
pub fn check(cmdline: &str, image: Option<&Image>) -> Vec<Finding> {
    const CHECK: &str = "command line";
    let by_default = image.and_then(|image| image.setting("KEXEC_HANDOVER_ENABLE_DEFAULT"));
    let kho = match (switch(cmdline, "kho"), by_default) {
        (Some(true), _) => (Verdict::Yes, "kho=on"),
        (Some(false), _) => (
            Verdict::No,
            "kho=off: the kernel would take over no data; use kho=on",
        ),
        (None, Some("y")) => (Verdict::Yes, "kho=on is the default of the image"),
        (None, Some(_)) => (
            Verdict::No,
            "kho=on is missing, and not the default of the image",
        ),
        (None, None) => (
            Verdict::Unknown,
            "kho=on is missing, and the default of the image is not known",
        ),
    };
    let liveupdate = match switch(cmdline, "liveupdate") {
        Some(true) => (Verdict::Yes, "liveupdate=on"),
        Some(false) => (
            Verdict::No,
            "liveupdate=off: sessions could not be retrieved; use liveupdate=on",
        ),
        None => (
            Verdict::No,
            "liveupdate=on is missing: sessions could not be retrieved",
        ),
    };
    [kho, liveupdate]
        .into_iter()
        .map(|(verdict, reason)| Finding::new(CHECK, verdict, reason))
        .chain(check_scratch(cmdline, image))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_without_parameters() {
        let kept = |cmdline| without(cmdline, &["BOOT_IMAGE", "initrd"]);
        assert_eq!(kept("a  BOOT_IMAGE=/x b initrd=y"), "a b");
        assert_eq!(kept("a=\"b c\" \"initrd=x y\" d"), "a=\"b c\" d");
        assert_eq!(kept("initrd_x=1 a -- initrd=z"), "initrd_x=1 a -- initrd=z");
        assert_eq!(kept(""), "");
    }

    /// The next kernel finds the log of the running one only with the same parameters.
    #[test]
    fn the_log_is_carried_over() {
        let log = "reserve_mem=1M:4096:log ramoops.mem_name=log ramoops.console_size=0x80000";
        let running = format!("ro reserve_mem=2M:4096:other {log} quiet -- ramoops.ecc=1");
        let extended = |next| with_log(next, &running);
        assert_eq!(extended("rw"), format!("rw {log}"));
        assert_eq!(extended("rw -- single"), format!("rw {log} -- single"));
        assert_eq!(extended("a=\"b  c\""), format!("a=\"b  c\" {log}"));
        // The next kernel has a log of its own, or the running one has none.
        let own = "rw  ramoops.mem_name=x";
        assert_eq!(extended(own), own);
        assert_eq!(with_log("rw  a", "ro reserve_mem=1M:4096:log"), "rw  a");
    }

    /// The same for events: the memory, the buffer in it, and the copy of the buffer.
    #[test]
    fn events_are_carried_over() {
        let events = "reserve_mem=4M:4096:trace trace_instance=luo^traceoff@trace,liveupdate \
             trace_instance=previous=luo,sched";
        let others = "trace_instance=mine,irq trace_instance=far@0x1000:4M trace_instance=x=mine";
        let running =
            format!("ro reserve_mem=1M:4096:log {events} {others} -- trace_instance=z@trace");
        assert_eq!(
            with_log("rw -- single", &running),
            format!("rw {events} -- single")
        );
        assert!(keeps_events(&running) && !keeps_events(others) && !keeps_events("ro"));
        // Memory that the running kernel has not reserved.
        let own = "a reserve_mem=8M:4096:trace trace_instance=luo@trace b -- c";
        assert_eq!(with_log(own, &running), format!("a b {events} -- c"));
        assert_eq!(with_log(own, "ro"), "a b -- c");
        let same = format!("a  {events} trace_instance=other=luo");
        assert_eq!(with_log(&same, &running), same);
        // Both, in the order in which they are looked up.
        let log = "reserve_mem=1M:4096:log ramoops.mem_name=log";
        let both = format!("{events} {log}");
        assert_eq!(with_log("rw", &both), format!("rw {log} {events}"));
    }
}
