//! What changes while the switch runs: configuration (SIGHUP) and the operator's decisions about nodes (`ipop-switch trust`).
//!
//! Tunnels of peers that keep their right stay up; those of peers that lose it are closed in-band. The trust file is compared once a second
//! with what was read of it, rather than watched: a look at a file's metadata costs next to nothing, works on every file system, and
//! needs no signal to the right process.

use std::{path::Path, time::Instant};

use ipop_control::{
    host::private_file::PrivateFileError,
    node::{Configured, Input, PortSpec},
    trust::{Claim, NewNodes, Patience, Stamp, StateFile, TrustStore},
};
use ipop_datapath::node_id::NodeId;

use super::{Switch, network::unix_s};
use crate::{
    api::types::{EventKind, What},
    exit::Failure,
    settings::{Reload, Settings},
    trust_cmd,
};

/// What the node is told of the settings.
pub(super) fn configured(settings: &Settings) -> Configured {
    let taps = settings.taps.iter().map(|name| PortSpec::Tap(name.as_str().to_owned()));
    Configured {
        ports: taps.collect(),
        peers: settings.peers.clone(),
        policy: settings.policy.clone(),
    }
}

/// The trust file, and which content of it is in force.
pub(super) struct TrustFile {
    file: StateFile<TrustStore>,
    seen: Option<Stamp>,
}

impl TrustFile {
    /// Reads the file.
    pub(super) fn of_state(state: &Path) -> Result<(Self, TrustStore), Failure> {
        let file = StateFile::in_directory(state);
        // The stamp first: a change in between is noticed the next time.
        let seen = file.stamp();
        let store = file.load().map_err(trust_cmd::of_file)?;
        Ok((Self { file, seen }, store))
    }

    /// What stands in the file now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn load(&self) -> Result<TrustStore, PrivateFileError> {
        self.file.load()
    }

    /// Changes what stands in the file.
    ///
    /// # Errors
    /// When the change says no, or the file cannot be written.
    pub(super) fn update<R, E: From<PrivateFileError>>(
        &self,
        patience: Patience,
        change: impl FnOnce(&mut TrustStore) -> Result<R, E>,
    ) -> Result<R, E> {
        self.file.update(patience, change)
    }

    /// The decisions, if the file changed since the last look. One that cannot be read changes nothing, but is told.
    fn poll(&mut self) -> Option<TrustStore> {
        let stamp = self.file.stamp();
        if stamp == self.seen {
            return None;
        }
        self.seen = stamp;
        let loaded = self.file.load();
        loaded
            .inspect_err(|error| {
                tracing::error!("{error}; what was decided before stays in force");
            })
            .ok()
    }
}

impl Switch {
    /// Puts the operator's decisions into force, if there are new ones.
    pub(super) fn follow_trust_file(&mut self) {
        if let Some(store) = self.trust_file.poll() {
            tracing::info!("read {} again", self.trust_file.file.path().display());
            self.node.handle(Instant::now(), Input::Decisions(store));
            let text = "the decisions about nodes are others".into();
            self.tell_event(EventKind::Trust, text, What::TrustChanged);
        }
    }

    /// The operator's list takes note of who was seen.
    pub(super) fn observe(&mut self, seen: &[(NodeId, Claim)], new: NewNodes) {
        let updated = self.trust_file.update(Patience::GiveUp, |store| {
            for (node, claim) in seen {
                store.observe(*node, claim, new, unix_s());
            }
            Ok::<_, PrivateFileError>(())
        });
        match updated {
            Ok(()) => self.follow_trust_file(),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Reads the configuration again and puts into force what can be; the keys that cannot. One that is wrong changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn reread_and_reload(&mut self) -> Result<Vec<&'static str>, Failure> {
        self.service_manager.reloading();
        let settings = (self.reread)();
        let needs_restart = settings.map(|settings| self.reload(settings));
        self.service_manager.ready();
        needs_restart
    }

    fn reload(&mut self, settings: Settings) -> Vec<&'static str> {
        let Reload { account, needs_restart } = Reload::between(&self.settings, &settings);
        let now = Instant::now();
        let configured = configured(&settings);
        // How many there are decides whose the address is.
        self.settings.taps = settings.taps;
        self.node.handle(now, Input::Configured(configured));
        // It says what is new about peers first.
        self.carry_out();
        self.look_at_addresses(now);
        for key in &needs_restart {
            tracing::warn!("SIGHUP: another {key} takes effect when the switch is started again");
        }
        self.settings.shown = settings.shown;
        let (Some(in_force), Some(new)) = (&mut self.settings.network, settings.network) else {
            return needs_restart;
        };
        in_force.secrets = new.secrets;
        if let Some(account) = account {
            match account.for_stream(super::network::resource(self.facts.node)) {
                Ok(account) => self.node.handle(now, Input::Account(account)),
                Err(error) => tracing::error!("SIGHUP: {error}"),
            }
            in_force.account = account;
        }
        let password = super::network::room_password(in_force);
        self.node.handle(now, Input::RoomPassword(password));
        needs_restart
    }
}
