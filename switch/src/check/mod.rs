//! `ipop-switch check`: what this host offers, what is missing, and how to get it.
//!
//! Each probe gives one [`Row`]. A row that keeps the switch from running carries an exit code; rows that only cost speed
//! do not.

mod host;
mod network;
mod tap;
mod uring;

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use crate::exit::{ExitCode, Failure};

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
pub(crate) fn print() -> Result<(), Failure> {
    let rows = rows();
    io::stdout()
        .write_all(table(&rows).as_bytes())
        .map_err(|error| Failure::io("cannot write to standard output", error))?;
    match verdict(&rows) {
        None => Ok(()),
        Some(code) => {
            Err(Failure::new(code, anyhow::anyhow!("the switch cannot run here, see `missing`")))
        }
    }
}

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
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
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
        let expected = "ok       a    fine\nlimited  bcd  slow\n              -> do this\n";
        assert_eq!(table(&rows), expected);
    }
}
