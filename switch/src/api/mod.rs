//! The control API: HTTP/1.1 and JSON on a Unix socket, and on a loopback TCP port if a token guards it.
//!
//! It has a thread of its own ([`server`]). A request is looked up in the one table of methods ([`methods`]), by its path or by its JSON-RPC name
//! ([`rpc`]), and becomes work for the control thread ([`control_thread`]), which owns everything that is asked about. The types of requests and answers
//! ([`types`]) serve the server, the commands and the description ([`openapi`]) alike.

mod answer;
mod captures;
mod client;
mod control_thread;
mod events;
mod listen;
mod method;
mod methods;
mod metrics;
mod openapi;
mod params;
mod problem;
mod rights;
pub(crate) mod rpc;
mod server;
#[cfg(test)]
mod tests;
mod token;
pub(crate) mod types;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use crossbeam::channel::Sender;
use tokio::sync::oneshot;

use self::{
    answer::Answer,
    control_thread::ControlThread,
    listen::{SocketError, UnixSocket},
    method::Method,
    params::Params,
    rights::Caller,
    types::{Problem, ProblemCode},
};
pub(crate) use self::{
    captures::{Begun, Running},
    client::{Client, ClientError, Received},
    control_thread::{Reply, Work},
    events::EventLog,
    metrics::Scrape,
    rights::Groups,
    token::Token,
};
use crate::{exit::Failure, run::Message};

/// Where the sockets of all instances are.
const RUNTIME_DIRECTORY: &str = "/run/ipop-switch";

/// The socket of an instance, unless told otherwise.
pub(crate) fn socket_of(instance: &str) -> PathBuf {
    Path::new(RUNTIME_DIRECTORY).join(format!("{instance}.sock"))
}

/// What answers requests.
struct Api {
    methods: Vec<Method>,
    control: ControlThread,
    groups: Groups,
    /// As JSON.
    description: String,
    events: EventLog,
}

impl Api {
    fn new(messages: Sender<Message>, groups: Groups, events: EventLog) -> Self {
        let methods = methods::all();
        let description = description_of(&methods);
        Self { methods, control: ControlThread::new(messages), groups, description, events }
    }

    /// Calls a method by its name.
    async fn call(&self, name: &str, caller: &Caller, params: Params) -> Answer {
        let Some(method) = self.methods.iter().find(|method| method.name == name) else {
            let text = format!("there is no method {name:?}; GET /v1/openapi.json lists them");
            return Err(Problem::new(ProblemCode::NoSuchMethod, text));
        };
        caller.needs(method.right, &self.groups)?;
        method.call(self.control.clone(), caller.clone(), params).await
    }
}

fn description_of(methods: &[Method]) -> String {
    // The types are the program's own: none fails to become JSON.
    serde_json::to_string_pretty(&openapi::of(methods)).unwrap_or_default()
}

/// Where the API is served.
#[derive(Debug)]
pub(crate) struct Listeners {
    unix: Option<UnixSocket>,
    tcp: Option<(TcpListener, Token)>,
}

impl Listeners {
    /// Listens at this Unix socket, which these groups may use.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn open_unix(&mut self, path: &Path, groups: &Groups) -> Result<(), SocketError> {
        self.unix = Some(UnixSocket::open(path, groups)?);
        Ok(())
    }

    /// Listens at this address, for whoever has the token.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn open_tcp(&mut self, address: SocketAddr, token: Token) -> io::Result<()> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        self.tcp = Some((listener, token));
        Ok(())
    }

    /// None yet.
    pub(crate) const fn none() -> Self {
        Self { unix: None, tcp: None }
    }

    /// Whether nobody could come.
    pub(crate) const fn is_empty(&self) -> bool {
        self.unix.is_none() && self.tcp.is_none()
    }
}

/// The API's thread. When this goes, so do the thread and the socket.
pub(crate) struct Server {
    /// Its end tells the thread to end.
    ends: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves there.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        listeners: Listeners,
        groups: Groups,
        messages: Sender<Message>,
        events: EventLog,
    ) -> Result<Self, Failure> {
        let api = Api::new(messages, groups, events);
        let (ends, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the API")?;
        let serve = move || runtime.block_on(server::serve(api, listeners, ended));
        let thread = thread::Builder::new().name("api".into()).spawn(serve);
        let thread = Some(thread.context("cannot start a thread")?);
        Ok(Self { ends: Some(ends), thread })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(thread) = self.thread.take() {
            // It panicked, which the log has: nothing is left to be done.
            let _ = thread.join();
        }
    }
}
