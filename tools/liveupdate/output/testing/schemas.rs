// SPDX-License-Identifier: GPL-2.0

//! Checks the output of a program with `--json` against its JSON Schema, in tests of that program,
//! which include this file.

use jsonschema::Validator;
use serde_json::{json, Value};
use std::collections::{BTreeMap, BTreeSet};

fn close(schema: &mut Value) {
    if let Value::Object(schema) = schema {
        schema.insert("unevaluatedProperties".into(), false.into());
    }
}

/// Lets objects have only members that the schema describes.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(members)) = map.get_mut("properties") {
                members.values_mut().for_each(close);
            }
            if let Some(items) = map.get_mut("items") {
                close(items);
            }
            map.values_mut().for_each(strict);
        }
        Value::Array(values) => values.iter_mut().for_each(strict),
        _ => {}
    }
}

/// A schema, and that of each kind of line, which allows only members that it describes.
pub struct Schemas {
    all: Validator,
    lines: BTreeMap<String, Validator>,
}

impl Schemas {
    /// The schema `text`, whose `anyOf` refers to a definition for each kind of line.
    pub fn new(text: &str) -> Self {
        let schema: Value = serde_json::from_str(text).unwrap();
        assert!(jsonschema::meta::is_valid(&schema));
        let all = jsonschema::validator_for(&schema).unwrap();
        let mut lines = BTreeMap::new();
        for case in schema["anyOf"].as_array().unwrap() {
            let name = case["$ref"].as_str().unwrap();
            let mut one = json!({ "$ref": name, "$defs": schema["$defs"] });
            strict(&mut one);
            close(&mut one);
            let name = name.strip_prefix("#/$defs/").unwrap().to_owned();
            lines.insert(name, jsonschema::validator_for(&one).unwrap());
        }
        Self { all, lines }
    }

    /// Checks that the schema describes `line`, and all of its members, by `definition`.
    #[track_caller]
    pub fn check(&self, definition: &str, line: &Value) {
        for validator in [&self.all, &self.lines[definition]] {
            let errors = validator.iter_errors(line).map(|error| error.to_string());
            let errors: Vec<String> = errors.collect();
            assert!(errors.is_empty(), "{definition}: {errors:?}: {line}");
        }
    }

    /// Checks lines of a released version, which are kept with the names of their definitions. There
    /// must be one for each kind of line.
    #[track_caller]
    pub fn check_golden(&self, lines: &str) {
        let mut left: BTreeSet<&str> = self.lines.keys().map(String::as_str).collect();
        for line in lines.lines() {
            let golden: Value = serde_json::from_str(line).unwrap();
            let definition = golden["definition"].as_str().unwrap();
            self.check(definition, &golden["line"]);
            left.remove(definition);
        }
        assert!(left.is_empty(), "{left:?}");
    }

    /// Checks that `line` is not a valid line of any kind.
    #[track_caller]
    pub fn refuse(&self, line: &Value) {
        assert!(!self.all.is_valid(line), "{line}");
    }

    /// Checks that `line` is valid, and that `definition` does not describe one of its members.
    #[track_caller]
    pub fn tolerate(&self, definition: &str, line: &Value) {
        assert!(self.all.is_valid(line), "{line}");
        assert!(!self.lines[definition].is_valid(line), "{line}");
    }
}
