//! What may be changed: decisions about nodes, the configuration, the log.

use ipop_control::trust::{
    Patience, TrustStore,
    store::{Denied, Entry, StoreError},
};
use ipop_datapath::node_id::NodeId;

use super::super::Switch;
use crate::{
    api::types::{
        Configuration, Decided, Log, LogParams, NoParams, NodeParams, Problem, ProblemCode,
        Reloaded, TrustEntry, TrustList,
    },
    log,
    trust_cmd::{Wrong, unix_now_s},
};

impl Switch {
    /// `trust.list`
    pub(crate) fn show_trust(&self, NoParams {}: NoParams) -> Result<TrustList, Problem> {
        let store = self.trust_file.load().map_err(refused)?;
        Ok(TrustList {
            accepted: store.accepted().iter().map(Into::into).collect(),
            pending: store.pending().iter().map(Into::into).collect(),
            denied: store.denied().iter().map(Into::into).collect(),
        })
    }

    /// `trust.accept`
    pub(crate) fn accept_node(&mut self, params: NodeParams) -> Result<Decided, Problem> {
        self.decide(&params, |store, node| store.accept(node, unix_now_s()))
    }

    /// `trust.deny`
    pub(crate) fn deny_node(&mut self, params: NodeParams) -> Result<Decided, Problem> {
        self.decide(&params, |store, node| store.deny(node, unix_now_s()))
    }

    /// `trust.forget`
    pub(crate) fn forget_node(&mut self, params: NodeParams) -> Result<Decided, Problem> {
        self.decide(&params, TrustStore::forget)
    }

    /// Changes the list of trust, and puts it into force before it is answered.
    fn decide(
        &mut self,
        NodeParams { node }: &NodeParams,
        change: impl FnOnce(&mut TrustStore, &str) -> Result<NodeId, StoreError>,
    ) -> Result<Decided, Problem> {
        let decided = self
            .trust_file
            .update(Patience::GiveUp, |store| change(store, node).map_err(Wrong::Node));
        let node = decided.map_err(|wrong| match wrong {
            Wrong::File(error) => refused(error),
            Wrong::Node(error @ StoreError::Unknown(_)) => Problem::not_found(error),
            Wrong::Node(error) => Problem::new(ProblemCode::Conflict, error),
        })?;
        self.follow_trust_file();
        Ok(Decided { node: node.to_string() })
    }

    /// `config.get`
    pub(crate) fn show_configuration(
        &self,
        NoParams {}: NoParams,
    ) -> Result<Configuration, Problem> {
        Ok(self.settings.shown.clone())
    }

    /// `config.reload`
    pub(crate) fn reload_by_request(&mut self, NoParams {}: NoParams) -> Result<Reloaded, Problem> {
        let needs_restart = self.reread_and_reload().map_err(|error| {
            Problem::new(
                ProblemCode::Refused,
                format!("{error}; what was configured before stays in force"),
            )
        })?;
        Ok(Reloaded { needs_restart: needs_restart.into_iter().map(Into::into).collect() })
    }

    /// `log.set`
    pub(crate) fn set_log(&mut self, LogParams { level }: LogParams) -> Result<Log, Problem> {
        let level = level.parse().map_err(|why: String| Problem::bad_field("level", why))?;
        log::set(level);
        Ok(Log { level: log::level().to_string() })
    }
}

/// A file of the state directory is of no use.
fn refused(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemCode::Refused, error)
}

impl From<&Entry> for TrustEntry {
    fn from(entry: &Entry) -> Self {
        let claim = entry.claim.as_ref();
        Self {
            node: entry.node.to_string(),
            name: claim.map(|claim| claim.name.clone()),
            account: claim.map(|claim| claim.account.clone()),
        }
    }
}

impl From<&Denied> for TrustEntry {
    fn from(denied: &Denied) -> Self {
        Self { node: denied.node.to_string(), name: denied.name.clone(), account: None }
    }
}
