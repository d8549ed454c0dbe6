//! The state directory and what is kept there: read as `run` does, written only as a trial.

use std::path::Path;

use ipop_control::{
    host::{private_file::PrivateFileError, state_directory},
    identity::Identity,
    trust::{SavedPeers, StateFile, TrustStore},
};

use super::Row;
use crate::{identity_cmd, settings::Settings, trust_cmd};

pub(super) const STATE: &str = "state directory";
const KEY: &str = "key";
const CURE: &str = "correct it, or choose another with --state DIR";

/// What the state directory holds, and the rows that tell of it.
pub(super) struct State {
    pub(super) rows: Vec<Row>,
    /// None if there is no key yet, or none that is good.
    pub(super) identity: Option<Identity>,
    /// What the operator decided.
    pub(super) store: TrustStore,
}

impl State {
    pub(super) fn look(settings: &Settings) -> Self {
        let directory = &settings.state;
        let mut state = Self { rows: Vec::new(), identity: None, store: TrustStore::default() };
        let row = match read(settings) {
            Ok(store) => {
                state.store = store;
                written(settings)
            }
            Err(error) => failed(STATE, error, CURE),
        };
        let is_usable = row.code().is_none();
        state.rows.push(row);
        if !is_usable && settings.identity.starts_with(directory) {
            state.rows.push(Row::not_tried(KEY, "needs the state directory"));
            return state;
        }
        let (row, identity) = key(&settings.identity);
        state.rows.push(row);
        state.identity = identity;
        state
    }
}

/// Whatever `run` reads.
fn read(settings: &Settings) -> Result<TrustStore, PrivateFileError> {
    state_directory::refuse_shared(&settings.state)?;
    if settings.network.is_some() {
        StateFile::<SavedPeers>::in_directory(&settings.state).load()?;
    }
    StateFile::<TrustStore>::in_directory(&settings.state).load()
}

/// A switch that has its key runs without writing too.
fn written(settings: &Settings) -> Row {
    let directory = &settings.state;
    match state_directory::try_to_write(directory) {
        Ok(()) => {
            let there = if directory.exists() { "can be read and written" } else { "will be made" };
            Row::ok(STATE, format!("{} {there}", directory.display()))
        }
        Err(error) if settings.identity.exists() => {
            Row::limited(STATE, format!("{error}; known peers are not kept"), CURE)
        }
        Err(error) => failed(STATE, error, CURE),
    }
}

fn failed(what: &'static str, error: PrivateFileError, cure: &str) -> Row {
    let failure = trust_cmd::of_file(error);
    Row::failed(what, failure.code, failure.to_string(), cure)
}

fn key(path: &Path) -> (Row, Option<Identity>) {
    match identity_cmd::look(path) {
        Ok(Some(identity)) => {
            (Row::ok(KEY, format!("of node {}", identity.node_id())), Some(identity))
        }
        Ok(None) => {
            let directory = path.parent().unwrap_or(Path::new("."));
            let row = match state_directory::try_to_write(directory) {
                Ok(()) => Row::ok(KEY, format!("{} will be made", path.display())),
                Err(error) => failed(KEY, error, "choose another with --identity FILE"),
            };
            (row, None)
        }
        Err(failure) => {
            let cure = "correct it, or choose another with --identity FILE";
            (Row::failed(KEY, failure.code, failure.to_string(), cure), None)
        }
    }
}
