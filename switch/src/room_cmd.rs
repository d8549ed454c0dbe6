//! `ipop-switch room`: what the owner of a network's room does to it. Each command logs in for a moment.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anyhow::Context;
use ipop_control::{
    network::{JoinToken, ServerPins},
    rendezvous::entry_by,
    trust::{Patience, Policy, StateFile},
    xmpp::{
        BareJid,
        administration::{
            AdministrationError, AffiliationChange, Created, Existing, RoomReport, Session, Wanted,
        },
        bound,
        room::{Affiliation, RoomPassword},
        stream,
    },
};

use crate::{
    cli::{RoomArgs, RoomCommand, Values},
    exit::{ExitCode, Failure},
    settings::{self, Layers, RoomSettings, SettingsError},
};

/// What is said on the two outputs.
#[derive(Default)]
struct Said {
    /// For programs.
    output: String,
    /// For people.
    explanation: String,
    /// Why it ends with another code than 0 all the same.
    failure: Option<Failure>,
}

/// Runs a command with what it was told.
pub(crate) fn run(command: &RoomCommand, layers: Layers<'_>) -> Result<(), Failure> {
    let settings = layers.room_settings().map_err(usage)?;
    let room = settings.room.to_jid().map_err(usage)?;
    let said = match command {
        RoomCommand::Create { reconfigure, .. } => {
            let policy = layers.room_policy(&settings).map_err(usage)?;
            let existing = if *reconfigure { Existing::Reconfigured } else { Existing::Refused };
            create(&settings, &room, &policy, existing)
        }
        RoomCommand::Add { member, .. } => add(&settings, &room, &parsed(member.account())?),
        RoomCommand::Remove { member, .. } => remove(&settings, &room, &parsed(member.account())?),
        RoomCommand::Show { .. } => show(&settings, &room),
    }?;
    io::stderr()
        .write_all(said.explanation.as_bytes())
        .map_err(|error| Failure::io("cannot write to standard error", error))?;
    io::stdout()
        .write_all(said.output.as_bytes())
        .map_err(|error| Failure::io("cannot write to standard output", error))?;
    said.failure.map_or(Ok(()), Err)
}

/// What the commands have in common.
pub(crate) fn at(command: &RoomCommand) -> &RoomArgs {
    let (RoomCommand::Create { at, .. }
    | RoomCommand::Add { at, .. }
    | RoomCommand::Remove { at, .. }
    | RoomCommand::Show { at, .. }) = command;
    at
}

/// Its flags as those of `run`.
///
/// # Errors
/// When neither a room nor a token is given.
pub(crate) fn flags(command: &RoomCommand) -> Result<Values, Failure> {
    let room = match command {
        RoomCommand::Create { room, .. } | RoomCommand::Show { room, .. } => room.address.as_ref(),
        RoomCommand::Add { member, .. } | RoomCommand::Remove { member, .. } => member.room(),
    };
    let at = at(command);
    if room.is_none() && at.join.is_none() {
        let why = "no room is named; give ROOM before JID, or --join TOKEN";
        return Err(Failure::new(ExitCode::Usage, anyhow::anyhow!(why)));
    }
    let mut values = Values { state: at.state.clone(), ..Values::default() };
    values.network.account = at.account.clone();
    values.network.room = room.cloned();
    values.network.join = at.join.clone();
    Ok(values)
}

fn usage(error: SettingsError) -> Failure {
    Failure::new(ExitCode::Usage, error)
}

fn parsed(jid: &str) -> Result<BareJid, Failure> {
    let jid: Result<settings::BareJid, String> = jid.parse();
    let jid = jid.map_err(|why| Failure::new(ExitCode::Usage, anyhow::anyhow!(why)))?;
    jid.to_jid().map_err(usage)
}

