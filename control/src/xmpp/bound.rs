//! Accounts whose log-in was bound to its TLS connection once, so that it is bound from then on or not done at all
//! ([`ChannelBinding::Required`]).

use serde::{Deserialize, Serialize};
use xmpp_parsers::jid::BareJid;

use super::stream::ChannelBinding;
use crate::{
    host::private_file::PrivateFileError,
    trust::{Patience, StateFile, Versioned},
};

/// Accounts that are remembered: a host has one or two in its life. The newest stay.
const MAX_ACCOUNTS: usize = 16;

/// The accounts, the newest last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BoundAccounts {
    account: Vec<String>,
}

impl Versioned for BoundAccounts {
    const VERSION: u32 = 1;
    const FILE_NAME: &'static str = "bound-accounts.toml";
    const CURE: &'static str =
        "delete it: the next log-in is bound only if the server names the kind of binding";
}

/// Notes in the file that a log-in of this account was bound.
///
/// # Errors
/// When the file cannot be read or written.
pub fn remember(
    file: &StateFile<BoundAccounts>,
    account: &BareJid,
    patience: Patience,
) -> Result<(), PrivateFileError> {
    file.update(patience, |bound| {
        bound.insert(account);
        Ok(())
    })
}

impl BoundAccounts {
    /// What a log-in of this account must be.
    pub fn binding_of(&self, account: &BareJid) -> ChannelBinding {
        match self.account.iter().any(|bound| bound == account.as_str()) {
            true => ChannelBinding::Required,
            false => ChannelBinding::IfNamed,
        }
    }

    fn insert(&mut self, account: &BareJid) {
        self.account.retain(|bound| bound != account.as_str());
        self.account.push(account.to_string());
        let excess = self.account.len().saturating_sub(MAX_ACCOUNTS);
        self.account.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> BareJid {
        format!("{name}@example.org").parse().unwrap()
    }

    #[test]
    fn an_account_is_remembered_over_restarts_and_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<BoundAccounts>::in_directory(dir.path());
        let (a, b) = (account("a"), account("b"));
        assert_eq!(file.load().unwrap().binding_of(&a), ChannelBinding::IfNamed);
        remember(&file, &a, Patience::Wait).unwrap();
        let bound = StateFile::<BoundAccounts>::in_directory(dir.path()).load().unwrap();
        assert_eq!(bound.binding_of(&a), ChannelBinding::Required);
        assert_eq!(bound.binding_of(&b), ChannelBinding::IfNamed);
    }

    #[test]
    fn the_newest_are_kept() {
        let mut bound = BoundAccounts::default();
        for number in (0..=MAX_ACCOUNTS).chain([1]) {
            bound.insert(&account(&number.to_string()));
        }
        assert_eq!(bound.account.len(), MAX_ACCOUNTS);
        assert_eq!(bound.binding_of(&account("0")), ChannelBinding::IfNamed);
        assert_eq!(bound.account.last().unwrap(), "1@example.org");
    }
}
