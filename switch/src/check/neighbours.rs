//! The kernel's tables of neighbours: peers and the hosts behind them each take an entry, and whom there is none for is not
//! reached. The tables belong to the host as a whole; other network namespaces do not show them.

use std::fs;

use super::Row;

const WHAT: &str = "neighbours";
/// A peer is a neighbour in the underlay, and its host one on the segment.
const ENTRIES_PER_PEER: u32 = 2;

/// A table, as the kernel shows it.
#[derive(Clone, Copy, Debug)]
struct Neighbours {
    sysctl: &'static str,
    /// More entries than this are refused.
    limit: u32,
    /// Entries now.
    used: u32,
}

/// None if there is no peer.
pub(super) fn row(peers: usize) -> Option<Row> {
    if peers == 0 {
        return None;
    }
    let tables = [
        read("net.ipv4.neigh.default.gc_thresh3", "arp_cache"),
        read("net.ipv6.neigh.default.gc_thresh3", "ndisc_cache"),
    ];
    let tables: Vec<_> = tables.into_iter().flatten().collect();
    Some(row_of(&tables, peers))
}

fn row_of(tables: &[Neighbours], peers: usize) -> Row {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    let wanted = peers.saturating_mul(ENTRIES_PER_PEER);
    let scarce = tables.iter().find(|table| table.limit.saturating_sub(table.used) < wanted);
    match (scarce, tables) {
        (Some(Neighbours { sysctl, limit, used }), _) => {
            let enough = used.saturating_add(wanted).saturating_mul(2);
            let found = format!(
                "the kernel keeps {limit} at most and has {used}; {peers} peers and their hosts take {wanted} more"
            );
            Row::limited(WHAT, found, format!("`sysctl -w {sysctl}={enough}`"))
        }
        (None, [first, ..]) => Row::ok(
            WHAT,
            format!("the kernel keeps {} at most, {peers} peers take {wanted}", first.limit),
        ),
        (None, []) => Row::not_tried(
            WHAT,
            "this network namespace does not show the kernel's limit; look at net.ipv4.neigh.default.gc_thresh3 on the host",
        ),
    }
}

fn read(sysctl: &'static str, statistics: &str) -> Option<Neighbours> {
    let limit = fs::read_to_string(format!("/proc/sys/{}", sysctl.replace('.', "/"))).ok()?;
    let counted = fs::read_to_string(format!("/proc/net/stat/{statistics}")).unwrap_or_default();
    Some(Neighbours { sysctl, limit: limit.trim().parse().ok()?, used: entries(&counted) })
}

/// Below the heads of its columns the first number of each row is that of all entries, in hexadecimal.
fn entries(statistics: &str) -> u32 {
    let first = statistics.lines().nth(1).and_then(|row| row.split_whitespace().next());
    first.and_then(|number| u32::from_str_radix(number, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn a_table_that_is_too_small_for_the_peers_is_named_with_the_cure() {
        let table = |limit, used| Neighbours { sysctl: "net.ipv4.neigh.x", limit, used };
        let fits = row_of(&[table(1_024, 24)], 500);
        assert_eq!(fits.status, Status::Ok, "{fits:?}");
        let full = row_of(&[table(4_096, 24), table(1_024, 26)], 500);
        assert_eq!(full.status, Status::Limited);
        assert_eq!(full.cure.unwrap(), "`sysctl -w net.ipv4.neigh.x=2052`");
        assert_eq!(row_of(&[table(10, 20)], 1).status, Status::Limited);
        assert_eq!(row_of(&[], 1).status, Status::NotTried);
        assert!(row(0).is_none() && row(1).is_some());
    }

    #[test]
    fn entries_are_counted_by_the_kernel() {
        let statistics =
            "entries  allocs   destroys\n000003fe 00000001 00000000\n000003fe 00000002 00000000\n";
        assert_eq!(entries(statistics), 1_022);
        assert_eq!(entries(""), 0);
    }
}
