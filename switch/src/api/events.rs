//! Events on their way to whoever listens: server-sent events (HTML Living Standard, section 9.2) at `GET /v1/events`.
//!
//! The control thread puts them down, the latest 1,024 are kept, and each listener reads them at its own pace. One that falls further behind is told so
//! and cut off: nothing waits for it, and nothing grows.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{self, KeepAlive},
};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{
    rights::{Caller, Right},
    types::{Event, EventKind, EventParams, Problem, What},
};

/// Events that are kept.
pub(crate) const KEPT: usize = 1_024;
/// A comment goes out that often, so that a dead listener is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The latest events.
#[derive(Clone)]
pub(crate) struct EventLog(Arc<Log>);

struct Log {
    kept: Mutex<Kept>,
    /// The number of the latest event. Whoever waits for another one watches it.
    latest: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    /// With the text that goes out.
    events: VecDeque<(Event, Arc<str>)>,
}

/// What a listener gets next.
enum Next {
    Event(u64, EventKind, What, Arc<str>),
    Nothing,
    /// It is too far behind: what it did not read is gone.
    Gone,
}

impl Default for EventLog {
    fn default() -> Self {
        Self(Arc::new(Log { kept: Mutex::default(), latest: watch::Sender::new(0) }))
    }
}

impl EventLog {
    /// Puts an event down. Its number is the next one.
    pub(crate) fn tell(&self, unix_ms: u64, kind: EventKind, text: String, what: What) {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *self.0.latest.borrow() + 1;
        let event = Event { number, unix_ms, kind, text, what };
        let Ok(written) = serde_json::to_string(&event) else { return };
        kept.events.push_back((event, written.into()));
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        self.0.latest.send_replace(number);
    }

    /// The number of the latest event.
    pub(crate) fn latest(&self) -> u64 {
        *self.0.latest.borrow()
    }

    /// Whether anybody listens.
    pub(crate) fn has_listeners(&self) -> bool {
        self.0.latest.receiver_count() > 0
    }

    fn after(&self, number: u64) -> Next {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((oldest, _)) = kept.events.front() else { return Next::Nothing };
        let Some(skip) = (number + 1).checked_sub(oldest.number) else { return Next::Gone };
        match kept.events.get(skip as usize) {
            Some((event, written)) => {
                Next::Event(event.number, event.kind, event.what.clone(), written.clone())
            }
            None => Next::Nothing,
        }
    }
}

impl What {
    /// What it takes to hear of it: descriptions hold passwords, messages and frames are traffic.
    const fn right(&self) -> Right {
        match self {
            Self::LinkDescription { .. } | Self::Message { .. } | Self::Punted { .. } => {
                Right::Change
            }
            _ => Right::Read,
        }
    }
}

/// Which events a listener wants, and may have.
pub(super) struct Wanted {
    kinds: Option<Vec<EventKind>>,
    right: Right,
}

impl Wanted {
    /// By what it asks for.
    ///
    /// # Errors
    /// When a kind is none.
    pub(super) fn new(params: &EventParams, caller: &Caller) -> Result<Self, Problem> {
        let kind = |name: &str| {
            let value = serde_json::Value::String(name.trim().into());
            serde_json::from_value(value).map_err(|error| Problem::bad_field("kind", error))
        };
        let kinds = params.kind.as_deref().map(|names| names.split(',').map(kind).collect());
        Ok(Self { kinds: kinds.transpose()?, right: caller.right() })
    }

    fn takes(&self, kind: EventKind, what: &What) -> bool {
        self.right >= what.right() && self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}

/// Tells what is the case, if there is a snapshot, and then each event after that number, until the listener goes or is too slow.
pub(super) fn answer(
    log: &EventLog,
    wanted: Wanted,
    after: u64,
    snapshot: Option<Box<RawValue>>,
) -> Response {
    let reader =
        Reader { latest: log.0.latest.subscribe(), log: log.clone(), wanted, number: after };
    let start = snapshot.map(|snapshot| {
        sse::Event::default().event("snapshot").id(after.to_string()).data(snapshot.get())
    });
    let state = (start, Some(reader));
    let events = futures_util::stream::unfold(state, |(start, reader)| async move {
        if let Some(start) = start {
            return Some((Ok::<_, Infallible>(start), (None, reader)));
        }
        let mut reader = reader?;
        Some(match reader.next().await? {
            Some(event) => (Ok(event), (None, Some(reader))),
            None => {
                let cut_off = sse::Event::default().event("cut_off").data(CUT_OFF);
                (Ok(cut_off), (None, None))
            }
        })
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

const CUT_OFF: &str =
    r#"{"message":"too slow: events were lost; connect again for a new snapshot"}"#;

struct Reader {
    log: EventLog,
    latest: watch::Receiver<u64>,
    wanted: Wanted,
    /// The last event that was looked at.
    number: u64,
}

impl Reader {
    /// The next event that is wanted; `Some(None)` if events were lost, `None` when the switch ends.
    async fn next(&mut self) -> Option<Option<sse::Event>> {
        loop {
            self.latest.borrow_and_update();
            match self.log.after(self.number) {
                Next::Event(number, kind, what, written) => {
                    self.number = number;
                    if self.wanted.takes(kind, &what) {
                        let event = sse::Event::default().id(number.to_string());
                        return Some(Some(event.data(&*written)));
                    }
                }
                Next::Gone => return Some(None),
                Next::Nothing => self.latest.changed().await.ok()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(log: &EventLog, text: &str) {
        log.tell(5, EventKind::Trust, text.into(), What::TrustChanged);
    }

    fn reader(log: &EventLog, after: u64, right: Right, kinds: Option<Vec<EventKind>>) -> Reader {
        let latest = log.0.latest.subscribe();
        Reader { log: log.clone(), latest, wanted: Wanted { kinds, right }, number: after }
    }

    #[tokio::test]
    async fn events_are_numbered_and_the_latest_can_be_read_again() {
        let log = EventLog::default();
        assert!(!log.has_listeners());
        (0..KEPT + 5).for_each(|n| tell(&log, &n.to_string()));
        assert_eq!(log.latest(), KEPT as u64 + 5);
        let mut late = reader(&log, 5, Right::Read, None);
        assert!(log.has_listeners());
        for _ in 0..KEPT {
            assert!(late.next().await.unwrap().is_some());
        }
        assert_eq!(late.number, log.latest());
        let mut too_late = reader(&log, 4, Right::Read, None);
        assert!(too_late.next().await.unwrap().is_none(), "the fifth is gone");
    }

    #[tokio::test]
    async fn a_listener_gets_what_it_wants_and_may_have() {
        let log = EventLog::default();
        let message = What::Message { peer: "p".into(), data: "d".into() };
        log.tell(5, EventKind::Message, "m".into(), message);
        tell(&log, "t");
        let next = async |right, kinds| {
            let mut reader = reader(&log, 0, right, kinds);
            assert!(reader.next().await.unwrap().is_some());
            reader.number
        };
        assert_eq!(next(Right::Change, None).await, 1);
        assert_eq!(next(Right::Read, None).await, 2, "who may only look sees no traffic");
        assert_eq!(next(Right::Change, Some(vec![EventKind::Trust])).await, 2);
    }
}
