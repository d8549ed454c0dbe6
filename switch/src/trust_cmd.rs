//! `ipop-switch trust`: what the operator decides about single nodes. It works on the state directory; a running switch looks at the file
//! once a second, so a decision is in force at once, and writes there who is up.

use std::{
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use ipop_control::{
    host::private_file::PrivateFileError,
    peer::NamedBy,
    trust::{
        Patience, PresentPeers, StateFile, TrustStore,
        store::{Entry, StoreError},
    },
};

use crate::{
    cli::TrustCommand,
    exit::{ExitCode, Failure},
};

/// Runs a command on the trust file of this state directory.
pub(crate) fn run(command: &TrustCommand, state: &Path) -> Result<(), Failure> {
    let file = StateFile::<TrustStore>::in_directory(state);
    let said = match command {
        TrustCommand::List => list(&file.load().map_err(of_file)?, &present(state)?),
        TrustCommand::Accept { node } => {
            let node = change(&file, |store| store.accept(node, unix_now_s()))?;
            format!("accepted {node}\n")
        }
        TrustCommand::Deny { node } => {
            let node = change(&file, |store| store.deny(node, unix_now_s()))?;
            format!("denied {node}: it cannot connect any more, whatever names it\n")
        }
        TrustCommand::Forget { node } => {
            let node = change(&file, |store| store.forget(node))?;
            format!("forgot {node}\n")
        }
    };
    io::stdout()
        .write_all(said.as_bytes())
        .map_err(|error| Failure::io("cannot write to standard output", error))
}

/// Seconds since 1970; 0 before that.
pub(crate) fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a decision is not put down.
pub(crate) enum Wrong {
    /// The file is of no use.
    File(PrivateFileError),
    /// The node is not one that it can be said of.
    Node(StoreError),
}

impl From<PrivateFileError> for Wrong {
    fn from(error: PrivateFileError) -> Self {
        Self::File(error)
    }
}

fn change<R>(
    file: &StateFile<TrustStore>,
    change: impl FnOnce(&mut TrustStore) -> Result<R, StoreError>,
) -> Result<R, Failure> {
    file.update(Patience::Wait, |store| change(store).map_err(Wrong::Node)).map_err(|wrong| {
        match wrong {
            Wrong::File(error) => of_file(error),
            Wrong::Node(error) => Failure::new(ExitCode::Usage, error),
        }
    })
}

/// The failure with the exit code that fits.
pub(crate) fn of_file(error: PrivateFileError) -> Failure {
    let code = if error.is_permission() { ExitCode::Permission } else { ExitCode::Usage };
    Failure::new(code, error)
}

/// Who is up, if a switch runs.
fn present(state: &Path) -> Result<PresentPeers, Failure> {
    let file = StateFile::<PresentPeers>::in_directory(state);
    if file.is_held() { file.load().map_err(of_file) } else { Ok(PresentPeers::default()) }
}

/// What names a peer, for people.
pub(crate) fn word_of(source: &NamedBy) -> &'static str {
    match source {
        NamedBy::Configured => "--peer",
        NamedBy::Room => "room",
        NamedBy::Saved => "known from before",
        NamedBy::Controller => "controller",
        NamedBy::Added => "added",
    }
}

/// One line a node: what was decided, its id, its name and account; then those that are up, and what names them.
fn list(store: &TrustStore, present: &PresentPeers) -> String {
    let mut lines = String::new();
    let mut entries = |word: &str, entries: &[Entry]| {
        for entry in entries {
            let claim = entry.claim.as_ref();
            let named = claim.map_or(String::new(), |c| format!(" {} ({})", c.name, c.account));
            let holder = claim.and_then(|claim| store.holder_of(claim));
            let note = match holder.filter(|holder| *holder != entry.node) {
                Some(holder) => format!(", the name of accepted node {holder}"),
                None => String::new(),
            };
            lines += &format!("{word} {}{named}{note}\n", entry.node);
        }
    };
    entries("accepted", store.accepted());
    entries("pending ", store.pending());
    for denied in store.denied() {
        let name = denied.name.as_deref().unwrap_or_default();
        lines += format!("denied   {} {name}", denied.node).trim_end();
        lines.push('\n');
    }
    for peer in &present.peer {
        let sources: Vec<_> = peer.sources.iter().map(word_of).collect();
        lines += &format!("up       {} {} ({})\n", peer.node, peer.name, sources.join(", "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use ipop_control::trust::{Claim, NewNodes, PresentPeer};
    use ipop_datapath::node_id::NodeId;

    use super::*;

    #[test]
    fn decisions_are_kept_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let node = |number: u8| NodeId([number; 32]);
        let command = |command: TrustCommand| run(&command, dir.path());
        let file = StateFile::<TrustStore>::in_directory(dir.path());
        let claim = Claim { account: "a@x".into(), name: "rack7".into() };
        file.update(Patience::Wait, |store| {
            store.observe(node(1), &claim, NewNodes::Wait, 5);
            Ok::<_, PrivateFileError>(())
        })
        .unwrap();
        command(TrustCommand::Accept { node: "rack7".into() }).unwrap();
        command(TrustCommand::Deny { node: node(2).to_string() }).unwrap();
        file.update(Patience::Wait, |store| {
            store.observe(node(3), &claim, NewNodes::Accept, 6);
            Ok::<_, PrivateFileError>(())
        })
        .unwrap();
        let listed = list(&file.load().unwrap(), &PresentPeers::default());
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines[0], format!("accepted {} rack7 (a@x)", node(1)));
        assert!(lines[1].starts_with(&format!("pending  {} rack7 (a@x), the name", node(3))));
        assert_eq!(lines[2..], [format!("denied   {}", node(2))]);
        let error = command(TrustCommand::Forget { node: "rack9".into() }).unwrap_err();
        assert_eq!(error.code, ExitCode::Usage);
        assert!(error.to_string().contains("rack9"), "{error}");
        std::fs::write(file.path(), "version = 9").unwrap();
        let error = command(TrustCommand::List).unwrap_err().to_string();
        assert!(error.contains("trust.toml") && error.contains("version 9"), "{error}");
    }

    #[test]
    fn who_is_up_is_listed_while_a_switch_runs() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<PresentPeers>::in_directory(dir.path());
        let node = NodeId([7; 32]);
        let sources = vec![NamedBy::Configured, NamedBy::Room];
        let peer = vec![PresentPeer { node, name: "rack7".into(), sources }];
        file.store(&PresentPeers { peer }).unwrap();
        let listed = || list(&TrustStore::default(), &present(dir.path()).unwrap());
        assert_eq!(listed(), "", "whoever wrote it is gone");
        let held = file.hold().unwrap();
        assert_eq!(listed(), format!("up       {node} rack7 (--peer, room)\n"));
        drop(held);
    }
}