/// Logs in, runs the dialogue, logs out.
fn within<R>(
    settings: &RoomSettings,
    dialogue: impl AsyncFnOnce(&mut Session) -> Result<R, AdministrationError>,
) -> Result<R, Failure> {
    let account = settings.account.for_stream(String::new()).map_err(usage)?;
    finish(async {
        let mut session = Session::open(account).await?;
        remember_binding(settings, &session);
        let result = dialogue(&mut session).await;
        session.close().await;
        result
    })
}

fn finish<R>(task: impl Future<Output = Result<R, AdministrationError>>) -> Result<R, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(task).map_err(failure)
}

/// Where a state directory is, what was learned of the account goes there. A command alone makes none.
fn remember_binding(settings: &RoomSettings, session: &Session) {
    if !session.is_bound() || !settings.state.is_dir() {
        return;
    }
    let account = session.jid().to_bare();
    match bound::remember(&StateFile::in_directory(&settings.state), &account, Patience::Wait) {
        Err(error) if !error.is_permission() => tracing::warn!("{error}"),
        _ => {}
    }
}

fn failure(error: AdministrationError) -> Failure {
    use AdministrationError::{
        Failed, Gone, NoRoom, NoService, Nonsense, NotAdmin, NotAllowed, NotAsWanted, NotOwner,
        OtherSettings, Privileged, Stream,
    };
    let code = match &error {
        Stream(failure) if failure.is_final() => ExitCode::Usage,
        Stream(_) | Failed { .. } | Nonsense { .. } | NotAsWanted { .. } => ExitCode::Failed,
        NoService { .. } | NoRoom(_) => ExitCode::Usage,
        NotAllowed { .. } | NotAdmin { .. } | Privileged { .. } => ExitCode::Permission,
        Gone(_) | NotOwner { .. } | OtherSettings { .. } => ExitCode::Taken,
    };
    Failure::new(code, error)
}

/// What the mode of trust wants of the room.
pub(crate) fn wanted(policy: &Policy) -> Wanted {
    let password = match policy {
        Policy::Secret(secrets) => Some(RoomPassword(secrets.first().room_password().to_owned())),
        _ => None,
    };
    Wanted { entry: entry_by(policy), password }
}

fn create(
    settings: &RoomSettings,
    room: &BareJid,
    policy: &Policy,
    existing: Existing,
) -> Result<Said, Failure> {
    let wanted = wanted(policy);
    let pins = pins_to_hand_on(&settings.account)?;
    let created = within(settings, async |session| session.create(room, &wanted, existing).await)?;
    let done = match created {
        Created::New => "was made",
        Created::Reconfigured => "was there, belongs to this account, and was configured anew",
        Created::AsWanted => "was there already, as it should be",
    };
    let mut said = Said::default();
    if let Policy::Secret(secrets) = policy {
        let server = settings.account.server.as_ref().map(ToString::to_string);
        let secret = secrets.first().clone();
        let token = JoinToken { room: room.to_string(), secret, server, pins };
        said.output = format!("{token}\n");
        said.explanation = format!(
            "room {room} {done}. Whoever has the join token can join with any account: keep it as a secret. On each host, \
             which asks for its account unless that is configured:\n  ipop-switch --tap ipop0 --join TOKEN\n{}",
            token.pins.as_ref().map_or_else(String::new, about_pins)
        );
    } else {
        said.explanation = format!(
            "room {room} {done}. It is for members only: add the account of each host with\n  \
             ipop-switch room add {room} ACCOUNT\n{}",
            pins.as_ref().map_or_else(String::new, pins_to_configure)
        );
    }
    Ok(said)
}

/// What the hosts need to know the server by: the operator's pins, or, where the operator vouches for the server with a certificate of its
/// own, that of the key that the server shows. Nothing where the system's authorities vouch for it.
fn pins_to_hand_on(account: &settings::Account) -> Result<Option<ServerPins>, Failure> {
    let of_stream = account.for_stream(String::new()).map_err(usage)?;
    let pins = match (&*account.pins, &account.ca) {
        ([], None) => return Ok(None),
        ([], Some(_)) => {
            let shown = stream::server_pin(&of_stream);
            vec![finish(async { shown.await.map_err(AdministrationError::Stream) })?]
        }
        (given, _) => given.to_vec(),
    };
    Ok(Some(ServerPins { domain: of_stream.jid.domain().to_string(), pins }))
}

