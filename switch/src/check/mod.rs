//! `ipop-switch check`: what this host offers, what is missing, and how to get it.
//!
//! Where a network is configured, each step to it follows: name, server, encryption, log-in, room, and the servers that
//! help through NATs. The first step that fails ends the way; those before it are known to be well.
//!
//! Each probe gives one [`Row`]. A row that keeps the switch from running carries an exit code; rows that only cost speed
//! do not.

mod discovery;
mod host;
mod nat;
mod network;
mod tap;
mod uring;

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use ipop_control::trust::Policy;

use crate::{
    exit::{ExitCode, Failure},
    settings::{Ice, Network},
};

/// What is configured, as far as it concerns the way to peers.
pub(crate) type Configured = (Option<Network>, Policy, Ice);

/// One thing that the switch needs or likes to have.
#[derive(Clone, PartialEq, Debug)]
struct Row {
    what: &'static str,
    status: Status,
    /// What was found.
    found: String,
    /// How to get what is missing.
    cure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Ok,
    /// The switch runs, but slower or with less.
    Limited,
    /// The switch does not run without it; what its exit code would be.
    Missing(ExitCode),
}

impl Row {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, status: Status::Ok, found: found.into(), cure: None }
    }

    fn limited(what: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what, status: Status::Limited, found: found.into(), cure: Some(cure.into()) }
    }

    fn missing(
        what: &'static str,
        code: ExitCode,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (found, cure) = (found.into(), Some(cure.into()));
        Self { what, status: Status::Missing(code), found, cure }
    }
}

/// Prints the table; an error means that the switch cannot run here.
pub(crate) fn print(configured: Result<Configured, Failure>) -> Result<(), Failure> {
    let mut rows = rows();
    match configured {
        Ok((Some(network), policy, ice)) => {
            // Steps to servers take their time, and what is known is shown at once.
            write(&table(&rows))?;
            let steps = discovery::rows(&network, &policy, &ice);
            write(&table(&steps))?;
            rows.extend(steps);
            return conclude(&rows);
        }
        Ok((None, ..)) => {}
        Err(failure) => {
            let cure = "correct it; docs/OPERATIONS.md lists all options";
            let found = failure.to_string();
            rows.push(Row::missing("configuration", failure.code, found, cure));
        }
    }
    write(&table(&rows))?;
    conclude(&rows)
}

/// Whether this program may set up the network; if not, the failure names the ways to let it.
pub(crate) fn net_admin() -> Result<(), Failure> {
    let row = host::net_admin();
    match (row.status, row.cure) {
        (Status::Missing(code), Some(cure)) => {
            Err(Failure::new(code, anyhow::anyhow!("{} is {}: {cure}", row.what, row.found)))
        }
        _ => Ok(()),
    }
}

fn write(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::io("cannot write to standard output", error))
}

fn conclude(rows: &[Row]) -> Result<(), Failure> {
    match verdict(rows) {
        None => Ok(()),
        Some(code) => {
            Err(Failure::new(code, anyhow::anyhow!("the switch cannot run here, see `missing`")))
        }
    }
}

/// The least width of the second column, characters, so that the parts of the table fit together.
const COLUMN_LEN: usize = 15;

fn rows() -> Vec<Row> {
    let kernel = host::kernel_version();
    let mut rows = vec![
        host::kernel(kernel),
        host::net_admin(),
        tap::device(),
        tap::offloads(),
        uring::ring(kernel),
        uring::operations(),
    ];
    rows.extend(network::udp());
    rows.extend([network::ipv6(), host::processors(), host::aes(), host::open_files()]);
    rows
}

/// The exit code; a missing permission is told only if it is all that is missing.
fn verdict(rows: &[Row]) -> Option<ExitCode> {
    let missing = rows.iter().filter_map(|row| match row.status {
        Status::Missing(code) => Some(code),
        Status::Ok | Status::Limited => None,
    });
    missing.reduce(|all, code| if all == code { all } else { ExitCode::Failed })
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0).max(COLUMN_LEN);
    let mut table = String::new();
    for row in rows {
        let status = match row.status {
            Status::Ok => "ok",
            Status::Limited => "limited",
            Status::Missing(_) => "missing",
        };
        // Writing to a string does not fail.
        let _ = writeln!(table, "{status:<8} {:<width$}  {}", row.what, row.found);
        if let Some(cure) = &row.cure {
            let _ = writeln!(table, "{:<8} {:<width$}  -> {cure}", "", "");
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_answers_and_what_is_not_ok_has_a_cure() {
        let rows = rows();
        assert!(rows.len() >= 10);
        for row in &rows {
            assert!(!row.found.is_empty(), "{row:?}");
            assert_eq!(row.cure.is_none(), row.status == Status::Ok, "{row:?}");
        }
    }

    #[test]
    fn the_exit_code_tells_whether_a_permission_is_all_that_is_missing() {
        let missing = |code| Row::missing("x", code, "", "");
        let fine = [Row::ok("x", ""), Row::limited("y", "", "")];
        assert_eq!(verdict(&fine), None);
        let permission = [missing(ExitCode::Permission), missing(ExitCode::Permission)];
        assert_eq!(verdict(&permission), Some(ExitCode::Permission));
        let both = [missing(ExitCode::Permission), missing(ExitCode::Failed)];
        assert_eq!(verdict(&both), Some(ExitCode::Failed));
    }

    #[test]
    fn cures_stand_below_what_they_cure() {
        let rows = [Row::ok("a", "fine"), Row::limited("bcd", "slow", "do this")];
        let (a, bcd, none) = (format!("{:15}", "a"), format!("{:15}", "bcd"), " ".repeat(15));
        let expected =
            format!("ok       {a}  fine\nlimited  {bcd}  slow\n         {none}  -> do this\n");
        assert_eq!(table(&rows), expected);
    }
}
