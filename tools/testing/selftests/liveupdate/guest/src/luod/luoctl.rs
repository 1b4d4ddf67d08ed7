// SPDX-License-Identifier: GPL-2.0

//! `luoctl`: kernels that it must refuse, updates that fail, and one that succeeds.

use super::{
    fixture::{counter, is_gone, start_luod, wait, wait_for, Json, Process, SOCKET, SOON},
    results::{case, conclude},
};
use crate::support::{
    args::Args,
    error::{ensure, ensure_eq, At, Failure, Result},
    kexec::{self, image},
    memfd,
    sessions::create,
};
use luod_protocol::SessionState;
use rustix::fs::MemfdFlags;
use std::{
    ffi::CString,
    fs::{self, File, Permissions},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixDatagram,
        },
    },
    process::{Child, Command, Stdio},
    thread::{self, sleep},
    time::Duration,
};

const LUOCTL: &str = "/bin/luoctl";
const NEXT: &str = "/boot/next";
/// The kernel with the implementation in C.
const IN_C: &str = "/boot/c";
/// The same, with another version of the format of sessions.
const OTHER: &str = "/boot/other";
/// The same, with none of the formats.
const WITHOUT: &str = "/boot/without";
/// The formats in sysfs, which only our kernel has.
const SYSFS: &str = "/sys/kernel/liveupdate";
const RECORD: &str = "/run/luod/image.json";

// Exit codes of luoctl.
const GOOD: i32 = 0;
const FAILED: i32 = 1;
const NO: i32 = 4;
const UNKNOWN: i32 = 5;
const LIKELY: i32 = 6;
const ABORTED: i32 = 7;
const NOT_CONFIRMED: i32 = 8;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(LUOCTL);
    command.args(["--socket", SOCKET]).args(args);
    command.stdin(Stdio::null());
    command
}

/// Runs luoctl; returns its output.
fn luoctl(args: &[&str], code: i32) -> Result<String> {
    let output = command(args).output().at("run luoctl")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("# $ luoctl {}", args.join(" "));
    for line in said.lines() {
        println!("#   {line}");
    }
    ensure_eq!(
        output.status.code(),
        Some(code),
        "luoctl {}",
        args.join(" ")
    );
    Ok(said.into_owned())
}

fn says(said: &str, what: &str) -> Result {
    ensure!(said.contains(what), "{what:?} is missing");
    Ok(())
}

/// Ends luoctl if it has not ended.
struct Running(Child);

impl Running {
    fn start(args: &[&str]) -> Result<Self> {
        let mut command = command(args);
        // The console is a terminal, on which luoctl prints a bar instead of lines.
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        child.map(Self).at("start luoctl")
    }

