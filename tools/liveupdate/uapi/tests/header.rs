// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Compares all numbers, sizes and offsets with the header, and checks that no item is missing.

use liveupdate_uapi::*;
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
    process::Command,
};

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../..")
        .join(path)
}

const HEADER: &str = "include/uapi/linux/liveupdate.h";
/// The header of the C library, which defines its own limit.
const LIBRARY: &str = "tools/liveupdate/capi/include/liveupdate.h";
/// A client in Python, which cannot include the header.
const PYTHON: &str = "tools/testing/selftests/liveupdate/debian/usr/lib/luo-test/client.py";

/// C expressions and their values in this crate.
type Values = BTreeMap<String, u64>;

macro_rules! numbers {
    ($values:ident: $($name:ident)*) => {
        $($values.insert(stringify!($name).into(), u64::try_from($name).unwrap());)*
    };
}

macro_rules! structure {
    ($values:ident: $name:ident { $($field:ident)* }) => {
        let name = concat!("struct ", stringify!($name));
        $values.insert(format!("sizeof({name})"), size_of::<$name>() as u64);
        $(
            let field = stringify!($field);
            let sample = $name::default();
            $values.insert(
                format!("offsetof({name}, {field})"),
                offset_of!($name, $field) as u64,
            );
            $values.insert(
                format!("sizeof((({name} *)0)->{field})"),
                size_of_val(&sample.$field) as u64,
            );
        )*
    };
}

/// The values of this crate.
fn values() -> Values {
    let mut values = Values::new();
    numbers! { values:
        LIVEUPDATE_IOCTL_TYPE LIVEUPDATE_SESSION_NAME_LENGTH
        LIVEUPDATE_CMD_BASE LIVEUPDATE_CMD_CREATE_SESSION LIVEUPDATE_CMD_RETRIEVE_SESSION
        LIVEUPDATE_CMD_SESSION_BASE LIVEUPDATE_CMD_SESSION_PRESERVE_FD
        LIVEUPDATE_CMD_SESSION_RETRIEVE_FD LIVEUPDATE_CMD_SESSION_FINISH
        LIVEUPDATE_CMD_SESSION_GET_NAME LIVEUPDATE_CMD_SESSION_SET_POLICY
        LIVEUPDATE_POLICY_ABORT LIVEUPDATE_POLICY_SKIP
        LIVEUPDATE_IOCTL_CREATE_SESSION LIVEUPDATE_IOCTL_RETRIEVE_SESSION
        LIVEUPDATE_SESSION_PRESERVE_FD LIVEUPDATE_SESSION_RETRIEVE_FD LIVEUPDATE_SESSION_FINISH
        LIVEUPDATE_SESSION_GET_NAME LIVEUPDATE_SESSION_SET_POLICY
    }
    structure! { values: liveupdate_ioctl_create_session { size fd name } }
    structure! { values: liveupdate_ioctl_retrieve_session { size fd name } }
    structure! { values: liveupdate_session_preserve_fd { size fd token } }
    structure! { values: liveupdate_session_retrieve_fd { size fd token } }
    structure! { values: liveupdate_session_finish { size reserved } }
    structure! { values: liveupdate_session_get_name { size reserved name } }
    structure! { values: liveupdate_session_set_policy { size policy } }
    values
}

/// The text of a C file without its comments.
fn code(path: &str) -> String {
    let text = fs::read_to_string(file(path)).unwrap();
    let mut parts = text.split("/*");
    let mut code = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        code += part.split_once("*/").expect("a comment ends").1;
    }
    code
}

/// The names that the header defines: numbers, and the sizes of structures and their members.
fn names() -> Vec<String> {
    let code = code(HEADER);
    let mut names = Vec::new();
    let mut structure = None;
    for line in code.lines().map(str::trim) {
        let words: Vec<&str> = line
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .collect();
        match (structure, words.as_slice()) {
            (_, ["define", "_UAPI_LIVEUPDATE_H"]) => {}
            (_, ["define", name, ..]) => names.push((*name).into()),
            (_, ["struct", name]) => {
                names.push(format!("sizeof(struct {name})"));
                structure = Some(*name);
            }
            (_, ["enum"]) => structure = None,
            (Some(name), [_, member, ..]) if line.ends_with(';') => {
                names.push(format!("offsetof(struct {name}, {member})"));
            }
            (None, [name, ..]) if name.starts_with("LIVEUPDATE_CMD_") && line.ends_with(',') => {
                names.push((*name).into());
            }
            (Some(_), []) if line == "};" => structure = None,
            _ => {}
        }
    }
    names
}

/// Evaluates `expressions` with the C compiler.
fn ask_c(expressions: impl Iterator<Item = String>) -> Values {
    let mut source = format!(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"{}\"\n#include \"{}\"\n\
         _Static_assert(LIVEUPDATE_NAME_MAX + 1 == LIVEUPDATE_SESSION_NAME_LENGTH, \"name\");\n\
         int main(void)\n{{\n",
        file(HEADER).display(),
        file(LIBRARY).display()
    );
    for expression in expressions {
        let _ = writeln!(
            source,
            "\tprintf(\"%s\\t%llu\\n\", \"{expression}\", (unsigned long long)({expression}));"
        );
    }
    source += "\treturn 0;\n}\n";
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (text, program) = (dir.join("uapi.c"), dir.join("uapi"));
    fs::write(&text, source).unwrap();
    let status = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Werror", "-o"])
        .args([&program, &text])
        .status()
        .expect("there is a C compiler");
    assert!(status.success(), "{} does not compile", text.display());
    let output = Command::new(program).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (expression, value) = line.split_once('\t').unwrap();
            (expression.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn numbers_are_those_of_the_header() {
    let ours = values();
    assert_eq!(ask_c(ours.keys().cloned()), ours);
}

#[test]
fn nothing_of_the_header_is_missing() {
    let ours = values();
    let names = names();
    // The header has at least 20 numbers, 7 structures and 19 members.
    assert!(names.len() >= 46, "{names:?}");
    for name in names {
        assert!(ours.contains_key(&name), "{name} is not in this crate");
    }
}

#[test]
fn the_client_in_python_has_the_same_numbers() {
    let text = fs::read_to_string(file(PYTHON)).unwrap();
    let requests = format!(
        "PRESERVE_FD, RETRIEVE_FD, FINISH = {LIVEUPDATE_SESSION_PRESERVE_FD:#06X}, \
         {LIVEUPDATE_SESSION_RETRIEVE_FD:#06X}, {LIVEUPDATE_SESSION_FINISH:#06X}\n"
    )
    .replace("0X", "0x");
    let preserve = size_of::<liveupdate_session_preserve_fd>();
    let retrieve = size_of::<liveupdate_session_retrieve_fd>();
    let finish = size_of::<liveupdate_session_finish>();
    for part in [
        requests,
        format!("struct.pack(\"=IiQ\", {preserve}, fd, TOKEN)"),
        format!("struct.pack(\"=IiQ\", {retrieve}, -1, TOKEN)"),
        format!("struct.pack(\"=II\", {finish}, 0)"),
    ] {
        assert!(text.contains(&part), "{PYTHON} has no {part}");
    }
}
