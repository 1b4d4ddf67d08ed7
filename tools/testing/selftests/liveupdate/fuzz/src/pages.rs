// SPDX-License-Identifier: GPL-2.0

//! Single pages with arbitrary contents.

use crate::{
    abi::{
        Block, Compatible, FileSer, FixedStr, FlbHeader, FlbPage, FlbSer, LuoSer, Name, ParseError,
        SessionSer,
    },
    memory::Page,
};
use zerocopy::{FromBytes, IntoBytes};

/// Checks the invariants of strings.
pub fn check_string<const N: usize>(raw: &[u8; N]) {
    match FixedStr::parse(raw) {
        Ok(string) => {
            let bytes = string.as_bytes();
            assert!(!bytes.is_empty() && bytes.len() < N && !bytes.contains(&0));
            assert_eq!(bytes, &raw[..bytes.len()]);
            assert_eq!(raw[bytes.len()], 0);
            assert!(string.field()[bytes.len()..].iter().all(|&byte| byte == 0));
            assert!(FixedStr::parse(string.field()).unwrap() == string);
        }
        Err(err) => {
            assert_eq!(err, ParseError::BadString);
            assert!(raw[0] == 0 || !raw.contains(&0));
        }
    }
}

/// Parses the bytes as each type of page. Fewer bytes represent less memory.
pub fn run(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let mut page = Page::new();
    let len = data.len().min(page.0.len());
    page.0[..len].copy_from_slice(&data[..len]);
    let bytes = if how == 0 {
        &page.0[..len]
    } else {
        &page.0[..]
    };

    match LuoSer::parse(bytes) {
        Ok(root) => {
            // Bytes after the terminator are ignored.
            assert_eq!(root.compatible[..7], LuoSer::COMPATIBLE[..7]);
            assert_eq!(root.as_bytes(), &bytes[..size_of::<LuoSer>()]);
        }
        Err(ParseError::Truncated) => assert!(bytes.len() < size_of::<LuoSer>()),
        Err(_) => assert_ne!(&bytes[..7], &LuoSer::COMPATIBLE[..7]),
    }
    if let Ok(states) = FlbPage::parse(bytes) {
        assert!(states.len() <= FlbPage::CAPACITY);
        let header = FlbHeader::read_from_prefix(bytes).map(|(header, _)| header);
        let offsets: Vec<_> = header.unwrap().entries().unwrap().collect();
        assert_eq!(offsets.len(), states.len());
        for (offset, state) in offsets.into_iter().zip(states) {
            assert_eq!(&bytes[offset..][..size_of::<FlbSer>()], state.as_bytes());
        }
        for state in states {
            check_string(&state.name);
            let _ = Compatible::parse(&state.name);
        }
    }
    if let Ok((sessions, _)) = Block::parse::<SessionSer>(bytes) {
        assert!((1..=Block::capacity::<SessionSer>()).contains(&sessions.len()));
        for session in sessions {
            check_string(&session.name);
            let _ = Name::parse(&session.name);
        }
    }
    if let Ok((files, _)) = Block::parse::<FileSer>(bytes) {
        assert!((1..=Block::capacity::<FileSer>()).contains(&files.len()));
        for file in files {
            check_string(&file.compatible);
        }
    }
}