fn about_pins(ServerPins { domain, pins }: &ServerPins) -> String {
    let pins: Vec<_> = pins.iter().map(ToString::to_string).collect();
    format!(
        "The token names the key by which hosts know the server of {domain} ({}), so they need no --xmpp-ca. The server must \
         keep this key when its certificate is renewed.\n",
        pins.join(", ")
    )
}

fn pins_to_configure(ServerPins { pins, .. }: &ServerPins) -> String {
    let flags: Vec<_> = pins.iter().map(|pin| format!(" --xmpp-pin {pin}")).collect();
    format!("Hosts know the server by{}\n", flags.concat())
}

fn add(settings: &RoomSettings, room: &BareJid, account: &BareJid) -> Result<Said, Failure> {
    let AffiliationChange { was, is } =
        within(settings, async |session| session.add(room, account).await)?;
    let was = if was == is { " already" } else { "" };
    let output = format!("{account} is {} of {room}{was}\n", noun(is));
    Ok(Said { output, ..Said::default() })
}

fn remove(settings: &RoomSettings, room: &BareJid, account: &BareJid) -> Result<Said, Failure> {
    let AffiliationChange { was, is } =
        within(settings, async |session| session.remove(room, account).await)?;
    let was = if was == is { " already" } else { "" };
    let mut said = Said::default();
    if is == Affiliation::Outcast {
        said.output = format!("{account} is banned from {room}{was}\n");
        said.explanation = "Who still has the network's secret can come back with another account: exchange the secret \
                            to shut out for good.\n"
            .into();
    } else {
        said.output = format!(
            "{account} has no right in {room}{}\n",
            if was.is_empty() { " any more" } else { "" }
        );
    }
    Ok(said)
}

fn noun(affiliation: Affiliation) -> &'static str {
    match affiliation {
        Affiliation::Owner => "an owner",
        Affiliation::Admin => "an admin",
        Affiliation::Member => "a member",
        Affiliation::None => "nobody",
        Affiliation::Outcast => "banned",
    }
}

fn show(settings: &RoomSettings, room: &BareJid) -> Result<Said, Failure> {
    let secret = settings.secrets.as_ref().map(|secrets| secrets.first());
    let password = secret.map(|secret| RoomPassword(secret.room_password().to_owned()));
    let report = within(settings, async |session| session.show(room, password.as_ref()).await)?;
    Ok(shown(room, &report))
}

/// One line for each thing, its kind first.
fn shown(room: &BareJid, report: &RoomReport) -> Said {
    let mut said =
        Said { output: format!("room     {room} {}\n", report.configuration), ..Said::default() };
    // Writing to strings does not fail.
    let mut line = |kind: &str, rest: &str| {
        let _ = writeln!(said.output, "{kind:<8} {}", rest.trim_end());
    };
    for wanted in Affiliation::LISTED {
        let listed =
            report.lists.accounts.iter().filter(|(_, affiliation)| **affiliation == wanted);
        listed.for_each(|(account, _)| line(wanted.as_str(), account.as_str()));
    }
    for seen in report.inside.iter().flatten() {
        let jid = seen.jid.as_ref().map_or_else(|| seen.nick.clone(), ToString::to_string);
        match &seen.card {
            Some(card) => {
                line("node", &format!("{} {} {jid} {}", card.node, card.name, card.version));
            }
            None => line("other", &jid),
        }
    }
    if !report.lists.unreadable.is_empty() {
        let lists: Vec<_> = report.lists.unreadable.iter().map(|list| list.as_str()).collect();
        let _ = writeln!(
            said.explanation,
            "this account may not read the room's lists of: {}",
            lists.join(", ")
        );
    }
    if let Err(refusal) = &report.inside {
        let _ = writeln!(said.explanation, "cannot see who is inside: {refusal}");
    }
    if report.inside.is_err() && report.lists.unreadable.len() == Affiliation::LISTED.len() {
        let why = anyhow::anyhow!(
            "this account may see nothing of room {room} but what it is; ask with the account of its owner, or with --join TOKEN"
        );
        said.failure = Some(Failure::new(ExitCode::Permission, why));
    }
    said
}

