// SPDX-License-Identifier: GPL-2.0

//! The death of an agent loses no data.

use crate::support::{
    agent::{Agent, Order},
    error::{At, Result},
    memfd,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
};
use liveupdate::Device;
use rustix::io::Errno;

/// The files of a session in these tests.
const FILES: [(u64, Pattern); 3] = [
    (
        1,
        Pattern {
            seed: 501,
            len: 100_000,
        },
    ),
    (7, Pattern { seed: 502, len: 1 }),
    (
        u64::MAX,
        Pattern {
            seed: 503,
            len: 2_200_000,
        },
    ),
];

/// Makes an agent preserve the files, and keeps it until the kexec.
fn fill(stage: &mut Stage<'_>, name: &str) -> Result {
    let agent = Agent::start()?;
    agent.order(Order::Create(name))?;
    for (token, pattern) in FILES {
        agent.order(Order::Preserve(token, pattern))?;
    }
    stage.hold(agent);
    Ok(())
}

/// A new agent retrieves all files.
fn new_agent_gets_all(name: &str) -> Result {
    let agent = Agent::start()?;
    agent
        .order(Order::RetrieveSession(name))
        .at("the new agent")?;
    for (token, pattern) in FILES {
        agent
            .order(Order::Retrieve(token, pattern))
            .at(format_args!("the new agent, file {token}"))?;
    }
    agent.order(Order::Finish).at("the new agent")?;
    expect_errno(
        Device::open()?.retrieve_session(name),
        Errno::NOENT,
        "retrieving a finished session",
    )
}

