// SPDX-License-Identifier: GPL-2.0

//! luoctl, and a fake machine for it.

// Not every test uses all items.
#![allow(dead_code)]

pub mod kernel;

use liveupdate::{
    luod::{Member, Participant, Result, SessionName},
    IncomingSession, OutgoingSession,
};
use luo_check::{record::Source, Formats, Image, Machine, Record};
use luod::fake::{own_config, FakeWorld, Luod};
use rustix::{
    fs::{memfd_create, MemfdFlags},
    process::{kill_process, Pid, Signal},
};
use serde_json::Value;
use std::{
    env,
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        Arc,
    },
    thread::{self, sleep, JoinHandle},
    time::{Duration, Instant},
};

pub const SOON: Duration = Duration::from_secs(120);

/// The formats of the kernel of this repository.
pub const FORMATS: [&str; 3] = ["kho-v4", "luo-v5", "memfd-v2"];

pub const CMDLINE: &str = "kho=on liveupdate=on";

/// The root directory of a system.
pub struct Root(PathBuf);

impl Root {
    /// A system with an image that luoctl has loaded, whose verdict is "yes".
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("luoctl-test-{}-{number}", std::process::id()));
        let root = Self(dir);
        root.put("proc/sys/kernel/random/boot_id", "this boot\n");
        root.put("proc/sys/kernel/kexec_load_limit_reboot", "7\n");
        root.put("proc/cmdline", CMDLINE);
        root.put("proc/meminfo", "MemAvailable:    4000000 kB\n");
        root.put("sys/kernel/liveupdate/image", "with\n");
        root.put("sys/kernel/liveupdate/in_use", "");
        let compatible: Vec<String> = FORMATS.iter().map(|name| format!("{name}\n")).collect();
        root.put("sys/kernel/liveupdate/compatible", compatible.concat());
        root.record(&FORMATS);
        root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Loads an image that supports some formats.
    pub fn record(&self, formats: &[&str]) {
        let names = formats.iter().map(|name| (*name).to_owned()).collect();
        let metadata = fs::metadata(&self.0).unwrap();
        let source = Source::new(Path::new("/boot/next"), &metadata);
        let mut record = Record::new("this boot".into(), source, CMDLINE.into());
        record.loads_left = Some(7);
        record.image = Some(Image::new(Machine::default(), Formats::List(names)));
        record.write(&self.path("run/luod/image.json")).unwrap();
    }

    /// luoctl, for this system.
    pub fn luoctl(&self, socket: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_luoctl"));
        command.arg("--root").arg(&self.0);
        command.arg("--socket").arg(socket).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Returns the output of luoctl, which may contain control characters.
    pub fn run_raw(&self, socket: &Path, args: &[&str]) -> String {
        let output = self.luoctl(socket, args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs luoctl without a terminal.
    pub fn run(&self, socket: &Path, args: &[&str]) -> Output {
        Output::of(
            self.luoctl(socket, args)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The result of luoctl.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    /// Waits for the end of luoctl.
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let output = Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        for text in [&output.out, &output.err] {
            let bad = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(bad, None, "{text:?}");
        }
        output
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub fn says(self, what: &str) -> Self {
        let said = self.out.contains(what) || self.err.contains(what);
        assert!(said, "{what:?} is missing: {self:?}");
        self
    }

    /// Its JSON output, line by line.
    pub fn json(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// luoctl in the background, which is killed if a test fails.
pub struct Background(Child);

impl Background {
    pub fn start(root: &Root, socket: &Path, args: &[&str]) -> Self {
        Self(root.luoctl(socket, args).spawn().unwrap())
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        wait(|| self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn start(world: &FakeWorld) -> Luod {
    Luod::start(world, own_config()).unwrap()
}

/// A program that keeps a file.
struct Keeper {
    memory: File,
    fault: Option<String>,
    /// Ends processes that would not end.
    stop: Arc<AtomicBool>,
}

impl Participant for Keeper {
    fn preserve(&mut self, _: &SessionName, session: &OutgoingSession) -> Result {
        match self.fault.as_deref() {
            Some("hang") => {
                while !self.stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(20));
                }
            }
            Some(why) => return Err(why.into()),
            None => {}
        }
        Ok(session.preserve(&self.memory, 1)?)
    }

    fn cancelled(&mut self, _: &SessionName, _: &str) {}

    fn restore(&mut self, _: &SessionName, session: &IncomingSession) -> Result {
        self.memory = session.retrieve(1)?.into();
        Ok(())
    }
}

/// A client of luod, in a thread.
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn start(luod: &Path, name: &str) -> Self {
        Self::with_fault(luod, name, None)
    }

    /// A client that hangs in every update, or fails otherwise.
    pub fn with_fault(luod: &Path, name: &str, fault: Option<&str>) -> Self {
        let memory = File::from(memfd_create("keeper", MemfdFlags::CLOEXEC).unwrap());
        memory.write_all_at(b"x", 0).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            memory,
            fault: fault.map(str::to_owned),
            stop: Arc::clone(&stop),
        };
        let mut member = Member::join_at(luod, name, &[name], keeper).unwrap();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // luod may have ended.
                if member.step(Some(Duration::from_millis(20))).is_err() {
                    return;
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until a condition is true.
#[track_caller]
pub fn wait(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < SOON);
        sleep(Duration::from_millis(20));
    }
}

/// Reads until the text contains a string.
pub fn read_until(from: &mut impl Read, what: &str) -> String {
    read_until_any(from, &[what])
}

/// Reads until the text contains one of several strings.
pub fn read_until_any(from: &mut impl Read, what: &[&str]) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !what.iter().any(|what| text.contains(what)) {
        let length = from.read(&mut piece).unwrap_or(0);
        assert!(length > 0, "{what:?} is missing: {text:?}");
        text += &String::from_utf8_lossy(&piece[..length]);
    }
    text
}
