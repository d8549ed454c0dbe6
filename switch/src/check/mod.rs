//! `ipop-switch check`: what this host offers, what is missing and how to get it; then each step that `run` takes with the same
//! options, in its order: state directory, key, UDP port, TAPs, bridge, address, static peers, the network's servers.
//!
//! Each probe gives one [`Row`]. A step that depends on one that failed is not tried: what it would say then is no help. Nothing
//! stays behind, and a switch that runs on this host is not disturbed.

mod devices;
mod discovery;
mod holders;
mod host;
mod nat;
mod neighbours;
mod network;
mod peers;
mod state;
mod tap;
mod uring;

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use self::{devices::Devices, holders::Holders, state::State};
use crate::{
    exit::{ExitCode, Failure},
    settings::Settings,
};

/// One thing that the switch needs or likes to have, or does.
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
    /// The step does not succeed; likewise.
    Failed(ExitCode),
    /// Something that it depends on is not there.
    NotTried,
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

    fn failed(
        what: &'static str,
        code: ExitCode,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { status: Status::Failed(code), ..Self::missing(what, code, found, cure) }
    }

    /// With what it waits for.
    fn not_tried(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, status: Status::NotTried, found: why.into(), cure: None }
    }

    fn code(&self) -> Option<ExitCode> {
        match self.status {
            Status::Missing(code) | Status::Failed(code) => Some(code),
            Status::Ok | Status::Limited | Status::NotTried => None,
        }
    }
}

/// Prints the table; an error means that the switch would not run, or not as it is told.
pub(crate) fn print(settings: Result<Settings, Failure>) -> Result<(), Failure> {
    let mut table = Table::default();
    table.add(host_rows())?;
    match settings {
        Ok(settings) => steps(&settings, &mut table)?,
        Err(failure) => {
            let cure = "correct it; docs/OPERATIONS.md lists all options";
            let found = failure.to_string();
            let mut rows = vec![Row::failed("configuration", failure.code, found, cure)];
            let steps =
                [state::STATE, devices::UDP_PORT, devices::TAP, peers::PEER, discovery::ROOM];
            rows.extend(steps.map(|step| Row::not_tried(step, "needs a configuration")));
            table.add(rows)?;
        }
    }
    table.conclude()
}

/// What `run` does, in its order.
fn steps(settings: &Settings, table: &mut Table) -> Result<(), Failure> {
    let state = State::look(settings);
    table.add(state.rows.clone())?;
    let holders = Holders::find(settings);
    let devices = Devices::try_all(settings, &holders, table.hindrance_of_taps());
    let can_dial = devices.can_listen();
    table.add(devices.rows)?;
    // What follows takes its time, and what is known is shown at once.
    table.add(peers::rows(settings, &state, can_dial))?;
    let mut nodes = 0;
    if let Some(network) = &settings.network {
        let (rows, inside) = discovery::rows(network, &settings.policy, &settings.ice);
        table.add(rows)?;
        nodes = inside;
    }
    table.add(neighbours::row(settings.peers.len().max(nodes)).into_iter().collect())
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

/// The least width of the second column, characters, so that the parts of the table fit together.
const COLUMN_LEN: usize = 19;

fn host_rows() -> Vec<Row> {
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

/// What was said so far.
#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    /// Shows them.
    fn add(&mut self, rows: Vec<Row>) -> Result<(), Failure> {
        io::stdout()
            .write_all(text(&rows).as_bytes())
            .map_err(|error| Failure::io("cannot write to standard output", error))?;
        self.0.extend(rows);
        Ok(())
    }

    /// Why TAPs cannot be opened here, as far as it is known already.
    fn hindrance_of_taps(&self) -> Option<&'static str> {
        let needed = [host::NET_ADMIN, tap::DEVICE, tap::OFFLOADS];
        let missing = self.0.iter().find(|row| needed.contains(&row.what) && row.code().is_some());
        missing.map(|row| row.what)
    }

    fn conclude(&self) -> Result<(), Failure> {
        let Some(code) = verdict(&self.0) else { return Ok(()) };
        let why = "the switch would not run here as it is told, see `missing` and `failed`";
        Err(Failure::new(code, anyhow::anyhow!(why)))
    }
}

/// The exit code; one with a meaning of its own is told only if it is that of everything that is missing or failed.
fn verdict(rows: &[Row]) -> Option<ExitCode> {
    let codes = rows.iter().filter_map(Row::code);
    codes.reduce(|all, code| if all == code { all } else { ExitCode::Failed })
}

fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0).max(COLUMN_LEN);
    let mut table = String::new();
    for row in rows {
        let status = match row.status {
            Status::Ok => "ok",
            Status::Limited => "limited",
            Status::Missing(_) => "missing",
            Status::Failed(_) => "failed",
            Status::NotTried => "not tried",
        };
        // Writing to a string does not fail.
        let _ = writeln!(table, "{status:<9} {:<width$}  {}", row.what, row.found);
        if let Some(cure) = &row.cure {
            let _ = writeln!(table, "{:<9} {:<width$}  -> {cure}", "", "");
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_answers_and_what_is_not_ok_has_a_cure() {
        let rows = host_rows();
        assert!(rows.len() >= 10);
        for row in &rows {
            assert!(!row.found.is_empty(), "{row:?}");
            let needs_no_cure = matches!(row.status, Status::Ok | Status::NotTried);
            assert_eq!(row.cure.is_none(), needs_no_cure, "{row:?}");
        }
    }

    #[test]
    fn the_exit_code_tells_whether_a_permission_is_all_that_is_missing() {
        let missing = |code| Row::missing("x", code, "", "");
        let fine = [Row::ok("x", ""), Row::limited("y", "", ""), Row::not_tried("z", "")];
        assert_eq!(verdict(&fine), None);
        let permission = [missing(ExitCode::Permission), missing(ExitCode::Permission)];
        assert_eq!(verdict(&permission), Some(ExitCode::Permission));
        let both = [missing(ExitCode::Permission), missing(ExitCode::Failed)];
        assert_eq!(verdict(&both), Some(ExitCode::Failed));
        let taken = [Row::ok("x", ""), Row::failed("y", ExitCode::Taken, "", "")];
        assert_eq!(verdict(&taken), Some(ExitCode::Taken));
    }

    #[test]
    fn cures_stand_below_what_they_cure() {
        let rows = [
            Row::ok("a", "fine"),
            Row::limited("bcd", "slow", "do this"),
            Row::not_tried("e", "needs a"),
        ];
        let [a, bcd, none, e] = ["a", "bcd", "", "e"].map(|what| format!("{what:19}"));
        let expected = format!(
            "ok        {a}  fine\nlimited   {bcd}  slow\n          {none}  -> do this\nnot tried {e}  needs a\n"
        );
        assert_eq!(text(&rows), expected);
    }
}
