// SPDX-License-Identifier: GPL-2.0

//! Checks that the virtual processors of a guest have run.
//!
//! QEMU reports `running` as soon as it has told its threads to run the guest. Only KVM knows whether
//! they do: it counts the exits of each processor from the guest, and tells whether a processor
//! waits for an interrupt in KVM. Without KVM, QEMU's threads are the processors.

use crate::qmp::Qmp;
use liveupdate::luod::Result;
use std::{
    fs, io,
    thread::sleep,
    time::{Duration, Instant},
};

/// The interval between two queries.
const POLL: Duration = Duration::from_millis(5);

/// The status of a guest that runs.
const RUNNING: &str = "running";

/// The virtual processors of a guest, and which of them are known to have run.
#[derive(Debug)]
pub struct Processors {
    ran: Vec<bool>,
    proof: Proof,
}

/// How luo-qemu finds out that a processor has run.
#[derive(Debug)]
enum Proof {
    /// From the statistics of KVM.
    Kvm,
    /// From the activity of QEMU's threads.
    Threads {
        /// The process id of QEMU.
        qemu: u32,
        /// The threads of the processors, and their activity before.
        before: Vec<(u32, u64)>,
    },
}

/// Returns a number that grows when a thread runs: the number of context switches of the thread,
/// and of the ticks for which it ran.
fn activity(qemu: u32, thread: u32) -> io::Result<u64> {
    let read = |name| fs::read_to_string(format!("/proc/{qemu}/task/{thread}/{name}"));
    let parsed = parse(&read("status")?, &read("stat")?);
    parsed.ok_or_else(|| io::Error::other(format!("what the thread {thread} did is not known")))
}

/// The same, from the contents of the files `status` and `stat`.
fn parse(status: &str, stat: &str) -> Option<u64> {
    let switches = |name| {
        let mut lines = status.lines();
        let number = lines.find_map(|line| line.strip_prefix(name))?;
        number.trim().parse::<u64>().ok()
    };
    // The name of the thread is in parentheses, and may contain any character. The times in user
    // space and in the kernel are the fields 14 and 15; the field after the name is the third.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<u64>().ok();
    let left = [
        switches("voluntary_ctxt_switches:")?,
        switches("nonvoluntary_ctxt_switches:")?,
        time()?,
        time()?,
    ];
    left.into_iter().try_fold(0, u64::checked_add)
}