#[cfg(test)]
mod tests {
    use ipop_control::xmpp::{
        administration::{EntryRefusal, Lists, Seen},
        room::{Card, Configuration},
        stream,
    };
    use ipop_datapath::node_id::NodeId;

    use super::*;

    #[test]
    fn a_room_is_shown_line_by_line() {
        let room: BareJid = "net@muc.example.org".parse().unwrap();
        let node = NodeId([7; 32]);
        let card =
            Card { node, name: "rack7".into(), version: "0.1.0".into(), capabilities: vec![] };
        let seat = |nick: &str, jid: Option<&str>, card| Seen {
            nick: nick.into(),
            jid: jid.map(|jid| jid.parse().unwrap()),
            affiliation: Affiliation::None,
            card,
        };
        let accounts = [("b@x", Affiliation::Member), ("a@x", Affiliation::Owner)];
        let accounts = accounts.map(|(jid, affiliation)| (jid.parse().unwrap(), affiliation));
        let mut report = RoomReport {
            configuration: Configuration { hidden: true, ..Configuration::default() },
            lists: Lists { accounts: accounts.into(), unreadable: vec![] },
            inside: Ok(vec![seat("rack7", Some("b@x/r"), Some(card)), seat("someone", None, None)]),
        };
        let said = shown(&room, &report);
        let expected = format!(
            "room     {room} hidden, without a password, open, semi-anonymous, temporary\nowner    a@x\n\
             member   b@x\nnode     {node} rack7 b@x/r 0.1.0\nother    someone\n"
        );
        assert_eq!((said.output, said.explanation), (expected, String::new()));
        assert!(said.failure.is_none());
        report.inside = Err(EntryRefusal::Password);
        report.lists.unreadable = vec![Affiliation::Owner, Affiliation::Admin];
        let said = shown(&room, &report);
        assert!(said.explanation.contains("owner, admin"), "{}", said.explanation);
        assert!(said.explanation.contains("network secret"), "{}", said.explanation);
        assert!(!said.output.contains("node"));
        assert!(said.failure.is_none(), "members are shown");
        report.lists = Lists { accounts: [].into(), unreadable: Affiliation::LISTED.into() };
        let said = shown(&room, &report);
        assert!(said.output.starts_with("room "), "{}", said.output);
        assert_eq!(said.failure.unwrap().code, ExitCode::Permission);
        // Who is inside is something, even if nobody is.
        report.inside = Ok(vec![]);
        assert!(shown(&room, &report).failure.is_none());
    }

    #[test]
    fn exit_codes_tell_whose_turn_it_is() {
        let room: BareJid = "net@muc.example.org".parse().unwrap();
        let account: BareJid = "a@example.org".parse().unwrap();
        let wrong_password = stream::Failure::Credentials {
            jid: account.to_string(),
            mechanism: "SCRAM-SHA-1",
            condition: "not-authorized".into(),
            text: String::new(),
        };
        for (error, code) in [
            (AdministrationError::Stream(wrong_password), ExitCode::Usage),
            (AdministrationError::Stream(stream::Failure::Closed), ExitCode::Failed),
            (AdministrationError::NoRoom(room.clone()), ExitCode::Usage),
            (
                AdministrationError::NotOwner { room: room.clone(), account: account.clone() },
                ExitCode::Taken,
            ),
            (AdministrationError::NotAdmin { room, account }, ExitCode::Permission),
        ] {
            assert_eq!(failure(error).code, code);
        }
    }
}
