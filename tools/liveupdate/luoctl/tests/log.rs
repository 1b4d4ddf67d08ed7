// SPDX-License-Identifier: GPL-2.0

//! `luoctl report --log`.

mod common;

use common::{Output, Root, CMDLINE};
use std::{path::Path, time::SystemTime};

const PSTORE: &str = "sys/fs/pstore/console-ramoops-0";
const ARCHIVE: &str = "var/lib/systemd/pstore/console-ramoops-0";

fn log(root: &Root, args: &[&str]) -> Output {
    root.run(
        Path::new("/nonexistent"),
        &[&["report", "--log"], args].concat(),
    )
}

fn boot(root: &Root, ago: u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let time = now.unwrap().as_secs() - ago;
    root.put("proc/stat", format!("cpu 0\nbtime {time}\nprocesses 1\n"));
}

#[test]
fn where_it_is() {
    let root = Root::new();
    log(&root, &[]).expect(1).says("boot it with reserve_mem=");
    root.put("sys/module/ramoops/parameters/mem_name", "(null)\n");
    log(&root, &[]).expect(1).says("boot it with reserve_mem=");
    root.put("sys/module/ramoops/parameters/mem_name", "luo_log\n");
    log(&root, &[]).expect(1).says("pstore is not mounted");
    root.put("sys/fs/pstore/dmesg-ramoops-0", "Panic");
    log(&root, &[]).expect(1).says("there is no log");

    // systemd-pstore.service has moved it.
    root.put(ARCHIVE, "one\ntwo\nthree\n");
    log(&root, &[]).expect(1).says("there is no log");
    boot(&root, 3600);
    assert_eq!(log(&root, &[]).expect(0).out, "one\ntwo\nthree\n");
    // The log of an earlier kernel: this one was started later.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let later = now.unwrap().as_secs() + 3600;
    root.put("proc/stat", format!("btime {later}\n"));
    log(&root, &[]).expect(1).says("there is no log");

    root.put(PSTORE, "four\n\u{1b}[2J\u{9b}five\u{202e}\nsix\n");
    let said = log(&root, &["--lines", "2"]).expect(0);
    assert_eq!(said.out, "?[2J?five?\nsix\n");
    let json = log(&root, &["--json"]).expect(0).json();
    assert_eq!(json[0]["log"].as_array().unwrap().len(), 3);
    assert_eq!(json[0]["log"][0], "four");
    let nowhere = Path::new("/nonexistent");
    root.run(nowhere, &["report", "--lines", "2"]).expect(2);
}

/// A kernel with two tracepoints.
fn put_formats(root: &Root) {
    for (name, text) in [
        ("header_page", "page"),
        ("header_event", "event"),
        ("liveupdate/enable", "0"),
        ("liveupdate/luo_freeze/format", "freeze"),
        ("liveupdate/luo_claim/format", "claim"),
    ] {
        root.put(&format!("sys/kernel/tracing/events/{name}"), text);
    }
}

/// Events are shown only if it is known that this kernel reads them as the previous one wrote them.
#[test]
fn events_of_the_previous_kernel() {
    const EVENT: &str = "luo-1 [000] ..... 9.1: luo_freeze: session=a token=1";
    let root = Root::new();
    root.put(PSTORE, "last\n");
    root.put(
        "proc/cmdline",
        "reserve_mem=4M:4096:m trace_instance=luo@m,liveupdate\n",
    );
    assert_eq!(log(&root, &[]).expect(0).err, "");
    root.put("sys/kernel/tracing/README", "");
    root.remove("sys/kernel/tracing/README");
    log(&root, &[]).expect(0).says("tracefs is not mounted");
    put_formats(&root);
    assert_eq!(log(&root, &[]).expect(0).err, "");
    let trace = format!("# tracer: nop\n#\n  x\n  {EVENT}\n");
    root.put("sys/kernel/tracing/instances/luo_previous/trace", trace);
    let said = log(&root, &[]).expect(0);
    assert_eq!(said.out, "last\n");
    said.says("it has no luoctl.events=");
    let boot = |identity| {
        root.put(
            "proc/cmdline",
            format!("{CMDLINE} luoctl.events={identity}\n"),
        );
    };
    boot("0123456789abcdef");
    let said = log(&root, &[]).expect(0);
    assert_eq!(said.out, "last\n");
    said.says("other numbers or fields");
    boot("2e9a501e623b8025");
    let said = log(&root, &["--lines", "1"]).expect(0);
    assert_eq!(
        (said.out, said.err),
        (format!("last\nEvents:\n{EVENT}\n"), String::new())
    );
    let json = log(&root, &["--json"]).expect(0).json();
    assert_eq!(json[0]["events"].as_array().unwrap().len(), 2);
    assert_eq!(json[0]["events"][1], EVENT);
    root.put(
        "sys/kernel/tracing/events/liveupdate/luo_claim/format",
        "new",
    );
    log(&root, &[]).expect(0).says("other numbers or fields");
}