    /// Waits for its end; returns its output.
    fn end(mut self, code: i32) -> Result<String> {
        let mut said = String::new();
        if let Some(mut out) = self.0.stdout.take() {
            out.read_to_string(&mut said)?;
        }
        let status = self.0.wait()?;
        ensure_eq!(status.code(), Some(code), "the exit code");
        Ok(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kinds of the kernels of an update.
struct Pair {
    from_c: bool,
    to_c: bool,
}

impl Pair {
    fn new(args: &Args) -> Result<Self> {
        Ok(Self {
            from_c: !fs::exists(SYSFS)?,
            to_c: args.option("to") == Some("c"),
        })
    }
}

/// The verdict of luoctl on the update. A kernel with the implementation in C does not report the
/// formats in use, and its image has no list of formats; the image of our kernel is not compressed
/// and has no checksum.
const VERDICT: i32 = LIKELY;

fn verdicts() -> Result {
    luoctl(&["check", NEXT], VERDICT)?;
    luoctl(&["check", IN_C], LIKELY)?;
    let said = luoctl(&["check", OTHER], NO)?;
    says(&said, "the image has luo-v6 where luo-v5")?;
    let said = luoctl(&["check", WITHOUT], NO)?;
    says(&said, "there is no luo-v5 in the image")?;
    luoctl(&["check", NEXT, "--cmdline", "liveupdate=off"], NO)?;
    luoctl(&["load", OTHER], NO)?;
    if fs::exists(SYSFS)? {
        of_a_kind_that_c_does_not_know()?;
    }
    says(&luoctl(&["check"], NO)?, "no kernel is loaded")?;
    says(&luoctl(&["kexec", "--yes"], NO)?, "use luoctl load")
}

/// The kernel in C would lose a file of this kind.
fn of_a_kind_that_c_does_not_know() -> Result {
    const FORMAT: &str = "hugetlb-memfd-v1";
    let session = create("kinds")?;
    session.preserve(memfd::create(MemfdFlags::HUGETLB)?, 1)?;
    says(&luoctl(&["check", IN_C], NO)?, FORMAT)?;
    says(&luoctl(&["load", IN_C], NO)?, FORMAT)?;
    drop(session);
    luoctl(&["check", IN_C], LIKELY).map(drop)
}

/// An image that was loaded by kexec_load().
fn loaded_in_the_wrong_way(pair: &Pair) -> Result {
    let _luod = start_luod()?;
    let _client = counter("counter", &[])?;
    kexec::load_legacy().at("kexec_load")?;
    if pair.from_c {
        // The verdict is unknown, and there is no terminal to ask.
        luoctl(&["check"], UNKNOWN)?;
        luoctl(&["kexec"], NOT_CONFIRMED)?;
    } else {
        says(&luoctl(&["check"], NO)?, "kexec_load()")?;
        luoctl(&["kexec", "--yes"], NO)?;
        // With --force, luoctl prints the loss, and the kernel refuses.
        let said = luoctl(&["kexec", "--yes", "--force"], ABORTED)?;
        says(&said, "can be lost: counter")?;
        wait_for("counter", SessionState::Subscribed)?;
    }
    liveupdate::raw::kexec_file_unload().at("unload")?;
    luoctl(&["check"], NO)?;
    is_gone("counter")
}

/// Loads the next kernel, with the current root file system.
fn load(args: &Args) -> Result {
    let initrd = image::pack_root()?;
    let initrd = format!("/proc/{}/fd/{}", std::process::id(), initrd.as_raw_fd());
    let plan = kexec::Plan::stage(args, 2)?;
    let arguments = [
        "load",
        NEXT,
        "--initrd",
        &initrd,
        "--cmdline",
        plan.cmdline(),
    ];
    luoctl(&arguments, GOOD)?;
    luoctl(&["check"], VERDICT)?;
    // It is the same image, but luoctl cannot know that.
    let next = File::open(NEXT).at(NEXT)?;
    let cmdline = CString::new(plan.cmdline()).map_err(io::Error::from)?;
    liveupdate::raw::kexec_file_load(next.as_fd(), None, &cmdline).at("kexec_file_load")?;
    says(&luoctl(&["check"], UNKNOWN)?, "another program")?;
    luoctl(&arguments, GOOD)?;
    // It fails, and the previous image is still loaded.
    luoctl(&["load", LUOCTL, "--force"], FAILED)?;
    luoctl(&["check"], VERDICT)?;
    let record = fs::metadata(RECORD).at(RECORD)?;
    ensure_eq!(record.mode() & 0o7777, 0o644, "the mode of {RECORD}");
    Ok(())
}

/// The formats in use are compared again with those of the loaded image.
fn formats_that_are_lost() -> Result {
    let record = fs::read_to_string(RECORD).at(RECORD)?;
    let older = record.replace("\"memfd-v2\"", "\"memfd-v1\"");
    ensure!(record != older, "the record has no memfd-v2: {record}");
    let result = fs::write(RECORD, older).at(RECORD).and_then(|()| {
        let said = luoctl(&["kexec", "--yes"], NO)?;
        says(&said, "does not support memfd-v2")?;
        // luod checks itself, for requests without luoctl.
        let _luod = start_luod()?;
        let _client = counter("counter", &[])?;
        let said = luoctl(&["kexec", "--dry-run"], ABORTED)?;
        says(&said, "would lose data")?;
        is_gone("counter")
    });
    fs::write(RECORD, record).at(RECORD)?;
    result
}

fn abort_while_a_client_hangs() -> Result {
    let luod = start_luod()?;
    let _good = counter("good", &[])?;
    let _bad = counter("bad", &["hang"])?;
    let watch = Running::start(&["watch"])?;
    let kexec = Running::start(&["kexec", "--yes"])?;
    wait_for("bad", SessionState::Preserving)?;
    wait_for("good", SessionState::Ready)?;
    luoctl(&["list"], GOOD)?;
    luoctl(&["abort"], GOOD)?;
    says(&kexec.end(ABORTED)?, "the operator has aborted it")?;
    luoctl(&["report"], GOOD)?;
    is_gone("good")?;
    wait_for("good", SessionState::Subscribed)?;
    drop(luod);
    let watched = watch.end(3)?;
    for phase in ["preserving", "idle"] {
        says(&watched, &format!(": {phase}"))?;
    }
    says(&watched, "aborted")
}

/// luod is killed when all clients are ready and the service manager was asked to start the next
/// kernel. Only at this time is it frozen and listens.
fn luod_is_killed_in_the_jump() -> Result {
    const NOTIFY: &str = "/tmp/notify.sock";
    const CONFIG: &str = "/tmp/luod.toml";
    const SYSTEMCTL: &str = "/bin/systemctl";

    // A service manager that keeps no descriptors and never starts the next kernel.
    let manager = UnixDatagram::bind(NOTIFY)?;
    thread::spawn(move || while manager.recv(&mut [0; 4096]).is_ok() {});
    fs::write(CONFIG, "kexec = \"systemctl\"\n")?;
    fs::write(SYSTEMCTL, "#!/bin/busybox sh\nexit 0\n")?;
    fs::set_permissions(SYSTEMCTL, Permissions::from_mode(0o755))?;
    let mut luod = Command::new("/bin/luod");
    luod.args(["--socket", SOCKET, "--config", CONFIG]);
    let luod = luod.env("NOTIFY_SOCKET", NOTIFY).env("PATH", "/bin");
    let luod = Process(luod.spawn().at("start luod")?);
    wait(
        || Ok(command(&["status"]).output()?.status.success()),
        "luod listens",
    )?;
    let _good = counter("good", &[])?;
    // Without force, luod asks systemd whether it keeps the sessions.
    let kexec = Running::start(&["kexec", "--yes", "--force"])?;
    wait(
        || {
            let status = command(&["status", "--json"]).output()?;
            Ok(String::from_utf8_lossy(&status.stdout).contains("\"jump\""))
        },
        "luod is in the jump",
    )?;
    says(&luoctl(&["status"], GOOD)?, "jump")?;
    drop(luod);
    says(&kexec.end(GOOD)?, "jump")?;
    is_gone("luod-internal")?;
    // A client that has received FROZEN cannot know that the update has failed.
    ensure!(
        liveupdate::Device::open()?.create_session("good").is_err(),
        "the client has not kept its session"
    );
    let _luod = start_luod()?;
    wait_for("good", SessionState::Subscribed)?;
    is_gone("good")?;
    luoctl(&["kexec", "--dry-run"], GOOD)?;
    is_gone("good")
}

/// The update. Returns only if it does not start the next kernel.
fn update() -> Result {
    let _luod = start_luod()?;
    let mut held = Json::connect()?;
    held.say("{\"cmd\":\"SUBSCRIBE\",\"id\":\"held\"}\n")?;
    wait_for("held", SessionState::Subscribed)?;
    let _counter = counter("counter", &[])?;
    let _stray = counter("stray", &[])?;
    luoctl(&["kexec"], NOT_CONFIRMED)?;
    luoctl(&["status"], GOOD)?;
    luoctl(&["list"], GOOD)?;
    println!("# $ luoctl kexec --yes");
    let mut kexec = command(&["kexec", "--yes"]).spawn().at("start luoctl")?;
    let session = held.hear("\"START_PRESERVATION\"")?;
    // Long enough to be visible.
    sleep(Duration::from_millis(1500));
    held.say("{\"cmd\":\"READY\"}\n")?;
    let status = kexec.wait()?;
    drop(session);
    // luod has begun the jump, which may take some more time.
    sleep(SOON);
    Err(Failure::new(format!("luoctl ended with {status}")))
}

/// The part of the operator in the next kernel.
fn afterwards() -> Result {
    // The record of the running kernel is not valid for the loaded image.
    ensure!(File::open(RECORD).is_ok(), "the record was not handed over");
    luoctl(&["check"], NO)?;
    kexec::load_legacy().at("kexec_load")?;
    let verdict = if fs::exists(SYSFS)? { NO } else { UNKNOWN };
    let said = luoctl(&["check"], verdict)?;
    ensure!(!said.contains("all formats"), "an old record was used");
    liveupdate::raw::kexec_file_unload().at("unload")?;

    let _luod = start_luod()?;
    says(&luoctl(&["status"], GOOD)?, "incoming:   3 (3 unclaimed)")?;
    luoctl(&["list"], GOOD)?;
    let counter = Process::start("/bin/counter", &[SOCKET, "counter"])?;
    wait_for("counter", SessionState::Finished)?;
    luoctl(&["finish", "stray", "--yes"], FAILED)?;
    luoctl(&["discard", "stray"], NOT_CONFIRMED)?;
    luoctl(&["discard", "stray", "--yes"], GOOD)?;
    let mut held = Json::connect()?;
    held.say("{\"cmd\":\"CLAIM\",\"id\":\"held\"}\n")?;
    wait_for("held", SessionState::Claimed)?;
    luoctl(&["discard", "held", "--yes"], FAILED)?;
    luoctl(&["finish", "held", "--yes"], GOOD)?;
    let report = luoctl(&["report"], GOOD)?;
    for part in [
        "updated",
        "requested",
        "ready",
        "jump",
        "boot",
        "serving",
        "finished",
        "blackout: ",
    ] {
        says(&report, part)?;
    }
    let json = luoctl(&["report", "--json"], GOOD)?;
    says(&json, "\"outcome\":\"updated\"")?;
    says(&json, "\"blackout_us\":")?;
    drop(counter);
    drop(held);
    for name in ["counter", "stray", "held", "luod-internal"] {
        ensure!(
            liveupdate::Device::open()?.retrieve_session(name).is_err(),
            "the session {name} is left"
        );
    }
    Ok(())
}

/// Runs the part for this kernel.
pub fn run(args: &Args) -> Result<u8> {
    if args.stage()? > 1 {
        case("afterwards", afterwards)?;
        return conclude("luoctl");
    }
    let pair = Pair::new(args)?;
    case("verdicts", verdicts)?;
    case("loaded_in_the_wrong_way", || loaded_in_the_wrong_way(&pair))?;
    case("load", || load(args))?;
    if !pair.from_c && !pair.to_c {
        case("formats_that_are_lost", formats_that_are_lost)?;
        case("abort_while_a_client_hangs", abort_while_a_client_hangs)?;
        case("luod_is_killed_in_the_jump", luod_is_killed_in_the_jump)?;
    }
    // The next kernel gets the results as well.
    case("load_again", || load(args))?;
    case("update", update)?;
    conclude("luoctl")
}
