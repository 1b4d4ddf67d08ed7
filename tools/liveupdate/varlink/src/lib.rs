// SPDX-License-Identifier: GPL-2.0

//! The state of luod as a Varlink service, for programs that use Varlink and not the protocol of
//! luod: monitoring, management of fleets, `varlinkctl`.
//!
//! The service is read-only. Each call is a request to luod on a new connection, with the rights of
//! the user that this service runs as; the permissions of its own socket decide who may call it.
//!
//! ```text
//! $ varlinkctl call /run/luod/io.luod.LiveUpdate io.luod.LiveUpdate.GetStatus '{}'
//! ```

#![forbid(unsafe_code)]

pub mod types;

use luod_protocol::{Channel, Event, Request};
use serde::Serialize;
use serde_json::{json, Value};
use std::{
    io::{self, BufRead},
    path::PathBuf,
    time::Duration,
};
use types::{Report, Session, Sessions, Status};
use varlink::{Call, CallTrait, Interface, Reply, VarlinkService};

/// The name of the interface.
pub const INTERFACE: &str = "io.luod.LiveUpdate";

/// The time limit for an answer of luod.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service for the luod that listens on `socket`.
pub fn service(socket: impl Into<PathBuf>) -> VarlinkService {
    let socket = socket.into();
    VarlinkService::new(
        "Live Update Orchestrator",
        "luod",
        env!("CARGO_PKG_VERSION"),
        "",
        vec![Box::new(LiveUpdate { socket })],
    )
}

/// An error of the interface.
#[derive(Debug)]
enum Failure {
    /// luod does not answer.
    NotRunning(io::Error),
    /// luod has refused the request.
    Refused { code: String, message: String },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::NotRunning(error)
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let (name, parameters) = match failure {
            Failure::NotRunning(error) => ("NotRunning", json!({ "message": error.to_string() })),
            Failure::Refused { code, message } => {
                ("Refused", json!({ "code": code, "message": message }))
            }
        };
        Self::error(format!("{INTERFACE}.{name}"), Some(parameters))
    }
}

/// The interface.
#[derive(Debug)]
struct LiveUpdate {
    socket: PathBuf,
}

impl LiveUpdate {
    /// Sends a request to luod.
    fn ask(&self, request: &Request) -> Result<Event, Failure> {
        let mut luod = Channel::connect(&self.socket)?;
        match luod.call(request, Some(PATIENCE))?.0 {
            Event::Error { code, message, .. } => Err(Failure::Refused {
                code: code.to_string(),
                message,
            }),
            event => Ok(event),
        }
    }

    fn get_status(&self) -> Result<Value, Failure> {
        match self.ask(&Request::Status)? {
            Event::Status(status) => value(Status::from(status)),
            _ => Err(unexpected()),
        }
    }

    fn list_sessions(&self) -> Result<Value, Failure> {
        match self.ask(&Request::List)? {
            Event::List { sessions } => value(Sessions {
                sessions: sessions.into_iter().map(Session::from).collect(),
            }),
            _ => Err(unexpected()),
        }
    }

    fn get_report(&self) -> Result<Value, Failure> {
        match self.ask(&Request::Report)? {
            Event::Report(report) => value(Report::from(report)),
            _ => Err(unexpected()),
        }
    }
}

fn value(parameters: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(parameters).map_err(|error| Failure::from(io::Error::from(error)))
}

/// The error for an answer to another request.
fn unexpected() -> Failure {
    let why = "luod has sent an unexpected answer";
    io::Error::new(io::ErrorKind::InvalidData, why).into()
}

impl Interface for LiveUpdate {
    fn get_description(&self) -> &'static str {
        include_str!("io.luod.LiveUpdate.varlink")
    }

    fn get_name(&self) -> &'static str {
        INTERFACE
    }

    fn call_upgraded(&self, _: &mut Call, _: &mut dyn BufRead) -> varlink::Result<Vec<u8>> {
        // No method upgrades its connection.
        Ok(Vec::new())
    }

    fn call(&self, call: &mut Call) -> varlink::Result<()> {
        let method = call.get_request().map_or("", |request| &request.method);
        let name = method.rsplit('.').next().unwrap_or(method).to_owned();
        let answer = match name.as_str() {
            "GetStatus" => self.get_status(),
            "ListSessions" => self.list_sessions(),
            "GetReport" => self.get_report(),
            _ => return call.reply_method_not_found(name),
        };
        call.reply_struct(match answer {
            Ok(parameters) => Reply::parameters(Some(parameters)),
            Err(failure) => failure.into(),
        })
    }
}
