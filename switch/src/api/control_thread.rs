//! The control thread, as the API's thread sees it: it is sent what it shall do, and answers when it has.
//!
//! Nothing here waits for a lock that a worker takes. What comes from workers is asked of them by the control thread, which answers without those that
//! stay away ([`mod@crate::run`]).

use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::{sync::oneshot, time::timeout};

use super::types::{Problem, ProblemCode};
use crate::run::{Message, Switch};

/// How long the control thread has to answer. It does in a millisecond, unless a name server or a disk holds it up.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Brings an answer back to whoever asked.
pub(crate) struct Reply<T>(oneshot::Sender<Result<T, Problem>>);

impl<T> Reply<T> {
    /// Whoever asked may have gone meanwhile.
    pub(crate) fn send(self, answer: Result<T, Problem>) {
        let _ = self.0.send(answer);
    }
}

/// Work for the control thread.
pub(crate) type Work = Box<dyn FnOnce(&mut Switch) + Send>;

/// The control thread.
#[derive(Clone)]
pub(super) struct ControlThread(Sender<Message>);

impl ControlThread {
    pub(super) fn new(messages: Sender<Message>) -> Self {
        Self(messages)
    }

    /// Has the control thread do this, and waits for what it answers.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Switch, Reply<T>) + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(|switch| work(switch, Reply(reply)));
        // A full channel is not waited for: workers' reports go first.
        self.0.try_send(Message::Work(work)).map_err(|_| Problem::busy())?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            // The switch ended before it came to it.
            Ok(Err(_)) => Err(Problem::busy()),
            Err(_) => Err(Problem::new(
                ProblemCode::Busy,
                "the switch did not answer in time; what was asked for may be done yet",
            )),
        }
    }
}
