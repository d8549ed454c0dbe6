//! A method: what it is called over HTTP and JSON-RPC, whom it takes, what it does, and how all that is described.

use std::{future::Future, pin::Pin, time::Instant};

use axum::http;
use serde::{Serialize, de::DeserializeOwned};
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    answer::{Answer, written},
    control_thread::{ControlThread, Reply},
    params::Params,
    rights::{Caller, Right},
    types::Problem,
};
use crate::run::{Connections, Switch};

/// An HTTP method (RFC 9110, section 9.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    /// To look.
    Get,
    /// To do something, or to add something whose name others choose.
    Post,
    /// To put something in its place.
    Put,
    /// To remove.
    Delete,
}

impl Verb {
    /// As the HTTP library has it.
    pub(super) fn http(self) -> http::Method {
        match self {
            Self::Get => http::Method::GET,
            Self::Post => http::Method::POST,
            Self::Put => http::Method::PUT,
            Self::Delete => http::Method::DELETE,
        }
    }

    /// Whether what a method takes stands in the body.
    pub(super) fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put)
    }
}

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Call = Box<dyn Fn(ControlThread, Caller, Params) -> Answering + Send + Sync>;

/// A type as the description has it: its name, itself, and all that it is made of.
pub(super) struct Described {
    pub(super) name: String,
    pub(super) schema: RefOr<Schema>,
    pub(super) parts: Vec<(String, RefOr<Schema>)>,
}

impl Described {
    pub(super) fn of<T: ToSchema>() -> Self {
        let mut parts = Vec::new();
        T::schemas(&mut parts);
        Self { name: T::name().into_owned(), schema: T::schema(), parts }
    }
}

/// A method.
pub(super) struct Method {
    /// Its name in JSON-RPC, such as `peers.get`.
    pub(super) name: &'static str,
    pub(super) verb: Verb,
    /// Its path, with `{variable}` parts, such as `/v1/peers/{peer}`.
    pub(super) path: &'static str,
    /// What it takes to call it.
    pub(super) right: Right,
    /// One line for the description.
    pub(super) summary: &'static str,
    /// What it takes.
    pub(super) params: fn() -> Described,
    /// What it answers.
    pub(super) answer: fn() -> Described,
    call: Call,
}

/// Where a method is found.
pub(super) type At = (&'static str, Verb, &'static str);

impl Method {
    /// Calls it.
    pub(super) async fn call(
        &self,
        control: ControlThread,
        caller: Caller,
        params: Params,
    ) -> Answer {
        (self.call)(control, caller, params).await
    }

    /// One that shows what the control thread knows.
    pub(super) fn shows<P, R>(
        at: At,
        summary: &'static str,
        show: fn(&Switch, P) -> Result<R, Problem>,
    ) -> Self
    where
        P: DeserializeOwned + ToSchema + Send + 'static,
        R: Serialize + ToSchema + Send + 'static,
    {
        let call: Call = Box::new(move |control, _, params| {
            Box::pin(async move {
                let params = params.read::<P>()?;
                let answer = control.ask(move |switch, reply| reply.send(show(switch, params)));
                written(&answer.await?)
            })
        });
        Self::new::<P, R>(at, Right::Read, summary, call)
    }

    /// The same for what not everybody who may look is to see.
    pub(super) fn shows_secrets<P, R>(
        at: At,
        summary: &'static str,
        show: fn(&Switch, P) -> Result<R, Problem>,
    ) -> Self
    where
        P: DeserializeOwned + ToSchema + Send + 'static,
        R: Serialize + ToSchema + Send + 'static,
    {
        Self { right: Right::Change, ..Self::shows(at, summary, show) }
    }

    /// One that shows how the workers' connections are besides.
    pub(super) fn shows_connections<P, R>(
        at: At,
        summary: &'static str,
        show: fn(&Switch, &Connections, P) -> Result<R, Problem>,
    ) -> Self
    where
        P: DeserializeOwned + ToSchema + Send + 'static,
        R: Serialize + ToSchema + Send + 'static,
    {
        let call: Call = Box::new(move |control, _, params| {
            Box::pin(async move {
                let params = params.read::<P>()?;
                let answer = control.ask(move |switch, reply| {
                    switch.with_connections(Instant::now(), move |switch, connections| {
                        reply.send(show(switch, connections, params));
                    });
                });
                written(&answer.await?)
            })
        });
        Self::new::<P, R>(at, Right::Read, summary, call)
    }

    /// One that changes something, which the log says.
    pub(super) fn changes<P, R>(
        at: At,
        summary: &'static str,
        change: fn(&mut Switch, P) -> Result<R, Problem>,
    ) -> Self
    where
        P: DeserializeOwned + ToSchema + Send + 'static,
        R: Serialize + ToSchema + Send + 'static,
    {
        let name = at.0;
        let call: Call = Box::new(move |control, caller, params| {
            Box::pin(async move {
                let params = params.read::<P>()?;
                let answer = control.ask(move |switch, reply| {
                    tracing::info!("API: {name} by {caller}");
                    reply.send(change(switch, params));
                });
                written(&answer.await?)
            })
        });
        Self::new::<P, R>(at, Right::Change, summary, call)
    }

    /// One that waits for others than the workers, and answers when it can.
    pub(super) fn asks<P, R>(
        at: At,
        right: Right,
        summary: &'static str,
        ask: fn(&mut Switch, P, Reply<R>),
    ) -> Self
    where
        P: DeserializeOwned + ToSchema + Send + 'static,
        R: Serialize + ToSchema + Send + 'static,
    {
        let call: Call = Box::new(move |control, _, params| {
            Box::pin(async move {
                let params = params.read::<P>()?;
                let answer = control.ask(move |switch, reply| ask(switch, params, reply));
                written(&answer.await?)
            })
        });
        Self::new::<P, R>(at, right, summary, call)
    }

    fn new<P: ToSchema, R: ToSchema>(
        (name, verb, path): At,
        right: Right,
        summary: &'static str,
        call: Call,
    ) -> Self {
        let (params, answer) = (Described::of::<P>, Described::of::<R>);
        Self { name, verb, path, right, summary, params, answer, call }
    }
}
