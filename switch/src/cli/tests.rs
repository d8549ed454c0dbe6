//! What the command line takes.

use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_is_the_default_command() {
    let short = parse("ipop-switch --tap ipop0 --tap ipop1 --peer A@b:1 --mtu 9000").unwrap();
    let long = parse("ipop-switch run --tap ipop0 --tap ipop1 --peer A@b:1 --mtu 9000").unwrap();
    assert!(short.command.is_none());
    let Some(Command::Run(run)) = long.command else { panic!("{long:?}") };
    assert_eq!(short.run.values, run.values);
    assert_eq!(run.values.tap, Some(vec!["ipop0".into(), "ipop1".into()]));
    assert_eq!(run.values.mtu, Some("9000".into()));
    assert!(parse("ipop-switch").unwrap().command.is_none());
}

#[test]
fn check_takes_every_flag_that_run_takes() {
    let line =
        "--tap ipop0 --bridge br0 --peer A@b:1 --join TOKEN --xmpp-jid a@b --mtu 9000 --config /c";
    let run = parse(&format!("ipop-switch run {line}")).unwrap();
    let check = parse(&format!("ipop-switch check {line}")).unwrap();
    let (Some(Command::Run(run)), Some(Command::Check(check))) = (run.command, check.command)
    else {
        panic!("{line}")
    };
    assert_eq!((check.values, check.config), (run.values, run.config));
}

#[test]
fn the_other_commands_and_their_flags() {
    let cli = parse("ipop-switch identity --identity /k.pem --state /s").unwrap();
    let Some(Command::Identity(args)) = cli.command else { panic!("{cli:?}") };
    assert_eq!((args.identity, args.state), (Some("/k.pem".into()), Some("/s".into())));
    let cli = parse("ipop-switch room add r@muc.b c@b --xmpp-jid a@b --trust tofu").unwrap();
    let Some(Command::Room(command)) = cli.command else { panic!("{cli:?}") };
    let RoomCommand::Add { at, member } = *command else { panic!("{command:?}") };
    assert_eq!((member.room().unwrap().as_str(), member.account()), ("r@muc.b", "c@b"));
    assert_eq!((at.account.xmpp_jid, at.account.trust), (Some("a@b".into()), Some("tofu".into())));
    let cli = parse("ipop-switch trust deny rack7 --state /s").unwrap();
    let Some(Command::Trust(args)) = cli.command else { panic!("{cli:?}") };
    assert!(matches!(args.command, TrustCommand::Deny { node } if node == "rack7"));
    assert_eq!(args.state, Some("/s".into()));
    for (line, kind) in [
        ("ipop-switch --version", ErrorKind::DisplayVersion),
        ("ipop-switch --help", ErrorKind::DisplayHelp),
        ("ipop-switch --tap", ErrorKind::InvalidValue),
        ("ipop-switch --tpa x", ErrorKind::UnknownArgument),
        ("ipop-switch check --tpa x", ErrorKind::UnknownArgument),
        ("ipop-switch secret", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("ipop-switch trust accept", ErrorKind::MissingRequiredArgument),
        ("ipop-switch room create", ErrorKind::MissingRequiredArgument),
        ("ipop-switch room show r@b --tap x", ErrorKind::UnknownArgument),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind(), kind, "{line}");
        assert_eq!(error.exit_code(), if error.use_stderr() { 2 } else { 0 });
    }
}

/// Flags may stand anywhere between the words.
#[test]
fn a_token_stands_for_the_room() {
    for (line, room, account) in [
        ("add --join T c@b", None, "c@b"),
        ("remove c@b --join T", None, "c@b"),
        ("add r@muc.b --xmpp-jid a@b c@b", Some("r@muc.b"), "c@b"),
        ("remove r@muc.b c@b --join T", Some("r@muc.b"), "c@b"),
    ] {
        let cli = parse(&format!("ipop-switch room {line}")).unwrap();
        let Some(Command::Room(command)) = cli.command else { panic!("{cli:?}") };
        let (RoomCommand::Add { member, .. } | RoomCommand::Remove { member, .. }) = *command
        else {
            panic!("{command:?}")
        };
        assert_eq!((member.room().map(|r| &**r), member.account()), (room, account), "{line}");
    }
    for line in ["show --join T", "create --join T", "show r@muc.b", "create r@muc.b --join T"] {
        assert!(parse(&format!("ipop-switch room {line}")).is_ok(), "{line}");
    }
    for line in ["show", "create", "add", "remove --join T", "add r@muc.b c@b d@b"] {
        assert!(parse(&format!("ipop-switch room {line}")).is_err(), "{line}");
    }
}

#[test]
fn help_shows_exit_codes_and_every_flag() {
    let help = Cli::command().render_long_help().to_string();
    for word in [
        "Exit codes",
        "--tap",
        "--port",
        "--bridge",
        "--address",
        "--listen",
        "--peer",
        "--state",
        "--identity",
        "--config",
        "--name",
        "--xmpp-jid",
        "--xmpp-password-file",
        "--xmpp-server",
        "--xmpp-ca",
        "--xmpp-pin",
        "--room",
        "--network-secret-file",
        "--trust",
        "--join",
        "--mtu",
        "--workers",
        "--congestion",
        "--offload",
        "--busy-poll",
        "--instance",
        "--api",
        "--controller",
        "--api-listen",
        "--api-token-file",
        "--log-format",
        "--log",
        "identity",
        "check",
        "IDB@hostB:5800",
    ] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
}
