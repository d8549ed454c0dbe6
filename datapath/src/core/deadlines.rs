//! When the timers of the connections are due: only who has something to do is asked.

use std::{collections::BTreeSet, time::Instant};

use quinn_proto::ConnectionHandle;

/// Each connection once, under a time that is no later than that of its first timer.
///
/// Timers mostly move to later times, with every packet. The connection stays where it is then, and is filed anew when the time has come at which it
/// had something to do before: so what a round costs does not depend on how many connections there are.
#[derive(Default)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(Instant, usize)>,
    /// Where each is filed, by [`ConnectionHandle`].
    filed: Vec<Option<Instant>>,
}

impl Deadlines {
    /// A connection's first timer is due then.
    #[inline]
    pub(super) fn set(&mut self, handle: ConnectionHandle, at: Option<Instant>) {
        let Some(at) = at else { return };
        if self.filed.get(handle.0).copied().flatten().is_none_or(|filed| at < filed) {
            self.file(handle, at);
        }
    }

    fn file(&mut self, handle: ConnectionHandle, at: Instant) {
        self.remove(handle);
        if self.filed.len() <= handle.0 {
            self.filed.resize(handle.0 + 1, None);
        }
        self.filed[handle.0] = Some(at);
        self.by_time.insert((at, handle.0));
    }

    /// Strikes a connection, which is gone.
    pub(super) fn remove(&mut self, handle: ConnectionHandle) {
        if let Some(at) = self.filed.get_mut(handle.0).and_then(Option::take) {
            self.by_time.remove(&(at, handle.0));
        }
    }

    /// No timer is earlier.
    pub(super) fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the connection out that may have had something to do for longest.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<ConnectionHandle> {
        let due = self.by_time.first().filter(|(at, _)| *at <= now);
        let handle = ConnectionHandle(due?.1);
        self.remove(handle);
        Some(handle)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_many_that_are_idle_only_the_one_that_is_due_is_asked() {
        let (start, mut deadlines) = (Instant::now(), Deadlines::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        for index in 0..1_000 {
            deadlines.set(ConnectionHandle(index), Some(at(60)));
        }
        deadlines.set(ConnectionHandle(7), Some(at(1)));
        assert_eq!(deadlines.first(), Some(at(1)));
        assert_eq!(deadlines.take_due(start), None);
        assert_eq!(deadlines.take_due(at(1)), Some(ConnectionHandle(7)));
        assert_eq!(deadlines.take_due(at(1)), None);
        assert_eq!(deadlines.first(), Some(at(60)));
    }

    #[test]
    fn a_later_time_leaves_a_connection_where_it_is_and_an_earlier_one_moves_it() {
        let (start, mut deadlines) = (Instant::now(), Deadlines::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let one = ConnectionHandle(3);
        for (time, first) in [(5, 5), (9, 5), (2, 2), (3, 2)] {
            deadlines.set(one, Some(at(time)));
            assert_eq!(deadlines.first(), Some(at(first)));
        }
        deadlines.set(one, None);
        assert_eq!(deadlines.take_due(at(2)), Some(one));
        assert_eq!(deadlines.first(), None, "each is there once");
        deadlines.set(one, Some(at(9)));
        deadlines.remove(one);
        assert_eq!(deadlines.first(), None);
    }
}
