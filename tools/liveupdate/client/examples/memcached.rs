// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Runs memcached and preserves its data during live updates.
//!
//! Run as root, as `memcached DIR MEGABYTES [ARGUMENT...]`; the arguments are memcached's. It then
//! listens on the UNIX socket `DIR/socket`.
//!
//! memcached can be restarted without losing its data (`-e FILE`): it keeps its items in that file,
//! and writes its other state to `FILE.meta` when it ends by SIGUSR1. Here, both are links to
//! memfds of this program. In a live update, the large memfd is preserved while memcached answers;
//! then memcached ends, and the small one is preserved.

use liveupdate::luod::{Member, Participant, Result, SessionName};
use liveupdate::{IncomingSession, OutgoingSession};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::process::{kill_process, Pid, Signal};
use std::{
    env,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{symlink, FileExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    process::{self, Child, Command},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The items of memcached.
const DATA: u64 = 1;
/// The metadata that memcached writes at its end.
const META: u64 = 2;

/// The time limit for its start. It examines all items.
const START: Duration = Duration::from_secs(60);

struct Cache {
    dir: PathBuf,
    megabytes: String,
    arguments: Vec<String>,
    data: File,
    meta: File,
    server: Option<Child>,
}

impl Cache {
    /// Makes `name` a link to a file of this process, for a program that accepts only names.
    fn link(&self, name: &str, file: &File) -> io::Result<()> {
        let link = self.dir.join(name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let target = format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd());
        symlink(target, link)
    }

    /// Starts memcached with the contents of the files.
    fn start(&mut self) -> io::Result<()> {
        self.link("data", &self.data)?;
        if self.meta.metadata()?.len() > 0 {
            self.let_time_pass()?;
            // memcached removes the link when it has read the file.
            self.link("data.meta", &self.meta)?;
        }
        let socket = self.dir.join("socket");
        let _ = fs::remove_file(&socket);
        let server = Command::new("memcached")
            .args(["-u", "root", "-m", &self.megabytes, "-s"])
            .arg(&socket)
            .arg("-e")
            .arg(self.dir.join("data"))
            .args(&self.arguments)
            .spawn()?;
        self.server = Some(server);
        self.wait_until_it_listens(&socket)
    }

    /// A signal before memcached has installed its handler kills it, and all data is lost.
    fn wait_until_it_listens(&mut self, socket: &Path) -> io::Result<()> {
        let start = Instant::now();
        while UnixStream::connect(socket).is_err() {
            if self.has_ended()? || start.elapsed() > START {
                return Err(io::Error::other("memcached does not listen"));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// memcached restores its items only if it was stopped in an earlier second. This is relevant
    /// after an aborted update, or if the clock of the next kernel lags.
    fn let_time_pass(&self) -> io::Result<()> {
        let mut text = vec![0; usize::try_from(self.meta.metadata()?.len()).unwrap_or(0)];
        self.meta.read_exact_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text);
        let stopped = text
            .lines()
            .find_map(|line| line.strip_prefix("Kstop_time ")?.trim().parse::<u64>().ok());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            if now.is_ok_and(|now| Some(now.as_secs()) > stopped) {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends memcached, which writes its metadata.
    fn stop(&mut self) -> Result {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        let start = Instant::now();
        self.link("data.meta", &self.meta)?;
        ftruncate(&self.meta, 0)?;
        kill_process(Pid::from_child(&server), Signal::USR1)?;
        let status = server.wait()?;
        let size = self.meta.metadata()?.len();
        if size == 0 {
            return Err(format!("memcached has written no metadata ({status})").into());
        }
        let took = start.elapsed().as_millis();
        println!("memcached ended within {took} ms, {size} bytes of metadata");
        Ok(())
    }

    /// Whether memcached must be started again.
    fn has_ended(&mut self) -> io::Result<bool> {
        match &mut self.server {
            Some(server) => Ok(server.try_wait()?.is_some()),
            None => Ok(false),
        }
    }
}

impl Participant for Cache {
    fn preserve(&mut self, _id: &SessionName, session: &OutgoingSession) -> Result {
        let start = Instant::now();
        session.preserve(&self.data, DATA)?;
        println!(
            "preserved the items within {} ms",
            start.elapsed().as_millis()
        );
        self.stop()?;
        session.preserve(&self.meta, META)?;
        println!("ready within {} ms", start.elapsed().as_millis());
        Ok(())
    }

    fn cancelled(&mut self, id: &SessionName, reason: &str) {
        println!("{id}: continues: {reason}");
        if self.server.is_none() {
            if let Err(error) = self.start() {
                eprintln!("memcached does not start: {error}");
            }
        }
    }

    fn restore(&mut self, _id: &SessionName, session: &IncomingSession) -> Result {
        let start = Instant::now();
        self.data = session.retrieve(DATA)?.into();
        self.meta = session.retrieve(META)?.into();
        println!("restored within {} ms", start.elapsed().as_millis());
        Ok(())
    }
}

fn memfd(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(dir), Some(megabytes)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: memcached DIR MEGABYTES [ARGUMENT...]");
        process::exit(2);
    };
    fs::create_dir_all(&dir)?;
    let cache = Cache {
        dir: Path::new(&dir).to_owned(),
        megabytes,
        arguments: arguments.collect(),
        data: memfd("items")?,
        meta: memfd("meta")?,
        server: None,
    };
    let mut member = Member::join("memcached", &["memcached"], cache)?;
    member.participant_mut().start()?;
    println!("memcached is started, pid {}", process::id());
    loop {
        member.step(Some(Duration::from_secs(1)))?;
        if member.participant_mut().has_ended()? {
            // The files may be inconsistent.
            return Err(io::Error::other("memcached has ended"));
        }
    }
}
