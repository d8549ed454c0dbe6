//! A method: what it is called over HTTP and JSON-RPC, whom it takes, what it does, and how all that is described.

use std::{future::Future, pin::Pin, time::Instant};

use axum::routing::MethodFilter;
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
    /// As routes have it.
    pub(super) fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
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

/// What a method can take.
pub(super) trait Taken: DeserializeOwned + ToSchema + Send + 'static {}

impl<T: DeserializeOwned + ToSchema + Send + 'static> Taken for T {}

/// What a method can answer.
pub(super) trait Given: Serialize + ToSchema + Send + 'static {}

impl<T: Serialize + ToSchema + Send + 'static> Given for T {}

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
    pub(super) fn shows<P: Taken, R: Given>(
        at: At,
        summary: &'static str,
        show: fn(&Switch, P) -> Result<R, Problem>,
    ) -> Self {
        Self::new(at, Right::Read, summary, move |switch, _, params, reply| {
            reply.send(show(switch, params));
        })
    }

    /// The same for what not everybody who may look is to see.
    pub(super) fn shows_secrets<P: Taken, R: Given>(
        at: At,
        summary: &'static str,
        show: fn(&Switch, P) -> Result<R, Problem>,
    ) -> Self {
        Self { right: Right::Change, ..Self::shows(at, summary, show) }
    }

    /// One that shows how the workers' connections are besides.
    pub(super) fn shows_connections<P: Taken, R: Given>(
        at: At,
        summary: &'static str,
        show: fn(&Switch, &Connections, P) -> Result<R, Problem>,
    ) -> Self {
        Self::new(at, Right::Read, summary, move |switch, _, params, reply| {
            switch.with_connections(Instant::now(), move |switch, connections| {
                reply.send(show(switch, connections, params));
            });
        })
    }

    /// One that changes something, which the log says.
    pub(super) fn changes<P: Taken, R: Given>(
        at: At,
        summary: &'static str,
        change: fn(&mut Switch, P) -> Result<R, Problem>,
    ) -> Self {
        let name = at.0;
        Self::new(at, Right::Change, summary, move |switch, caller, params, reply| {
            tracing::info!("API: {name} by {caller}");
            reply.send(change(switch, params));
        })
    }

    /// One that waits for others than the workers, and answers when it can.
    pub(super) fn asks<P: Taken, R: Given>(
        at: At,
        right: Right,
        summary: &'static str,
        ask: fn(&mut Switch, P, Reply<R>),
    ) -> Self {
        Self::new(at, right, summary, move |switch, _, params, reply| ask(switch, params, reply))
    }

    /// One that the control thread begins this way, with what was read of the request; whoever has the reply answers.
    fn new<P: Taken, R: Given>(
        (name, verb, path): At,
        right: Right,
        summary: &'static str,
        begin: impl Fn(&mut Switch, &Caller, P, Reply<R>) + Copy + Send + Sync + 'static,
    ) -> Self {
        let call: Call = Box::new(move |control, caller, params| {
            Box::pin(async move {
                let params = params.read()?;
                let answer =
                    control.ask(move |switch, reply| begin(switch, &caller, params, reply));
                written(&answer.await?)
            })
        });
        let (params, answer) = (Described::of::<P>, Described::of::<R>);
        Self { name, verb, path, right, summary, params, answer, call }
    }
}
