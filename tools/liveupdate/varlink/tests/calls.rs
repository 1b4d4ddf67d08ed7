// SPDX-License-Identifier: GPL-2.0

//! The program with a luod on a fake machine. The tests write and read the messages themselves.

use liveupdate::luod::{Client, SessionName};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_varlink::INTERFACE;
use serde_json::{json, Value};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(120);

struct Service {
    child: Child,
    path: PathBuf,
}

impl Service {
    fn start(luod: &Path) -> Self {
        let path = luod.with_file_name("varlink");
        let child = Command::new(env!("CARGO_BIN_EXE_luod-varlink"))
            .args(["--socket".as_ref(), luod, "--listen".as_ref(), &path])
            .spawn()
            .unwrap();
        Self { child, path }
    }

    fn connect(&self) -> UnixStream {
        let end = Instant::now() + SOON;
        loop {
            match UnixStream::connect(&self.path) {
                Ok(stream) => return stream,
                Err(error) if Instant::now() > end => panic!("{error}"),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Calls a method on a new connection.
    fn call(&self, method: &str, parameters: Value) -> Value {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let call = json!({ "method": method, "parameters": parameters });
        write!(stream, "{call}\0").unwrap();
        let mut reply = Vec::new();
        BufReader::new(stream).read_until(0, &mut reply).unwrap();
        assert_eq!(reply.pop(), Some(0), "{}", String::from_utf8_lossy(&reply));
        serde_json::from_slice(&reply).unwrap()
    }

    fn ask(&self, method: &str) -> Value {
        self.call(&format!("{INTERFACE}.{method}"), json!({}))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn luod_can_be_read() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let service = Service::start(luod.path());

    // A connection that sends half of a message does not keep others waiting.
    let mut slow = service.connect();
    write!(slow, "{{\"method\":").unwrap();

    let status = service.ask("GetStatus");
    assert_eq!(status["parameters"]["phase"], "idle", "{status}");
    assert_eq!(status["parameters"]["subscribed"], 0);

    let mut client = Client::connect_to(luod.path(), "cache").unwrap();
    let name = SessionName::new("cache").unwrap();
    client.subscribe(&name, None).unwrap();
    let sessions = service.ask("ListSessions");
    let sessions = sessions["parameters"]["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!(sessions[0]["session"], "cache");
    assert_eq!(sessions[0]["state"], "subscribed");
    assert_eq!(sessions[0]["pid"], std::process::id());

    // There was no update.
    let report = service.ask("GetReport");
    assert_eq!(report["error"], format!("{INTERFACE}.Refused"), "{report}");

    let path = luod.path().to_owned();
    drop(client);
    drop(luod);
    let status = service.ask("GetStatus");
    let error = format!("{INTERFACE}.NotRunning");
    assert_eq!(status["error"], error, "{status} {}", path.display());
}

#[test]
fn the_interface_describes_itself() {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let service = Service::start(luod.path());
    let info = service.call("org.varlink.service.GetInfo", json!({}));
    let interfaces = info["parameters"]["interfaces"].as_array().unwrap();
    assert!(interfaces.contains(&json!(INTERFACE)), "{info}");
    let wanted = json!({ "interface": INTERFACE });
    let reply = service.call("org.varlink.service.GetInterfaceDescription", wanted);
    let text = reply["parameters"]["description"].as_str().unwrap();
    for part in [
        "method GetStatus() -> (",
        "method ListSessions() -> (",
        "method GetReport() -> (",
        "error NotRunning",
        "type Session",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    // Nothing can be changed.
    let reply = service.ask("Kexec");
    assert_eq!(
        reply["error"], "org.varlink.service.MethodNotFound",
        "{reply}"
    );
}
