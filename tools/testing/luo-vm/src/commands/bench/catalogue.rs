// SPDX-License-Identifier: GPL-2.0

//! The benchmarks and their goals.

/// One run of a machine.
pub struct Run {
    pub name: &'static str,
    pub title: &'static str,
    /// Arguments of the guest's `bench`.
    pub arguments: &'static str,
    /// Parameters of the kernels.
    pub params: &'static str,
    /// Whether it is short enough for `QUICK=1`.
    pub quick: bool,
    /// The ratio, ours to C, that a figure should reach.
    pub targets: &'static [(&'static str, f64)],
    /// The curve and the position of its point.
    #[cfg_attr(not(feature = "plots"), expect(dead_code))]
    pub curve: Option<(&'static str, u64)>,
}

/// A figure of a run.
pub struct Figure {
    pub name: &'static str,
    pub title: &'static str,
    /// The values of the guest or the kernel log to add up.
    pub keys: &'static [&'static str],
}

impl Figure {
    /// Microseconds or KiB.
    pub fn unit(&self) -> &'static str {
        if self.keys[0].ends_with("_kb") {
            "kb"
        } else {
            "us"
        }
    }
}

const fn figure(name: &'static str, title: &'static str, keys: &'static [&'static str]) -> Figure {
    Figure { name, title, keys }
}

pub const FIGURES: &[Figure] = &[
    figure("create", "create", &["create_us"]),
    figure("open", "open + deserialize", &["open_us"]),
    figure("claim", "retrieve + finish", &["retrieve_us", "finish_us"]),
    figure("preserve", "preserve", &["preserve_us"]),
    figure("preserve_mem", "preserve, memory", &["preserve_kb"]),
    figure("retrieve", "retrieve", &["retrieve_us"]),
    figure("retrieve_mem", "retrieve, memory", &["retrieve_kb"]),
    figure("finish", "finish", &["finish_us"]),
    figure("used", "memory after the kexec", &["used_kb"]),
    figure("blackout", "reboot to init", &["blackout_us"]),
    figure("shutdown", "freeze + shutdown", &["phase_shutdown_us"]),
    figure(
        "jump",
        "jump, decompression, memory, TSC",
        &["phase_jump_us"],
    ),
    figure("boot_memory", "boot, processors", &["phase_memory_us"]),
    figure("initcalls", "boot, initcalls", &["phase_initcalls_us"]),
    figure("init", "start of init", &["phase_init_us"]),
];

/// The phases of a blackout, in order.
pub const PHASES: [&str; 5] = ["shutdown", "jump", "boot_memory", "initcalls", "init"];

macro_rules! runs {
    ($($name:literal, $title:literal, $arguments:literal, $quick:literal,
       $curve:expr, [$($figure:literal: $target:literal),*];)*) => {
        pub const RUNS: &[Run] = &[$(Run {
            name: $name,
            title: $title,
            arguments: $arguments,
            params: "",
            quick: $quick,
            curve: $curve,
            targets: &[$(($figure, $target)),*],
        }),*];
    };
}

runs! {
    "small", "small state", "small", true, None, ["blackout": 0.6];
    "sessions-1k", "1k sessions", "sessions --n=1000", true, Some(("sessions", 1000)), [];
    "sessions-5k", "5k sessions", "sessions --n=5000", true, Some(("sessions", 5000)), [];
    "sessions-20k", "20k sessions", "sessions --n=20000", false, Some(("sessions", 20000)),
        ["create": 0.02, "open": 0.02, "claim": 0.02];
    "files-1k", "1k files", "files --n=1000", true, Some(("files", 1000)), [];
    "files-5k", "5k files", "files --n=5000", true, Some(("files", 5000)), [];
    "files-20k", "20k files", "files --n=20000", false, Some(("files", 20000)),
        ["preserve": 0.1, "retrieve": 0.2];
    "dense-256m", "dense 256 MiB, 4 KiB folios", "memory --mb=256", true, None, [];
    "dense-256m-huge", "dense 256 MiB, 2 MiB folios", "memory --mb=256 --huge=1", true, None, [];
    "dense-1536m", "dense 1.5 GiB, 4 KiB folios", "memory --mb=1536", false, None,
        ["preserve": 0.7, "retrieve": 0.33];
    "dense-1536m-huge", "dense 1.5 GiB, 2 MiB folios", "memory --mb=1536 --huge=1", false, None,
        ["retrieve": 1.0];
    "eight", "8 x 64 MiB, 8 threads", "memory --files=8 --mb=64", true, None, [];
    "sparse-256m", "sparse 256 MiB, one page", "sparse --mb=256", true, Some(("holes", 256)),
        ["preserve": 0.01, "preserve_mem": 0.001];
    "sparse-1g", "sparse 1 GiB, one page", "sparse --mb=1024", false, Some(("holes", 1024)), [];
    "scattered-16k", "16k scattered folios", "scattered --n=16384", true,
        Some(("folios", 16384)), [];
    "scattered-48k", "49k scattered folios", "scattered --n=49152", false,
        Some(("folios", 49152)), ["blackout": 0.15];
}
