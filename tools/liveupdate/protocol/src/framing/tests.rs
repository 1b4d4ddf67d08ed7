// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use proptest::prelude::*;
use std::{
    io::Write,
    os::{fd::AsRawFd, unix::net::UnixStream},
};

/// A descriptor that can be identified.
fn file() -> (OwnedFd, u64) {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let ino = rustix::fs::fstat(&fd).unwrap().st_ino;
    (fd, ino)
}

fn ino(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

fn lines(decoder: &mut Decoder) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| decoder.next_frame().unwrap())
        .map(|frame| frame.line)
        .collect()
}

#[test]
fn limits() {
    let mut decoder = Decoder::new(8);
    decoder.push(b"1234567\n\n \r\n1234567", Vec::new());
    assert_eq!(lines(&mut decoder), [b"1234567"]);
    decoder.push(b"\nab\n12345678", Vec::new());
    assert_eq!(lines(&mut decoder), [&b"1234567"[..], b"ab"]);
    decoder.push(b"\n", Vec::new());
    assert_eq!(decoder.next_frame().unwrap_err(), FrameError::LineTooLong);
    decoder.push(b"ab\n", Vec::new());
    assert_eq!(decoder.next_frame().unwrap_err(), FrameError::LineTooLong);
}

#[test]
fn lines_before_an_error_are_not_lost() {
    let mut decoder = Decoder::new(4);
    decoder.push(b"abc\ndefgh\n", Vec::new());
    assert_eq!(decoder.next_frame().unwrap().unwrap().line, b"abc");
    assert!(decoder.next_frame().is_err());
}

#[test]
fn fds_of_a_piece_belong_to_its_last_line() {
    let (fd, number) = file();
    let mut decoder = Decoder::new(64);
    decoder.push(b"a\nb\nc", vec![fd]);
    decoder.push(b"d\ne\n", Vec::new());
    let frames: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
    let seen: Vec<_> = frames
        .iter()
        .map(|frame| (frame.line.as_slice(), frame.fds.iter().map(ino).collect()))
        .collect();
    assert_eq!(
        seen,
        [
            (&b"a"[..], vec![]),
            (b"b", vec![]),
            (b"cd", vec![number]),
            (b"e", vec![])
        ]
    );
}

#[test]
fn too_many_fds_in_one_line() {
    let mut decoder = Decoder::new(64);
    for _ in 0..=FDS_MAX {
        decoder.push(b"x", vec![file().0]);
    }
    assert_eq!(decoder.next_frame().unwrap_err(), FrameError::TooManyFds);
}

#[test]
fn too_many_fds_in_one_piece() {
    let (a, b) = UnixStream::pair().unwrap();
    let fd = file().0;
    let fds = vec![fd.as_fd(); FDS_MAX + 1];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut room);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [IoSlice::new(b"{}\n")];
    rustix::net::sendmsg(&a, &bytes, &mut ancillary, SendFlags::empty()).unwrap();
    let mut decoder = Decoder::new(64);
    assert_eq!(decoder.receive(&b).unwrap(), Receive::Some);
    assert_eq!(decoder.next_frame().unwrap_err(), FrameError::TooManyFds);
}

#[test]
fn received_fds_are_closed_on_exec() {
    let (a, b) = UnixStream::pair().unwrap();
    let mut outbox = Outbox::new(64);
    outbox.push(b"{}\n".to_vec(), vec![file().0]).unwrap();
    assert!(outbox.flush(&a).unwrap());
    let mut decoder = Decoder::new(64);
    decoder.receive(&b).unwrap();
    let frame = decoder.next_frame().unwrap().unwrap();
    let flags = rustix::io::fcntl_getfd(&frame.fds[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn ends_and_nothings() {
    let (mut a, b) = UnixStream::pair().unwrap();
    let mut decoder = Decoder::new(64);
    assert_eq!(decoder.receive(&b).unwrap(), Receive::Nothing);
    a.write_all(b"half").unwrap();
    drop(a);
    assert_eq!(decoder.receive(&b).unwrap(), Receive::Some);
    assert_eq!(decoder.receive(&b).unwrap(), Receive::End);
    assert!(decoder.next_frame().unwrap().is_none());
}

#[test]
fn an_outbox_is_limited() {
    let mut outbox = Outbox::new(4);
    outbox.push(b"123456".to_vec(), Vec::new()).unwrap();
    assert_eq!(outbox.push(b"1".to_vec(), Vec::new()), Err(OutboxFull));
}

#[test]
fn nobody_listens() {
    let (a, b) = UnixStream::pair().unwrap();
    drop(b);
    let mut outbox = Outbox::new(64);
    outbox.push(b"{}\n".to_vec(), Vec::new()).unwrap();
    assert!(outbox.flush(&a).is_err());
}

/// Dropping a connection closes the remaining descriptors.
#[test]
fn stray_fds_are_closed() {
    let (read, write) = UnixStream::pair().unwrap();
    let mut decoder = Decoder::new(64);
    decoder.push(b"\n", vec![write.into()]);
    assert!(decoder.next_frame().unwrap().is_none());
    assert_eq!(Decoder::new(8).receive(&read).unwrap(), Receive::End);
    assert!(read.as_raw_fd() >= 0);
}

proptest! {
    /// The lines do not depend on how a stream is split.
    #[test]
    fn pieces_do_not_matter(
        stream in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400),
        cuts in proptest::collection::vec(1..50_usize, 0..40),
    ) {
        let mut whole = Decoder::new(1024);
        whole.push(&stream, Vec::new());
        let mut pieces = Decoder::new(1024);
        let mut rest = &stream[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece, Vec::new());
            rest = after;
        }
        pieces.push(rest, Vec::new());
        prop_assert_eq!(lines(&mut whole), lines(&mut pieces));
    }

    /// Through a real socket, whose buffer overflows, every line has its own descriptors.
    #[test]
    fn fds_stay_with_their_lines(
        messages in proptest::collection::vec((1..40_000_usize, 0..4_usize), 1..20),
        reads in proptest::collection::vec(1..5_usize, 1..20),
    ) {
        let (a, b) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::new(usize::MAX);
        let mut expected = Vec::new();
        for (length, count) in messages {
            let files: Vec<_> = (0..count).map(|_| file()).collect();
            expected.push((length, files.iter().map(|(_, ino)| *ino).collect::<Vec<_>>()));
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            let fds = files.into_iter().map(|(fd, _)| fd).collect();
            outbox.push(line, fds).unwrap();
        }
        let mut decoder = Decoder::new(1 << 20);
        let mut seen = Vec::new();
        let mut reads = reads.into_iter().cycle();
        loop {
            let all_sent = outbox.flush(&a).unwrap();
            let mut nothing = false;
            for _ in 0..reads.next().unwrap() {
                nothing = decoder.receive(&b).unwrap() == Receive::Nothing;
            }
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push((frame.line.len(), frame.fds.iter().map(ino).collect::<Vec<_>>()));
            }
            if all_sent && nothing {
                break;
            }
        }
        prop_assert_eq!(seen, expected);
    }

    /// Malformed data is refused without a panic.
    #[test]
    fn garbage_is_no_message(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(100);
        decoder.push(&line, Vec::new());
        while let Ok(Some(frame)) = decoder.next_frame() {
            let parsed = Message::<crate::Request>::parse(&frame.line);
            prop_assert!(parsed.is_err());
        }
    }
}
