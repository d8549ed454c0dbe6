//! Questions to the workers: what they alone know, and whoever waits for their answers.
//!
//! A worker answers in its next round. Who waits gets all answers, or after a while those that have come.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ipop_datapath::{
    command::{Command, ConnectionId, ConnectionStats, Query, Token},
    counters::ledger::Ledger,
};

use super::Switch;

/// How long workers have to answer. A round takes a few milliseconds, even of a worker that has more to do than it can.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// How the workers' connections are, and what became of their frames.
#[derive(Default)]
pub(crate) struct Connections {
    by_id: HashMap<ConnectionId, ConnectionStats>,
    /// Of all workers that have answered.
    pub(super) ledger: Ledger,
}

impl Connections {
    /// How one is, if there is such a connection and its worker has answered.
    pub(super) fn get(&self, connection: &ConnectionId) -> Option<&ConnectionStats> {
        self.by_id.get(connection)
    }
}

type Waiter = Box<dyn FnOnce(&mut Switch, &Connections)>;

/// The question that is under way.
#[derive(Default)]
pub(super) struct Queries {
    asked: u64,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    token: Token,
    /// Answers that have not come.
    missing: usize,
    until: Instant,
    connections: Connections,
    waiters: Vec<Waiter>,
}

impl Queries {
    /// Somebody wants to know: what these many workers are to be asked with, unless they have been already. Who asks for what is under way gets that.
    fn begin(&mut self, now: Instant, workers: usize, waiter: Waiter) -> Option<Token> {
        if let Some(under_way) = &mut self.under_way {
            under_way.waiters.push(waiter);
            return None;
        }
        let token = Token(self.asked);
        self.asked += 1;
        self.under_way = Some(UnderWay {
            token,
            missing: workers,
            until: now + ANSWER_WITHIN,
            connections: Connections::default(),
            waiters: vec![waiter],
        });
        Some(token)
    }

    /// A worker has answered.
    pub(super) fn answered(
        &mut self,
        token: Token,
        connections: impl IntoIterator<Item = (ConnectionId, ConnectionStats)>,
        ledger: Ledger,
    ) {
        if let Some(under_way) = self.under_way.as_mut().filter(|query| query.token == token) {
            under_way.missing = under_way.missing.saturating_sub(1);
            under_way.connections.by_id.extend(connections);
            under_way.connections.ledger += ledger;
        }
    }

    /// When there is something to tell, whoever answers.
    pub(super) fn due(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|query| query.until)
    }

    fn take_due(&mut self, now: Instant) -> Option<UnderWay> {
        self.under_way.take_if(|query| query.missing == 0 || query.until <= now)
    }
}

impl Switch {
    /// Has `waiter` called when the workers have said how their connections are.
    pub(crate) fn with_connections(
        &mut self,
        now: Instant,
        waiter: impl FnOnce(&mut Self, &Connections) + 'static,
    ) {
        let workers = self.workers.len();
        if let Some(token) = self.queries.begin(now, workers, Box::new(waiter)) {
            for worker in 0..workers {
                self.command(worker, Command::Query(token, Query::Connections));
            }
        }
    }

    /// Tells those who wait, if it is time.
    pub(super) fn answer_queries(&mut self, now: Instant) {
        if let Some(UnderWay { connections, waiters, .. }) = self.queries.take_due(now) {
            waiters.into_iter().for_each(|waiter| waiter(self, &connections));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_waits_for_all_workers_and_then_for_none() {
        let (mut queries, start) = (Queries::default(), Instant::now());
        let stats = ConnectionStats {
            rtt: Duration::from_millis(7),
            path_mtu_bytes: 1_200,
            sent_packets: 1,
            lost_packets: 0,
            black_holes: 0,
            queued_bytes: 0,
            breaker_open: false,
        };
        let ledger = Ledger { received: 3, ..Ledger::default() };
        let waiter = || -> Waiter { Box::new(|_, _| {}) };
        let answer = |id| [(ConnectionId(id), stats)];
        let first = queries.begin(start, 2, waiter()).unwrap();
        assert_eq!(queries.begin(start, 2, waiter()), None, "it is under way");
        queries.answered(first, answer(1), ledger);
        assert!(queries.take_due(start).is_none());
        queries.answered(first, answer(2), ledger);
        let told = queries.take_due(start).unwrap();
        assert_eq!((told.connections.by_id.len(), told.waiters.len()), (2, 2));
        assert_eq!(told.connections.ledger.received, 6);
        let second = queries.begin(start, 2, waiter()).unwrap();
        queries.answered(first, answer(3), ledger);
        queries.answered(second, answer(1), ledger);
        assert!(queries.take_due(start).is_none(), "the late answer was another question's");
        let due = queries.due().unwrap();
        assert_eq!(queries.take_due(due).unwrap().connections.by_id.len(), 1);
        assert_eq!(queries.due(), None);
    }
}
