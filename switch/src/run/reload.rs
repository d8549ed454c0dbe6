//! What changes while the switch runs: configuration (SIGHUP) and the operator's decisions about nodes (`ipop-switch trust`).
//!
//! Tunnels of peers that keep their right stay up; those of peers that lose it are closed in-band. The trust file is compared once a second
//! with what was read of it, rather than watched: a look at a file's metadata costs next to nothing, works on every file system, and
//! needs no signal to the right process.

use std::{path::Path, time::Instant};

use ipop_control::{
    peer::{PeerSource, PeerSpec},
    sessions::{Input, Sessions},
    trust::{Changes, Policy, Refusal, Stamp, Standing, StateFile, Trust, TrustStore},
};
use ipop_datapath::{admission::SecretId, node_id::NodeId};

use super::Switch;
use crate::{
    exit::Failure,
    settings::{Reload, Settings},
    trust_cmd,
};

/// The trust file, and which content of it is in force.
pub(super) struct TrustFile {
    file: StateFile<TrustStore>,
    seen: Option<Stamp>,
    store: TrustStore,
}

impl TrustFile {
    /// Reads the file and puts it into force.
    pub(super) fn load(state: &Path, trust: &Trust) -> Result<Self, Failure> {
        let file = StateFile::in_directory(state);
        // The stamp first: a change in between is noticed the next time.
        let seen = file.stamp();
        let store: TrustStore = file.load().map_err(trust_cmd::of_file)?;
        trust.apply(trust.policy(), store.clone());
        Ok(Self { file, seen, store })
    }

    /// The decisions, if the file changed since the last look. One that cannot be read changes nothing, but is told.
    fn poll(&mut self) -> Option<TrustStore> {
        let stamp = self.file.stamp();
        if stamp == self.seen {
            return None;
        }
        self.seen = stamp;
        match self.file.load() {
            Ok(store) => {
                self.store = store;
                Some(self.store.clone())
            }
            Err(error) => {
                tracing::error!("{error}; what was decided before stays in force");
                None
            }
        }
    }
}

/// The names of the secrets that tunnels must have proved one of.
pub(super) fn secret_ids(policy: &Policy) -> Vec<SecretId> {
    match policy {
        Policy::Secret(secrets) => secrets.ids(),
        _ => Vec::new(),
    }
}

/// The configuration names a peer. The sessions hear of it if it may connect, and of the port that trust gave it; else it is told why not.
pub(super) fn name_configured(
    trust: &Trust,
    sessions: &mut Sessions,
    peer: &PeerSpec,
) -> Result<(), Refusal> {
    match trust.name_configured(peer) {
        Ok(named) => sessions.handle(Instant::now(), Input::Named(named)),
        Err(Standing::Refused(why)) => return Err(why),
        Err(Standing::Pending | Standing::Admitted(_)) => {}
    }
    Ok(())
}

impl Switch {
    /// Puts the operator's decisions into force, if there are new ones.
    pub(super) fn follow_trust_file(&mut self) {
        if let Some(store) = self.trust_file.poll() {
            tracing::info!("read {} again", self.trust_file.file.path().display());
            let changes = self.trust.apply(self.trust.policy(), store);
            self.follow_changes(changes);
        }
    }

    /// SIGHUP. A configuration that is wrong changes nothing.
    pub(super) fn reload(&mut self, settings: Result<Settings, Failure>) {
        let settings = match settings {
            Ok(settings) => settings,
            Err(error) => {
                tracing::error!("SIGHUP: {error}; what was configured before stays in force");
                return;
            }
        };
        let reload = Reload::between(&self.settings, &settings);
        let (added, removed) = (reload.added.len(), reload.removed.len());
        let policy = if reload.policy.is_some() { ", another trust policy or secret" } else { "" };
        tracing::info!(
            "SIGHUP: {added} peers new or changed, {removed} no longer configured{policy}"
        );
        for key in &reload.needs_restart {
            tracing::warn!("SIGHUP: another {key} takes effect when the switch is started again");
        }
        let account = reload.account.clone();
        self.apply(reload);
        self.settings.peers = settings.peers;
        self.settings.policy = settings.policy;
        if let (Some(in_force), Some(new)) = (&mut self.settings.network, settings.network) {
            in_force.secrets = new.secrets;
            if let (Some(account), Some(network)) = (account, &mut self.network) {
                match account.for_stream(super::network::resource(self.facts.node)) {
                    Ok(account) => network.links.set_account(account),
                    Err(error) => tracing::error!("SIGHUP: {error}"),
                }
                in_force.account = account;
            }
            if let Some(network) = &mut self.network {
                let password = super::network::room_password(in_force);
                network.links.set_password(Instant::now(), password);
                network.links.set_configured(self.settings.peers.len());
            }
        }
    }

    fn apply(&mut self, reload: Reload) {
        let now = Instant::now();
        if let Some(policy) = reload.policy {
            let secrets = secret_ids(&policy);
            let changes = self.trust.apply(policy, self.trust_file.store.clone());
            self.follow_changes(changes);
            self.sessions.handle(now, Input::Secrets(secrets));
        }
        for node in reload.removed {
            self.trust.unname(node, PeerSource::Configured);
            let source = PeerSource::Configured;
            self.sessions.handle(now, Input::Unnamed { peer: node, source });
            if !matches!(self.trust.standing(node), Standing::Admitted(_)) {
                self.revoke(node, "it is no longer configured".into());
            }
        }
        for peer in &reload.added {
            self.name_configured(peer);
        }
    }

    fn name_configured(&mut self, peer: &PeerSpec) {
        if let Err(why) = name_configured(&self.trust, &mut self.sessions, peer) {
            tracing::warn!("--peer {}: it {why}", peer.node);
        }
    }

    /// Closes the tunnels of those who lost their right, and lets configured peers in that got it back.
    fn follow_changes(&mut self, changes: Changes) {
        for (node, now) in changes.lost {
            let why = match now {
                Standing::Refused(why) => format!("it {why}"),
                _ => "it waits to be accepted".into(),
            };
            self.revoke(node, why);
        }
        for node in changes.gained {
            if let Some(peer) = self.settings.peers.iter().find(|peer| peer.node == node).cloned() {
                self.name_configured(&peer);
            }
            if let Some(network) = &mut self.network {
                network.links.admit(Instant::now(), node);
            }
        }
        for node in changes.portless {
            if let Some(network) = &mut self.network {
                network.links.admit(Instant::now(), node);
            }
        }
    }

    fn revoke(&mut self, peer: NodeId, why: String) {
        self.sessions.handle(Instant::now(), Input::Revoked { peer, why });
    }
}
