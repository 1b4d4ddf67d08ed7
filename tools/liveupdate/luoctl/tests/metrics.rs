// SPDX-License-Identifier: GPL-2.0

//! `luoctl metrics`, read by a parser for the format of Prometheus.

mod common;

use common::{start, wait, Client, Root};
use luod::fake::{own_config, FakeWorld, Luod};
use prometheus_parse::{Scrape, Value};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// The parsed output.
struct Metrics(Scrape);

impl Metrics {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        Self(Scrape::parse(lines).unwrap())
    }

    fn of(root: &Root, luod: &Path) -> Self {
        Self::parse(&root.run(luod, &["metrics"]).expect(0).out)
    }

    /// The value of a sample with a label, or without labels.
    #[track_caller]
    fn value(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let mut found = self.0.samples.iter().filter(|sample| {
            let same = label.is_none_or(|(key, value)| sample.labels.get(key) == Some(value));
            sample.metric == name && same
        });
        let sample = found.next().unwrap_or_else(|| panic!("{name} is missing"));
        assert!(found.next().is_none(), "{name} exists twice");
        match sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
            ref other => panic!("{name} is {other:?}"),
        }
    }

    /// The number of values in a histogram.
    #[track_caller]
    fn count(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let samples = self.0.samples.iter();
        let mut found = samples.filter(|sample| {
            let same = label.is_none_or(|(key, value)| sample.labels.get(key) == Some(value));
            sample.metric == name && same
        });
        let sample = found.next().unwrap_or_else(|| panic!("{name} is missing"));
        let Value::Histogram(buckets) = &sample.value else {
            panic!("{name} is {:?}", sample.value);
        };
        let last = buckets.last().unwrap();
        assert_eq!(last.less_than, f64::INFINITY);
        last.count
    }
}

#[test]
fn an_update_in_figures() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let path = luod.path().to_owned();
    let metrics = Metrics::of(&root, &path);
    assert_eq!(metrics.value("luo_up", None), 1.0);
    assert_eq!(metrics.value("luo_phase", Some(("phase", "idle"))), 1.0);
    assert_eq!(metrics.value("luo_phase", Some(("phase", "jump"))), 0.0);
    assert_eq!(metrics.count("luo_blackout_seconds", None), 0.0);
    root.run(&path, &["kexec", "--dry-run", "--expect", "0"])
        .expect(0);
    let client = Client::start(&path, "cache");
    root.run(&path, &["kexec", "--yes"]).expect(0);
    luod.wait();
    drop(client);

    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let metrics = Metrics::of(&root, &path);
    let outcome = |name| metrics.value("luo_updates_total", Some(("outcome", name)));
    assert_eq!(
        [outcome("updated"), outcome("dry-run"), outcome("aborted")],
        [1.0, 1.0, 0.0]
    );
    let state = Some(("state", "unclaimed"));
    assert_eq!(metrics.value("luo_sessions", state), 1.0);
    // The file of the client has one byte.
    let incoming = Some(("direction", "incoming"));
    assert_eq!(metrics.value("luo_preserved_bytes", incoming), 1.0);
    wait(|| Metrics::of(&root, &path).value("luo_oldest_unclaimed_session_seconds", None) > 0.0);
    assert_eq!(metrics.count("luo_blackout_seconds", None), 0.0);

    let client = Client::start(&path, "cache");
    wait(|| {
        let metrics = Metrics::of(&root, &path);
        metrics.value("luo_phase", Some(("phase", "idle"))) == 1.0
    });
    drop(client);
    drop(luod);
    // luod is restarted in the same kernel.
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let metrics = Metrics::of(&root, luod.path());
    assert_eq!(
        metrics.value("luo_updates_total", Some(("outcome", "updated"))),
        1.0
    );
    assert_eq!(metrics.count("luo_blackout_seconds", None), 1.0);
    for phase in ["preserve", "freeze", "jump", "restore"] {
        let count = metrics.count("luo_update_duration_seconds", Some(("phase", phase)));
        // The dry run has preserved as well.
        let expected = if phase == "preserve" { 2.0 } else { 1.0 };
        let expected = if phase == "freeze" { 1.0 } else { expected };
        assert_eq!(count, expected, "{phase}");
    }
    assert_eq!(metrics.value("luo_last_update_lost_sessions", None), 0.0);
    assert!(metrics.value("luo_last_blackout_seconds", None) > 0.0);
}

/// The file is replaced, and shows it if luod does not run.
#[test]
fn a_file_for_node_exporter() {
    let (root, world) = (Root::new(), FakeWorld::new());
    root.put("sys/kernel/debug/kho/out/scratch_len", "0x1000\n0x2000\n");
    let file = root.path("luo.prom");
    let output = file.to_str().unwrap().to_owned();
    let luod = start(&world);
    root.run(luod.path(), &["metrics", "--output", &output])
        .expect(0);
    let metrics = Metrics::parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(metrics.value("luo_up", None), 1.0);
    assert_eq!(metrics.value("luo_scratch_bytes", None), 12288.0);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o022, 0o644);

    let nowhere = Path::new("/nonexistent/luod.sock");
    root.run(nowhere, &["metrics", "--output", &output])
        .expect(3)
        .says("is it running?");
    let metrics = Metrics::parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(metrics.value("luo_up", None), 0.0);
    let names = fs::read_dir(file.parent().unwrap()).unwrap();
    let left = names.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("luo.prom.")
    });
    assert_eq!(left.count(), 0);

    let bad = root.path("nowhere/luo.prom");
    root.run(luod.path(), &["metrics", "--output", bad.to_str().unwrap()])
        .expect(1)
        .says("cannot write");
}
