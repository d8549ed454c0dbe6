//! What SIGHUP changes: local ports, configured peers, policy, secrets, and the account's password and server. Everything else needs a restart, and the operator is told which.

use ipop_control::{node::Configured, peer::PeerSpec};

use super::{Account, Network, Settings};

/// The difference between what was in force and what is configured now.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Reload {
    /// What the node is told: peers and policy.
    pub(crate) configured: Configured,
    /// The account's settings if they are others for the same account.
    pub(crate) account: Option<Account>,
    /// Keys that changed and take effect only when the program starts again.
    pub(crate) needs_restart: Vec<&'static str>,
}

impl Reload {
    /// From `old` to `new`.
    pub(crate) fn between(old: &Settings, new: &Settings) -> Self {
        let added = new.peers.iter().filter(|peer| !old.peers.contains(peer)).cloned().collect();
        let gone = |peer: &&PeerSpec| new.peers.iter().all(|other| other.node != peer.node);
        let removed = old.peers.iter().filter(gone).map(|peer| peer.node).collect();
        let policy = (old.policy != new.policy).then(|| new.policy.clone());
        let whose = |network: &Network| (network.account.jid.clone(), network.room.clone());
        let [was, is] = [&old.network, &new.network].map(|network| network.as_ref().map(whose));
        let of_same = new.network.as_ref().zip(old.network.as_ref()).filter(|_| was == is);
        let account = of_same
            .filter(|(new, old)| new.account != old.account)
            .map(|(new, _)| new.account.clone());
        let fixed = [
            ("bridge", old.bridge != new.bridge),
            ("address", old.address != new.address),
            ("listen", old.listen != new.listen),
            ("state", old.state != new.state),
            ("identity", old.identity != new.identity),
            ("mtu", old.mtu != new.mtu),
            ("workers", old.workers != new.workers),
            ("congestion", old.congestion != new.congestion),
            ("offload", old.offload != new.offload),
            ("log", old.log != new.log),
            ("name", old.name != new.name),
            ("account or room", was != is),
            ("[ice]", old.ice != new.ice),
        ];
        let changed = fixed.into_iter().filter(|(_, changed)| *changed);
        let needs_restart = changed.map(|(key, _)| key).collect();
        let configured = Configured { added, removed, policy };
        Self { configured, account, needs_restart }
    }
}
