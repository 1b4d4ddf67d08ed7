// SPDX-License-Identifier: GPL-2.0

//! The client for tokio, with a luod on a fake machine.

use liveupdate::luod::{AsyncClient, ErrorCode, Notice, Refused, SessionName};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Channel, Event, Request};
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    fs::File,
    future::{poll_fn, Future},
    os::unix::fs::FileExt,
    path::Path,
    pin::pin,
    task::Poll,
    time::Duration,
};

const SOON: Duration = Duration::from_secs(120);

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(SOON, future).await };
    runtime.block_on(limited).expect("the test takes too long")
}

fn id() -> SessionName {
    SessionName::new("cache").unwrap()
}

/// Starts an update, as an operator.
fn update(luod: &Path) -> Channel {
    let mut operator = Channel::connect(luod).unwrap();
    let request = Request::Update {
        timeout_ms: None,
        dry_run: false,
        force: false,
        expect: None,
    };
    let (answer, _) = operator.call(&request, Some(SOON)).unwrap();
    assert!(matches!(answer, Event::Ok { .. }), "{answer:?}");
    operator
}

/// Polls a future once, and drops it.
async fn cancelled(future: impl Future) {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _ = future.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn an_update_on_tokio() {
    let world = FakeWorld::new();
    let mut luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let memory = File::from(memfd_create("cache", MemfdFlags::CLOEXEC).unwrap());
    memory.write_all_at(&[42], 0).unwrap();
    let _open = run(async {
        let mut client = AsyncClient::connect_to(&path, "cache").await.unwrap();
        assert!(client.claim(&id()).await.unwrap().is_none());
        client.subscribe(&id(), None).await.unwrap();
        let mut other = AsyncClient::connect_to(&path, "other").await.unwrap();
        let error = other.subscribe(&id(), None).await.unwrap_err();
        assert_eq!(Refused::of(&error).unwrap().code, ErrorCode::InUse);

        // The answers to requests whose futures were dropped are not taken for others.
        for _ in 0..3 {
            cancelled(client.claim(&id())).await;
            cancelled(client.next()).await;
        }
        let operator = update(&path);
        assert!(matches!(
            client.next().await.unwrap(),
            Notice::Prepare { dry_run: false, .. }
        ));
        let Notice::Preserve { session, .. } = client.next().await.unwrap() else {
            panic!("no session");
        };
        session.preserve(&memory, 1).unwrap();
        assert!(client.preserved(&id()).await.unwrap());
        let paused = client.next().await.unwrap();
        assert!(matches!(paused, Notice::Pause { .. }), "{paused:?}");
        client.ready_with(&id(), 1).await.unwrap();
        assert!(matches!(
            client.next().await.unwrap(),
            Notice::Frozen { .. }
        ));
        (client, session, operator)
    });
    luod.wait();

    luod = Luod::start_at(&world, own_config(), &path).unwrap();
    run(async {
        let mut client = AsyncClient::connect_to(&path, "cache").await.unwrap();
        let session = client.claim_within(&id(), SOON).await.unwrap().unwrap();
        let memory = File::from(session.retrieve(1).unwrap());
        let mut value = [0];
        memory.read_exact_at(&mut value, 0).unwrap();
        assert_eq!(value, [42]);
        session.finish().unwrap();
        client.finished(&id()).await.unwrap();
    });
    assert!(world.kernel.incoming().is_empty());
    drop(luod);
    let connected = run(AsyncClient::connect_to(&path, "cache"));
    assert!(connected.is_err());
}

#[test]
fn a_refusal_on_tokio() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    run(async {
        let mut client = AsyncClient::connect_to(luod.path(), "cache").await.unwrap();
        client.subscribe(&id(), None).await.unwrap();
        let _operator = update(luod.path());
        let Notice::Prepare { update, .. } = client.next().await.unwrap() else {
            panic!("no request");
        };
        let error = client.refuse(&id(), Some(update + 1), "x").await;
        assert!(Refused::of(&error.unwrap_err()).is_some());
        client
            .refuse(&id(), Some(update), "the disk is on fire")
            .await
            .unwrap();
        loop {
            if let Notice::Cancelled { reason, .. } = client.next().await.unwrap() {
                assert!(reason.contains("the disk is on fire"), "{reason}");
                break;
            }
        }
        client.unsubscribe(&id()).await.unwrap();
    });
    assert!(world.kernel.outgoing().is_empty());
}