impl Processors {
    /// The processors of a guest that is not running yet.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn new(qmp: &mut Qmp, qemu: u32) -> Result<Self> {
        if let Some(ran) = qmp.entered()? {
            let proof = Proof::Kvm;
            return Ok(Self { ran, proof });
        }
        let mut before = Vec::new();
        for thread in qmp.threads()? {
            before.push((thread, activity(qemu, thread)?));
        }
        Ok(Self {
            ran: vec![false; before.len()],
            proof: Proof::Threads { qemu, before },
        })
    }

    fn look(&mut self, qmp: &mut Qmp) -> Result {
        let now = match &self.proof {
            Proof::Kvm => qmp.entered()?.unwrap_or_default(),
            Proof::Threads { qemu, before } => {
                let before = before.iter();
                let ran = before.map(|(thread, before)| Ok(activity(*qemu, *thread)? != *before));
                ran.collect::<io::Result<_>>()?
            }
        };
        for (ran, now) in self.ran.iter_mut().zip(now) {
            *ran |= now;
        }
        Ok(())
    }

    fn number(&self) -> usize {
        self.ran.iter().filter(|ran| **ran).count()
    }

    /// Waits until all processors have run, at most for the time `limit`, and not after the guest
    /// was stopped. Returns a remark if only some have run.
    ///
    /// # Errors
    ///
    /// If none has run, or QEMU does not answer.
    pub fn wait(mut self, qmp: &mut Qmp, limit: Duration) -> Result<Option<String>> {
        let end = Instant::now() + limit;
        loop {
            let over = Instant::now() >= end;
            let status = qmp.status()?;
            // Processors that ran before the guest was stopped, or before the time was over, count.
            self.look(qmp)?;
            let (number, all) = (self.number(), self.ran.len());
            if number == all && all > 0 {
                return Ok(None);
            }
            if over || status != RUNNING {
                return match number {
                    0 => Err(
                        format!("none of its {all} processors has run, QEMU says {status}").into(),
                    ),
                    _ => Ok(Some(format!(
                        "{number} of {all} processors have run, QEMU says {status}"
                    ))),
                };
            }
            sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::tests::qemu;
    use serde_json::{json, Value};
    use std::{io::Write, process, sync::mpsc, thread};

    const LIMIT: Duration = Duration::from_secs(300);

    /// What KVM says about a processor.
    fn stats(exits: u64, blocking: bool) -> Value {
        json!({ "provider": "kvm", "stats": [
            { "name": "blocking", "value": blocking },
            { "name": "exits", "value": exits },
        ]})
    }

    /// A QEMU that answers each query about the processors with the next one of `answers`, and
    /// repeats the last one. It reports the status `status` of the guest until only one answer is
    /// left, and
    /// `then` afterwards.
    fn asked(
        mut answers: Vec<Value>,
        threads: Vec<u32>,
        [status, then]: [&'static str; 2],
    ) -> (Qmp, thread::JoinHandle<()>) {
        qemu(move |mut stream, next| {
            answers.reverse();
            while let Some(command) = next() {
                let answer = match command["execute"].as_str().unwrap() {
                    "query-stats" if answers.len() > 1 => answers.pop().unwrap(),
                    "query-stats" => answers[0].clone(),
                    "query-cpus-fast" => {
                        let cpu = |thread: &u32| json!({ "cpu-index": 0, "thread-id": thread });
                        threads.iter().map(cpu).collect()
                    }
                    "query-status" if answers.len() > 1 => json!({ "status": status }),
                    "query-status" => json!({ "status": then }),
                    other => panic!("{other}"),
                };
                writeln!(
                    stream,
                    "{}",
                    json!({ "return": answer, "id": command["id"] })
                )
                .unwrap();
            }
        })
    }

    /// Returns the result for processors about which KVM gives `answers`, one after the other.
    fn wait(
        answers: Vec<Value>,
        status: [&'static str; 2],
        limit: Duration,
    ) -> Result<Option<String>> {
        let (mut qmp, thread) = asked(answers, Vec::new(), status);
        let processors = Processors::new(&mut qmp, 0).unwrap();
        let said = processors.wait(&mut qmp, limit);
        drop(qmp);
        thread.join().unwrap();
        said
    }

    #[test]
    fn each_processor_must_have_run() {
        let new = json!([stats(0, false), stats(0, false)]);
        let one = json!([stats(1, false), stats(0, false)]);
        // The second processor waits in KVM, and the first one has returned to QEMU.
        let both = json!([stats(1, false), stats(0, true)]);
        let answers = vec![new.clone(), new.clone(), one.clone(), both];
        assert_eq!(wait(answers, [RUNNING; 2], LIMIT).unwrap(), None);

        // A processor that has run once counts, whatever later answers are.
        let other = json!([stats(0, true), stats(0, false)]);
        let last = json!([stats(0, false), stats(3, false)]);
        let answers = vec![new.clone(), other, last];
        assert_eq!(wait(answers, [RUNNING; 2], LIMIT).unwrap(), None);

        // Its operator has stopped it.
        let said = wait(vec![new.clone(), one], [RUNNING, "paused"], LIMIT);
        let some = "1 of 2 processors have run, QEMU says paused";
        assert_eq!(said.unwrap().as_deref(), Some(some));
    }

    #[test]
    fn a_guest_that_does_not_run_is_known() {
        let new = || json!([stats(0, false), stats(0, false)]);
        let said = |status, limit| {
            let said = wait(vec![new(), new(), new()], [RUNNING, status], limit);
            said.unwrap_err().to_string()
        };
        // KVM cannot run it.
        let none = "none of its 2 processors has run, QEMU says internal-error";
        assert_eq!(said("internal-error", LIMIT), none);
        // It hangs.
        let none = "none of its 2 processors has run, QEMU says running";
        assert_eq!(said(RUNNING, Duration::ZERO), none);
        assert_eq!(said(RUNNING, Duration::from_millis(20)), none);
    }

    #[test]
    fn without_kvm_the_threads_must_have_run() {
        let (wake, woken) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let processor = thread::spawn(move || {
            let link = fs::read_link("/proc/thread-self").unwrap();
            let id = link.file_name().unwrap().to_str().unwrap().parse::<u32>();
            tell.send(id.unwrap()).unwrap();
            while woken.recv().is_ok() {}
        });
        let id = told.recv().unwrap();
        // It sleeps when it does nothing for a while.
        let mut before = 0;
        while std::mem::replace(&mut before, activity(process::id(), id).unwrap()) != before {
            sleep(Duration::from_millis(200));
        }

        // There are no statistics, or none with the known names.
        for answer in [json!([]), json!([{ "provider": "kvm", "stats": [] }])] {
            let start = || {
                let (mut qmp, thread) = asked(vec![answer.clone()], vec![id], [RUNNING; 2]);
                let processors = Processors::new(&mut qmp, process::id()).unwrap();
                (qmp, thread, processors)
            };
            let (mut qmp, _thread, processors) = start();
            let none = processors.wait(&mut qmp, Duration::ZERO).unwrap_err();
            assert!(none.to_string().starts_with("none of its 1 "), "{none}");
            let (mut qmp, _thread, processors) = start();
            wake.send(()).unwrap();
            assert_eq!(processors.wait(&mut qmp, LIMIT).unwrap(), None);
        }
        drop(wake);
        processor.join().unwrap();
        // The thread can be joined a little before it has disappeared.
        while activity(process::id(), id).is_ok() {
            sleep(POLL);
        }
    }

    #[test]
    fn what_a_thread_did_is_parsed() {
        let status =
            "Name:\tCPU 0/KVM\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t20\n";
        let stat = "5 (a) b) R 1 2 3 4 5 6 7 8 9 10 300 4000 0 0";
        assert_eq!(parse(status, stat), Some(4327));
        assert_eq!(parse(status, "5 (a) R 1"), None);
        assert_eq!(parse("voluntary_ctxt_switches:\t7\n", stat), None);
        let many = format!("5 (a) R 1 2 3 4 5 6 7 8 9 10 {} 1", u64::MAX);
        assert_eq!(parse(status, &many), None);
    }
}
