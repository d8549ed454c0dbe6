//! What the kernel does not do for the switch: sends that it refuses, and neighbours for which it has no room. The latter it tells nobody: to
//! whoever sends it says that all is well.
//!
//! Either may happen with each packet, so it is told at first, and then every few minutes how often it has happened since.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipop_control::host::refused_sends::{cause, is_unreachable};
use ipop_datapath::os::neighbours::{Family, NeighbourTable, neighbour_tables};

use super::told::Told;

/// How often the tables of neighbours are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A table that is too small is to become so many times as large.
const ROOM_FACTOR: u32 = 4;

/// What the kernel refused of late, and how much of it was told.
#[derive(Default)]
pub(super) struct KernelWatch {
    /// By the kernel's number.
    refused: BTreeMap<i32, Told>,
    full: BTreeMap<Family, Told>,
    /// How often each table was full, by its own count: at first, and at the last look.
    counted: BTreeMap<Family, [u64; 2]>,
    looked_at: Option<Instant>,
}

impl KernelWatch {
    /// The kernel refused a send, for what it told control. Where it knows no way to an address, that is told with the peer that is there.
    pub(super) fn send_refused(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        errno: i32,
    ) -> Option<String> {
        if is_unreachable(errno) {
            return None;
        }
        self.refused.entry(errno).or_default().note(now, 1)?;
        let cause = cause(errno);
        Some(format!("the kernel refuses to send packets, the last one to {remote}: {cause}"))
    }

    /// Looks at the tables of neighbours, if it is time; gives the lines for the log.
    pub(super) fn look(&mut self, now: Instant) -> Vec<String> {
        if self.looked_at.is_some_and(|at| now < at + LOOK_EVERY) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        match neighbour_tables() {
            Ok(tables) => tables.iter().filter_map(|table| self.note_table(now, table)).collect(),
            Err(error) => {
                tracing::debug!("{error}");
                Vec::new()
            }
        }
    }

    /// How often there was no room for a neighbour since the switch started.
    pub(super) fn overflows(&self) -> u64 {
        self.counted.values().map(|[first, last]| last.saturating_sub(*first)).sum()
    }

    fn note_table(&mut self, now: Instant, table: &NeighbourTable) -> Option<String> {
        let NeighbourTable { family, limit, overflows, .. } = *table;
        let [_, last] = self.counted.entry(family).or_insert([overflows; 2]);
        let more = overflows.saturating_sub(std::mem::replace(last, overflows));
        if more == 0 {
            return None;
        }
        let times = self.full.entry(family).or_default().note(now, more)?;
        let (version, key) = match family {
            Family::V4 => (4, "ipv4"),
            Family::V6 => (6, "ipv6"),
        };
        let raised = limit.saturating_mul(ROOM_FACTOR);
        Some(format!(
            "the kernel's table of IPv{version} neighbours is full ({limit} on this host), so packets to hosts of its own networks were \
             dropped {times} times: raise it with `sysctl -w net.{key}.neigh.default.gc_thresh3={raised}` (not in a container, but on \
             the host itself, whose namespaces share the table)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::told::QUIET, *};

    fn table(family: Family, overflows: u64) -> NeighbourTable {
        NeighbourTable { family, entries: 1_000, limit: 1_024, overflows }
    }

    #[test]
    fn a_full_table_is_told_with_its_cure_and_then_now_and_then() {
        let (mut watch, start) = (KernelWatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // What happened before the switch started is not its business.
        assert_eq!(watch.note_table(start, &table(Family::V4, 276)), None);
        let told = watch.note_table(at(10), &table(Family::V4, 300)).unwrap();
        assert!(told.contains("net.ipv4.neigh.default.gc_thresh3=4096"), "{told}");
        assert!(told.contains("dropped 24 times") && told.contains("1024"), "{told}");
        let of_v6 = [0, 5].map(|overflows| watch.note_table(at(10), &table(Family::V6, overflows)));
        assert!(of_v6[1].as_ref().unwrap().contains("net.ipv6.neigh"), "{of_v6:?}");
        for second in (20..310).step_by(10) {
            assert_eq!(watch.note_table(at(second), &table(Family::V4, 300 + second)), None);
        }
        let again = watch.note_table(at(310), &table(Family::V4, 700)).unwrap();
        assert!(again.contains("dropped 400 times"), "{again}");
        assert_eq!(watch.note_table(at(900), &table(Family::V4, 700)), None);
        assert_eq!(watch.overflows(), 700 - 276 + 5);
    }

    #[test]
    fn a_refused_send_is_told_by_reason_and_not_for_each_packet() {
        let (mut watch, start) = (KernelWatch::default(), Instant::now());
        let remote = "10.0.0.7:5800".parse().unwrap();
        let (forbidden, no_room, unreachable) = (1, 105, 101);
        let told = watch.send_refused(start, remote, forbidden).unwrap();
        assert!(told.contains("10.0.0.7:5800") && told.contains("firewall"), "{told}");
        let soon = start + QUIET / 2;
        assert_eq!(watch.send_refused(soon, remote, forbidden), None);
        assert!(watch.send_refused(soon, remote, no_room).is_some());
        assert!(watch.send_refused(start + QUIET, remote, forbidden).is_some());
        assert_eq!(watch.send_refused(start, remote, unreachable), None);
    }
}
