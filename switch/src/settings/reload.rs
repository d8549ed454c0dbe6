//! What SIGHUP changes: local ports, configured peers, policy, secrets, and the account's password and server. Everything else needs a restart, and the operator is told which.

use super::{Account, Network, Settings};

/// The difference between what was in force and what is configured now. Peers, policy and local ports are compared where they are kept.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Reload {
    /// The account's settings if they are others for the same account.
    pub(crate) account: Option<Account>,
    /// Keys that changed and take effect only when the program starts again.
    pub(crate) needs_restart: Vec<&'static str>,
}

impl Reload {
    /// From `old` to `new`.
    pub(crate) fn between(old: &Settings, new: &Settings) -> Self {
        // Whatever can be told has its place here: another setting does not compile until it has one.
        let Settings {
            taps: _,
            bridge,
            address,
            listen,
            peers: _,
            state,
            identity,
            mtu,
            workers,
            congestion,
            offload,
            busy_poll,
            log,
            log_format,
            name,
            network,
            policy: _,
            ice,
            controller,
            api,
            shown: _,
        } = new;
        let whose = |network: &Network| (network.account.jid.clone(), network.room.clone());
        let [was, is] = [&old.network, network].map(|network| network.as_ref().map(whose));
        let of_same = network.as_ref().zip(old.network.as_ref()).filter(|_| was == is);
        let account = of_same
            .filter(|(new, old)| new.account != old.account)
            .map(|(new, _)| new.account.clone());
        let fixed = [
            ("bridge", old.bridge != *bridge),
            ("address", old.address != *address),
            ("listen", old.listen != *listen),
            ("state", old.state != *state),
            ("identity", old.identity != *identity),
            ("mtu", old.mtu != *mtu),
            ("workers", old.workers != *workers),
            ("congestion", old.congestion != *congestion),
            ("offload", old.offload != *offload),
            ("busy_poll", old.busy_poll != *busy_poll),
            ("log", old.log != *log),
            ("log_format", old.log_format != *log_format),
            ("name", old.name != *name),
            ("account or room", was != is),
            ("[ice]", old.ice != *ice),
            ("controller", old.controller != *controller),
            ("api or instance", old.api != *api),
        ];
        let changed = fixed.into_iter().filter(|(_, changed)| *changed);
        let needs_restart = changed.map(|(key, _)| key).collect();
        Self { account, needs_restart }
    }
}
