// SPDX-License-Identifier: GPL-2.0

//! Archives in the format of initramfs images ("newc").

use std::io::{self, Write};

/// The properties of a member.
pub struct Member<'a> {
    /// Relative to the root, without a leading slash.
    pub name: &'a [u8],
    pub mode: u32,
    /// Major and minor number, for device nodes.
    pub device: (u32, u32),
    pub len: u64,
}

/// Writes an archive.
pub struct Archive<W> {
    out: W,
    written: u64,
    members: u32,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            members: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        let rest = (self.written % 4) as usize;
        match rest {
            0 => Ok(()),
            _ => self.write(&[0; 4][rest..]),
        }
    }

    /// Adds a member. `contents` must have exactly the size of the member.
    pub fn add(&mut self, member: &Member<'_>, mut contents: impl io::Read) -> io::Result<()> {
        let len = u32::try_from(member.len)
            .map_err(|_| io::Error::other("a file is too long for the archive"))?;
        self.members += 1;
        let fields = [
            self.members,
            member.mode,
            0,
            0,
            1,
            0,
            len,
            0,
            0,
            member.device.0,
            member.device.1,
            member.name.len() as u32 + 1,
            0,
        ];
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08x}").as_bytes())?;
        }
        self.write(member.name)?;
        self.write(&[0])?;
        self.pad()?;
        let copied = io::copy(&mut contents, &mut self.out)?;
        if copied != member.len {
            return Err(io::Error::other("a file changed its size"));
        }
        self.written += copied;
        self.pad()
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        let end = Member {
            name: b"TRAILER!!!",
            mode: 0,
            device: (0, 0),
            len: 0,
        };
        self.add(&end, io::empty())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn layout() {
        let mut archive = Archive::new(Vec::new());
        let member = Member {
            name: b"a",
            mode: 0o100644,
            device: (0, 0),
            len: 5,
        };
        archive.add(&member, &b"hello"[..]).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..117], b"hello");
        assert_eq!(&bytes[120..126], b"070701");
    }
}