/// An agent that dies after carrying out some orders in the new kernel.
fn killed_after(name: &'static str, orders: &'static [Order<'static>]) -> Case {
    let case = Case::two(
        name,
        move |stage| fill(stage, name),
        move |_| {
            let agent = Agent::start()?;
            for order in orders {
                agent.order(*order).at("the first agent")?;
            }
            agent.kill();
            new_agent_gets_all(name)
        },
    );
    // Without orders, the agent has no state.
    if orders.is_empty() {
        case
    } else {
        case.hazard("1A.2")
    }
}

fn killed_before_preserve() -> Case {
    Case::one("killed_before_preserve", |_| {
        let agent = Agent::start()?;
        agent.order(Order::Open)?;
        agent.order(Order::Create("agent-early"))?;
        agent.kill();
        // Neither the device nor the name is in use.
        create("agent-early").map(drop)
    })
}

fn killed_after_preserve() -> Case {
    let pattern = Pattern::new(504, 300_000);
    Case::two(
        "killed_after_preserve",
        move |stage| {
            let agent = Agent::start()?;
            agent.order(Order::Create("agent-preserved"))?;
            agent.order(Order::Preserve(1, pattern))?;
            agent.kill();
            let session = create("agent-preserved")?;
            let file = memfd::with(pattern)?;
            session.preserve(&file, 2)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("agent-preserved")?;
            expect_errno(
                session.retrieve(1),
                Errno::NOENT,
                "retrieving the dead agent's file",
            )?;
            memfd::check(session.retrieve(2)?, pattern)?;
            Ok(session.finish()?)
        },
    )
}

/// Another process holds the session: the files of the dead agent are kept as well.
fn killed_while_another_process_holds_the_session() -> Case {
    Case::two(
        "killed_while_another_process_holds_the_session",
        |stage| {
            let session = create("agent-holder")?;
            let agent = Agent::start()?;
            agent.give(Order::AdoptOutgoing, &session)?;
            for (token, pattern) in FILES {
                agent.order(Order::Preserve(token, pattern))?;
            }
            agent.kill();
            stage.hold(session);
            Ok(())
        },
        |_| new_agent_gets_all("agent-holder"),
    )
}

/// The agent is not killed, but closes the session repeatedly.
fn closed_without_finish() -> Case {
    Case::two(
        "closed_without_finish",
        |stage| fill(stage, "agent-closed"),
        |_| {
            for round in 0..3 {
                let session = retrieve("agent-closed")?;
                for (token, pattern) in FILES.into_iter().take(round) {
                    memfd::check(session.retrieve(token)?, pattern)?;
                }
            }
            new_agent_gets_all("agent-closed")
        },
    )
    .hazard("1A.2")
}

/// Data that the dead agent has written to a retrieved file is not lost.
fn writes_survive() -> Case {
    let (old, new) = (Pattern::new(505, 50_000), Pattern::new(506, 50_000));
    Case::two(
        "writes_of_the_dead_survive",
        move |stage| {
            let session = create("agent-writes")?;
            let file = memfd::with(old)?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("agent-writes")?;
            new.write(&session.retrieve(1)?.into(), 0)?;
            drop(session);
            let session = retrieve("agent-writes")?;
            memfd::check(session.retrieve(1)?, new)?;
            Ok(session.finish()?)
        },
    )
    .hazard("1A.2")
}

/// Two agents, each with a session of its own.
fn two_processes() -> Case {
    let patterns = [Pattern::new(507, 400_000), Pattern::new(508, 500_000)];
    let names = ["agent-two-a", "agent-two-b"];
    Case::two(
        "two_processes",
        move |stage| {
            let agents = [Agent::start()?, Agent::start()?];
            for (agent, name) in agents.iter().zip(names) {
                agent.order(Order::Create(name))?;
            }
            // The same token in different sessions.
            for (agent, pattern) in agents.iter().zip(patterns) {
                agent.order(Order::Preserve(1, pattern))?;
            }
            stage.hold(agents);
            Ok(())
        },
        move |_| {
            let agents = [Agent::start()?, Agent::start()?];
            for (agent, name) in agents.iter().zip(names) {
                agent.order(Order::RetrieveSession(name))?;
            }
            for (agent, pattern) in agents.iter().zip(patterns) {
                agent.order(Order::Retrieve(1, pattern))?;
            }
            for agent in &agents {
                agent.order(Order::Finish)?;
            }
            Ok(())
        },
    )
}

/// A session is sent over a socket, before and after the kexec, and closed by the sender.
fn session_over_socket() -> Case {
    let pattern = Pattern::new(509, 111_111);
    Case::two(
        "session_over_socket",
        move |stage| {
            let agent = Agent::start()?;
            agent.give(Order::AdoptOutgoing, create("agent-socket")?)?;
            agent.order(Order::Preserve(9, pattern))?;
            stage.hold(agent);
            Ok(())
        },
        move |_| {
            let agent = Agent::start()?;
            agent.give(Order::AdoptIncoming, retrieve("agent-socket")?)?;
            expect_errno(
                Device::open()?.retrieve_session("agent-socket"),
                Errno::BUSY,
                "retrieving a session that is open",
            )?;
            agent.order(Order::Retrieve(9, pattern))?;
            Ok(agent.order(Order::Finish)?)
        },
    )
}

/// Two processes preserve and retrieve files in one session.
fn shared_session() -> Case {
    let patterns = [Pattern::new(510, 1000), Pattern::new(511, 2000)];
    Case::two(
        "session_shared_by_two",
        move |stage| {
            let session = create("agent-shared")?;
            for (token, pattern) in patterns.into_iter().enumerate() {
                let agent = Agent::start()?;
                agent.give(Order::AdoptOutgoing, &session)?;
                agent.order(Order::Preserve(token as u64, pattern))?;
                stage.hold(agent);
            }
            Ok(())
        },
        move |_| {
            let session = retrieve("agent-shared")?;
            for (token, pattern) in patterns.into_iter().enumerate() {
                let agent = Agent::start()?;
                agent.give(Order::AdoptIncoming, &session)?;
                agent.order(Order::Retrieve(token as u64, pattern))?;
            }
            Ok(session.finish()?)
        },
    )
}

fn exclusive_open() -> Case {
    Case::one("exclusive_open", |_| {
        let device = Device::open()?;
        expect_errno(Device::open(), Errno::BUSY, "a second open")?;
        let agent = Agent::start()?;
        expect_errno(
            agent.order(Order::Open),
            Errno::BUSY,
            "an open by another process",
        )?;
        drop(device);
        agent.order(Order::Open).at("open after a close")?;
        expect_errno(
            Device::open(),
            Errno::BUSY,
            "an open while the other process has it",
        )?;
        agent.order(Order::Close)?;
        drop(Device::open()?);
        agent.order(Order::Open)?;
        agent.kill();
        drop(Device::open().at("open after the death of the other process")?);
        Ok(())
    })
}

pub fn suite() -> Suite {
    const NAMES: [&str; 5] = [
        "killed_before_retrieve_session",
        "killed_after_retrieve_session",
        "killed_after_retrieve_fd",
        "killed_before_finish",
        "killed_with_device_open",
    ];
    let [unused, session, some, all, open] = NAMES;
    let cases = vec![
        killed_before_preserve(),
        killed_after_preserve(),
        killed_while_another_process_holds_the_session(),
        killed_after(unused, &[]),
        killed_after(
            open,
            const { &[Order::Open, Order::RetrieveSession(NAMES[4])] },
        ),
        killed_after(session, const { &[Order::RetrieveSession(NAMES[1])] }),
        killed_after(
            some,
            const {
                let (token, pattern) = FILES[1];
                &[
                    Order::RetrieveSession(NAMES[2]),
                    Order::Retrieve(token, pattern),
                ]
            },
        ),
        killed_after(
            all,
            const {
                &[
                    Order::RetrieveSession(NAMES[3]),
                    Order::Retrieve(FILES[0].0, FILES[0].1),
                    Order::Retrieve(FILES[1].0, FILES[1].1),
                    Order::Retrieve(FILES[2].0, FILES[2].1),
                ]
            },
        ),
        closed_without_finish(),
        writes_survive(),
        two_processes(),
        session_over_socket(),
        shared_session(),
        exclusive_open(),
    ];
    Suite::new("agents", cases)
}
