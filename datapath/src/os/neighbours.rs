//! The kernel's tables of neighbours: which link address an IP address of a host's own networks has (ARP, neighbour discovery).
//!
//! All network namespaces of a host share them, and a full one is told to nobody: the kernel says that a packet was sent, and drops it. Its
//! counters tell.

use super::{
    OsError,
    netlink::{Message, Request, attributes},
};

/// `struct ndtmsg`.
const FIXED_LEN: usize = 4;
/// Attributes of a table (`linux/neighbour.h`).
const LIMIT: u16 = 4;
const CONFIG: u16 = 5;
const STATISTICS: u16 = 7;
/// Where `struct ndt_config` has the number of entries.
const ENTRIES_AT: usize = 4;
/// Where `struct ndt_stats` has how often the table was full: its eleventh number.
const OVERFLOWS_AT: usize = 10 * 8;

/// One of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourTable {
    /// Of IPv4 or IPv6.
    pub family: Family,
    /// How many neighbours it has now.
    pub entries: u32,
    /// How many it may have: `gc_thresh3`.
    pub limit: u32,
    /// How often there was no room for another one, since the host started.
    pub overflows: u64,
}

/// Of IP addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4, ARP.
    V4,
    /// IPv6, neighbour discovery.
    V6,
}

/// The tables now. Takes no privilege.
///
/// # Errors
/// When the kernel does not tell.
pub fn neighbour_tables() -> Result<Vec<NeighbourTable>, OsError> {
    let any_family = [libc::AF_UNSPEC as u8, 0, 0, 0];
    let mut tables = Vec::new();
    Request::new(libc::RTM_GETNEIGHTBL, libc::NLM_F_DUMP, &any_family)
        .list(|message| tables.extend(of_message(message)))
        .map_err(|error| OsError::new("cannot read the tables of neighbours", error))?;
    Ok(tables)
}

/// A table, if the message is about a whole one and not about its settings at one interface.
fn of_message(message: Message<'_>) -> Option<NeighbourTable> {
    let (fixed, rest) = message.body.split_first_chunk::<FIXED_LEN>()?;
    let family = match i32::from(fixed[0]) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let value = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let number =
        |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let overflows = value(STATISTICS)?.get(OVERFLOWS_AT..)?.first_chunk()?;
    Some(NeighbourTable {
        family,
        entries: number(value(CONFIG)?, ENTRIES_AT)?,
        limit: number(value(LIMIT)?, 0)?,
        overflows: u64::from_ne_bytes(*overflows),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::netlink::messages;

    #[test]
    fn a_table_is_read_as_the_kernel_writes_it() {
        let mut statistics = [0; 88];
        statistics[OVERFLOWS_AT..].copy_from_slice(&276_u64.to_ne_bytes());
        let config = [&[4, 0, 80, 1][..], &1_024_u32.to_ne_bytes(), &[0; 24]].concat();
        let request = |kind| {
            Request::new(libc::RTM_NEWNEIGHTBL, 0, &[libc::AF_INET as u8, 0, 0, 0])
                .attribute(1, b"arp_cache\0")
                .attribute(LIMIT, &1_024_u32.to_ne_bytes())
                .attribute(CONFIG, &config)
                .attribute(kind, &statistics)
                .finish()
        };
        let of = |bytes: &[u8]| messages(bytes).find_map(of_message);
        let table = request(STATISTICS);
        let (family, entries, limit, overflows) = (Family::V4, 1_024, 1_024, 276);
        assert_eq!(of(&table), Some(NeighbourTable { family, entries, limit, overflows }));
        // What it says of one interface has no statistics.
        assert_eq!(of(&request(6)), None);
        for len in 0..table.len() {
            assert_eq!(of(&table[..len]), None, "{len}");
        }
    }

    #[test]
    fn anybody_may_ask() {
        let tables = neighbour_tables().unwrap();
        let families: Vec<Family> = tables.iter().map(|table| table.family).collect();
        assert!(families.contains(&Family::V4), "{tables:?}");
        assert!(tables.iter().all(|table| table.limit > 0), "{tables:?}");
    }
}
