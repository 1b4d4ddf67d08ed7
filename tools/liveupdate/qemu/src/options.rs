// SPDX-License-Identifier: GPL-2.0

//! Parser for the required parts of QEMU's command line.

use serde_json::{Map, Value};

/// Properties in QEMU's form: `first,key=value,...`, with `,,` for a comma.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(Vec<(String, String)>);

impl Properties {
    /// Parses properties; a first value without a key is the property `implied`.
    pub fn parse(text: &str, implied: &str) -> Self {
        let mut items = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let comma = c == ',';
            if comma && chars.next_if_eq(&',').is_none() {
                items.push(String::new());
            } else if let Some(last) = items.last_mut() {
                last.push(c);
            }
        }
        let mut found = Vec::new();
        for (at, item) in items.iter().enumerate() {
            match item.split_once('=') {
                Some((key, value)) => found.push((key.to_owned(), value.to_owned())),
                None if at == 0 && !implied.is_empty() => {
                    found.push((implied.to_owned(), item.clone()));
                }
                None if item.is_empty() => {}
                // The short form of a switch.
                None => found.push((item.clone(), "on".to_owned())),
            }
        }
        Self(found)
    }

    /// Properties given as a JSON object, if `text` is one.
    fn from_json(text: &str) -> Option<Self> {
        let object: Map<String, Value> = serde_json::from_str(text).ok()?;
        let flat = object.into_iter().map(|(key, value)| match value {
            Value::String(text) => (key, text),
            Value::Bool(true) => (key, "on".to_owned()),
            Value::Bool(false) => (key, "off".to_owned()),
            // One range of NUMA nodes, the usual case.
            Value::Array(list) if list.len() == 1 => {
                let first = list.first().map(Value::to_string);
                (key, first.unwrap_or_default())
            }
            other => (key, other.to_string()),
        });
        Some(Self(flat.collect()))
    }

    /// Parses properties that may be JSON.
    pub fn parse_any(text: &str, implied: &str) -> Self {
        Self::from_json(text).unwrap_or_else(|| Self::parse(text, implied))
    }

    /// The value of `key`; the last one applies.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether the switch `key` is on.
    pub fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("on" | "yes" | "true" | "y"))
    }

    /// Removes properties for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(key, _)| keep(key));
    }

    /// Adds a property.
    pub fn push(&mut self, key: &str, value: impl ToString) {
        self.0.push((key.to_owned(), value.to_string()));
    }

    /// The properties in QEMU's form; the value of `implied` comes first, without its key.
    pub fn to_text(&self, implied: &str) -> String {
        let escape = |text: &str| text.replace(',', ",,");
        let first = self.get(implied).map(escape);
        let rest = self.0.iter().filter(|(key, _)| key != implied);
        let rest = rest.map(|(key, value)| format!("{key}={}", escape(value)));
        first.into_iter().chain(rest).collect::<Vec<_>>().join(",")
    }
}

/// An option and the position of its value, in a list of arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Without the dashes.
    pub name: &'a str,
    /// The index of the value.
    pub at: usize,
    /// The value.
    pub value: &'a str,
}

/// The options in `args` that have a value, and the switches, whose value is empty.
///
/// The parser does not know which options have a value: an argument after an option that does
/// not begin with a dash is its value.
pub fn options(args: &[String]) -> impl Iterator<Item = Found<'_>> {
    args.iter().enumerate().filter_map(|(at, arg)| {
        let name = arg.strip_prefix('-')?;
        let name = name.strip_prefix('-').unwrap_or(name);
        let next = args.get(at + 1).filter(|next| !next.starts_with('-'));
        Some(Found {
            name,
            at: at + 1,
            value: next.map_or("", String::as_str),
        })
    })
}

/// The properties of each option called `name`.
pub fn all<'a>(
    args: &'a [String],
    names: &'a [&str],
    implied: &'a str,
) -> impl Iterator<Item = (usize, Properties)> + 'a {
    let found = options(args).filter(|found| names.contains(&found.name));
    found.map(move |found| (found.at, Properties::parse_any(found.value, implied)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_and_written() {
        let found = Properties::parse("q35,accel=kvm,x=a,,b,usb", "type");
        assert_eq!(found.get("type"), Some("q35"));
        assert_eq!(found.get("x"), Some("a,b"));
        assert!(found.is_on("usb") && !found.is_on("accel"));
        assert_eq!(found.to_text("type"), "q35,accel=kvm,x=a,,b,usb=on");
        let json = r#"{"qom-type":"memory-backend-ram","id":"m","size":1024,"share":true,"host-nodes":[0]}"#;
        let found = Properties::parse_any(json, "qom-type");
        assert_eq!(found.get("size"), Some("1024"));
        assert_eq!(found.get("host-nodes"), Some("0"));
        assert!(found.is_on("share"));
    }

    #[test]
    fn options_have_one_or_two_dashes() {
        let args = ["-m", "1G", "--object", "x,id=y", "-nodefaults", "-S"].map(str::to_owned);
        let names: Vec<_> = options(&args).map(|f| (f.name, f.value)).collect();
        assert_eq!(
            names,
            [
                ("m", "1G"),
                ("object", "x,id=y"),
                ("nodefaults", ""),
                ("S", "")
            ]
        );
    }
}
