//! The command line.
//!
//! Values stay text here and are judged in `settings`, so that a flag and a key of the configuration file obey the same
//! rules and are refused in the same words.
#![allow(rustdoc::broken_intra_doc_links, reason = "help texts name the address [::]")]

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::{exit, settings::LogLevel};

/// An Ethernet switch whose ports are local TAP devices and encrypted QUIC tunnels to the same switch on other hosts.
#[derive(Parser, Debug)]
#[command(
    name = "ipop-switch",
    version,
    args_conflicts_with_subcommands = true,
    after_help = exit::HELP,
    after_long_help = format!("{EXAMPLE}\n\n{}", exit::HELP)
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

const EXAMPLE: &str = "\
A network: an account for each host, a room, a token.
  admin$ ipop-switch secret new > network.secret
  admin$ ipop-switch room create vmnet@muc.example.org --network-secret-file network.secret \\
             --xmpp-jid admin@example.org              # prints TOKEN
  hostA# ipop-switch --tap ipop0 --join TOKEN          # asks for its account, unless that is configured
  hostB# ipop-switch --tap ipop0 --join TOKEN

Two hosts without a server:
  hostA# ipop-switch identity                          # prints IDA
  hostB# ipop-switch identity                          # prints IDB
  hostA# ipop-switch --tap ipop0 --peer IDB@hostB:5800
  hostB# ipop-switch --tap ipop0 --peer IDA            # no address: may connect, isn't dialled";

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the switch; the default
    #[command(after_help = exit::HELP)]
    Run(Box<RunArgs>),
    /// Print this node's id; makes the key if there is none
    Identity(IdentityArgs),
    /// Show what this host offers, what is missing and how to get it, and try each step that `run`
    /// takes with the same options; nothing stays behind
    #[command(after_help = exit::HELP)]
    Check(Box<RunArgs>),
    /// Make a network secret
    #[command(subcommand)]
    Secret(SecretCommand),
    /// See and decide who may connect; works while the switch runs
    Trust(TrustArgs),
    /// Make a network's room, and decide who is in it
    #[command(subcommand)]
    Room(Box<RoomCommand>),
    #[command(flatten)]
    Operate(Operate),
}

/// Commands that ask a running switch.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Operate {
    /// Show what is well with the running switch, what is not, and why
    #[command(after_help = exit::HELP)]
    Status {
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Show the peers, or all that is known of one
    Peers {
        /// Name, node id, or the start of one
        peer: Option<String>,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Show the local ports, or change them until the switch is started again
    #[command(args_conflicts_with_subcommands = true)]
    Ports {
        #[command(subcommand)]
        command: Option<PortsCommand>,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Show and change where stations are
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Show why frames were dropped, what that means, and what to do
    Drops {
        /// Go on, once a second, with what is new
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Ask a peer whether it is there, through the tunnel
    Ping {
        /// Name, node id, or the start of one
        peer: String,
        /// So many times
        #[arg(short, long, value_name = "N", default_value_t = 4)]
        count: u64,
        /// Bytes that go with it, at most 4090
        #[arg(long, value_name = "BYTES")]
        size: Option<u16>,
        /// End at the first answer over a direct path; 1 if there is none
        #[arg(long)]
        until_direct: bool,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Show what would become of a frame, here and at the peer that it goes to; nothing is sent
    Trace {
        /// The sender's MAC address
        #[arg(value_name = "SRC-MAC")]
        source: String,
        /// The receiver's MAC address
        #[arg(value_name = "DST-MAC")]
        destination: String,
        /// Local port or peer at which it comes in [default: where the sender was heard last]
        #[arg(long, value_name = "PORT|PEER")]
        port: Option<String>,
        /// The whole frame, from the destination MAC on [default: a short one of no protocol]
        #[arg(long, value_name = "HEX")]
        frame: Option<String>,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Capture frames as they pass, with what becomes of each (pcapng), until Ctrl-C
    Capture(CaptureArgs),
    /// Wait until peers are up, for scripts
    Wait {
        /// So many
        #[arg(long, value_name = "N")]
        peers: usize,
        /// At most so long
        #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
        timeout: f64,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Read the configuration again, as at SIGHUP, and say what came of it
    Reload {
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Set the level of the running switch's log
    Log {
        /// error, warn, info, debug or trace
        level: LogLevel,
        #[command(flatten)]
        switch: SwitchArgs,
    },
}

impl Operate {
    /// Which switch is meant.
    pub(crate) fn switch(&self) -> &SwitchArgs {
        match self {
            Self::Status { switch }
            | Self::Peers { switch, .. }
            | Self::Ports {
                command:
                    Some(
                        PortsCommand::Add { switch, .. }
                        | PortsCommand::Remove { switch, .. }
                        | PortsCommand::Address { switch, .. },
                    ),
                ..
            }
            | Self::Ports { switch, command: None }
            | Self::Fdb(FdbCommand::Show { switch, .. } | FdbCommand::Flush { switch, .. })
            | Self::Drops { switch, .. }
            | Self::Capture(CaptureArgs { switch, .. })
            | Self::Wait { switch, .. }
            | Self::Ping { switch, .. }
            | Self::Trace { switch, .. }
            | Self::Reload { switch }
            | Self::Log { switch, .. } => switch,
        }
    }
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum PortsCommand {
    /// Open a local port: tap:NAME is a TAP device, created if absent, else attached
    Add {
        /// Kind and name
        #[arg(value_name = "KIND:NAME")]
        port: String,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Close a local port; the last one stays
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Give a TAP an address
    Address {
        /// Its name
        name: String,
        /// Such as 10.9.0.1/24
        #[arg(value_name = "CIDR")]
        address: String,
        #[command(flatten)]
        switch: SwitchArgs,
    },
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum FdbCommand {
    /// Show the stations, or one
    Show {
        /// MAC address
        mac: Option<String>,
        #[command(flatten)]
        switch: SwitchArgs,
    },
    /// Forget stations; they are learned again when they are heard
    Flush {
        /// Only this MAC address
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// Only those of this local port, or of this peer
        #[arg(long, value_name = "PORT|PEER")]
        port: Option<String>,
        #[command(flatten)]
        switch: SwitchArgs,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CaptureArgs {
    /// What comes in, goes out or is dropped at this local port or this peer; `all` for everywhere
    #[arg(value_name = "PORT|PEER|all")]
    pub(crate) port: String,
    /// Only what this means, such as \"arp or host 10.0.0.1 and not port 22\"
    #[arg(long, value_name = "EXPR")]
    pub(crate) filter: Option<String>,
    /// At most so many bytes of each frame [default: whole frames]
    #[arg(long, value_name = "N")]
    pub(crate) snap: Option<u32>,
    /// End after so many frames
    #[arg(short, long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// File to write; `-` is standard output, for a pipe
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) write: String,
    #[command(flatten)]
    pub(crate) switch: SwitchArgs,
}

/// Which switch is asked, and how the answer is shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct SwitchArgs {
    /// Print what the API answered, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Socket of the switch [default: its instance's]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Name of the switch, if several run on the host
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RoomCommand {
    /// Make the room; prints the join token alone on standard output if the network has a secret
    #[command(after_help = exit::HELP)]
    Create {
        #[command(flatten)]
        room: RoomAddress,
        #[command(flatten)]
        at: RoomArgs,
        /// Set a room right that exists and belongs to this account
        #[arg(long)]
        reconfigure: bool,
    },
    /// Make an account a member, or lift its ban
    #[command(after_help = exit::HELP, override_usage = "ipop-switch room add [ROOM] JID [OPTIONS]")]
    Add {
        #[command(flatten)]
        member: RoomMember,
        #[command(flatten)]
        at: RoomArgs,
    },
    /// Take an account's right away; in a room with a password it is banned
    #[command(after_help = exit::HELP, override_usage = "ipop-switch room remove [ROOM] JID [OPTIONS]")]
    Remove {
        #[command(flatten)]
        member: RoomMember,
        #[command(flatten)]
        at: RoomArgs,
    },
    /// Show what the room is, who has a right in it, and which nodes are there
    #[command(after_help = exit::HELP)]
    Show {
        #[command(flatten)]
        room: RoomAddress,
        #[command(flatten)]
        at: RoomArgs,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RoomAddress {
    /// The room, like vmnet@muc.example.org; not needed with --join
    #[arg(value_name = "ROOM", required_unless_present = "join")]
    pub(crate) address: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RoomMember {
    /// The room, like vmnet@muc.example.org (not needed with --join), and the account, like site-b@example.org
    #[arg(value_names = ["ROOM", "JID"], required = true, num_args = 1..=2)]
    words: Vec<String>,
}

impl RoomMember {
    /// The last word.
    pub(crate) fn account(&self) -> &str {
        self.words.last().map_or("", String::as_str)
    }

    /// The word before it, if there is one.
    pub(crate) fn room(&self) -> Option<&String> {
        self.words.first().filter(|_| self.words.len() > 1)
    }
}

/// The account that does it, and what it knows of the network.
#[derive(Args, Clone, Debug)]
pub(crate) struct RoomArgs {
    /// Room, secret and perhaps server in one word, as `room create` printed it
    #[arg(long, value_name = "TOKEN")]
    pub(crate) join: Option<String>,
    #[command(flatten)]
    pub(crate) account: AccountValues,
    /// State directory, as for `run`; nothing of it is needed
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Configuration file, as for `run`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Subcommand, Clone, Copy, Debug)]
pub(crate) enum SecretCommand {
    /// Print a new random secret of 160 bits, for a file with mode 0600
    New,
}

#[derive(Args, Debug)]
pub(crate) struct TrustArgs {
    #[command(subcommand)]
    pub(crate) command: TrustCommand,
    /// State directory [default: $STATE_DIRECTORY, else /var/lib/ipop-switch]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state: Option<PathBuf>,
    /// Configuration file, as for `run`
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TrustCommand {
    /// Show who is accepted, who waits, who is denied
    List,
    /// Let a node in, by its id or by the name of one that waits
    Accept {
        /// Node id or name
        node: String,
    },
    /// Take back what was decided about a node
    Forget {
        /// Node id or name
        node: String,
    },
    /// Keep a node out, whatever else would let it in
    Deny {
        /// Node id or name
        node: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) values: Values,
    /// Configuration file (TOML): every flag is a key, flags win
    /// [default: /etc/ipop-switch/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct IdentityArgs {
    /// Key file [default: identity.pem in the state directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// State directory [default: $STATE_DIRECTORY, else /var/lib/ipop-switch]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Configuration file, as for `run`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What flags and configuration file may set.
#[derive(Args, Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct Values {
    /// TAP device: created if absent, else attached and left as it was found; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) tap: Option<Vec<String>>,
    /// Local port; tap:NAME is a TAP device as by --tap; repeatable
    #[arg(long, value_name = "KIND:NAME")]
    pub(crate) port: Option<Vec<String>>,
    /// Put the TAP (every one of them) into this bridge, which must exist
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// Address for the TAP, such as 10.9.0.1/24; only with a single TAP that is in no bridge
    #[arg(long, value_name = "CIDR")]
    pub(crate) address: Option<String>,
    /// UDP address to listen on; port 0 takes any
    /// [default: [::]:5800, IPv4 included; 0.0.0.0:5800 if the host has no IPv6]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Peer that may connect and, if it has an address, is dialled; repeatable
    #[arg(long, value_name = "NODEID[@HOST:PORT]")]
    pub(crate) peer: Option<Vec<String>>,
    /// State directory [default: $STATE_DIRECTORY, else /var/lib/ipop-switch]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Key file, mode 0600, made on first use [default: identity.pem in the state directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) network: NetworkValues,
    /// Inner MTU in bytes, 576 to 65521, the same on all nodes [default: 1500]
    #[arg(long, value_name = "N")]
    pub(crate) mtu: Option<String>,
    /// Threads that carry frames, 1 to 16; auto: one per processor, at most 4 [default: auto]
    #[arg(long, value_name = "N|auto")]
    pub(crate) workers: Option<String>,
    /// Congestion control of the tunnels: tunnel leaves it to the flows inside, cubic shares the
    /// path with others [default: tunnel]
    #[arg(long, value_name = "tunnel|cubic")]
    pub(crate) congestion: Option<String>,
    /// Offloads of the TAP: what works, or none [default: auto]
    #[arg(long, value_name = "auto|off")]
    pub(crate) offload: Option<String>,
    /// Microseconds for which an idle worker looks for frames before it sleeps, 0 to 1000000: lower
    /// latency for processor time [default: 0]
    #[arg(long, value_name = "US")]
    pub(crate) busy_poll: Option<String>,
    /// Name of this switch, if several run on the host
    /// [default: ipop-switch]
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Unix socket of the control API, or off
    /// [default: /run/ipop-switch/INSTANCE.sock]
    #[arg(long, value_name = "PATH|off")]
    pub(crate) api: Option<PathBuf>,
    /// Who brings peers together: the network's room, or a program of its own, over the API
    /// [default: room]
    #[arg(long, value_name = "room|external")]
    pub(crate) controller: Option<String>,
    /// TCP address of the control API besides, on the loopback; takes --api-token-file
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) api_listen: Option<String>,
    /// File with the token that opens the API over TCP, mode 0600
    #[arg(long, value_name = "FILE")]
    pub(crate) api_token_file: Option<PathBuf>,
    /// Form of the log: text, or a JSON object a line
    /// [default: text]
    #[arg(long, value_name = "text|json")]
    pub(crate) log_format: Option<String>,
    /// Least severity that is logged, to standard error: error, warn, info, debug, trace
    /// [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

/// The network to join.
#[derive(Args, Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct NetworkValues {
    /// This node's name, for people [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) account: AccountValues,
    /// Room whose members make up the network
    #[arg(long, value_name = "JID")]
    pub(crate) room: Option<String>,
    /// Room, secret and perhaps server in one word, as `room create` prints it. Other users see it in
    /// the list of processes: in the configuration file they do not
    #[arg(long, value_name = "TOKEN")]
    pub(crate) join: Option<String>,
}

/// The account, and the network's secret and trust. `room` takes the same.
#[derive(Args, Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct AccountValues {
    /// XMPP account that joins the room; at a terminal it is asked for if it stands nowhere, as is its password
    #[arg(long, value_name = "JID")]
    pub(crate) xmpp_jid: Option<String>,
    /// File with the account's password, mode 0600
    #[arg(long, value_name = "FILE")]
    pub(crate) xmpp_password_file: Option<PathBuf>,
    /// XMPP server, instead of what DNS says of the account's domain
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) xmpp_server: Option<String>,
    /// CA certificates (PEM) that the XMPP server's certificate must come from [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) xmpp_ca: Option<PathBuf>,
    /// Key of the XMPP server's certificate, or of one in its chain, as sha256:HEX; counts where no authority vouches
    /// for the server; may be given twice, for an exchange of keys [default: the join token's]
    #[arg(long, value_name = "PIN")]
    pub(crate) xmpp_pin: Option<Vec<String>>,
    /// File with the network's secret, mode 0600; further lines hold older ones that are still valid
    #[arg(long, value_name = "FILE")]
    pub(crate) network_secret_file: Option<PathBuf>,
    /// Who may connect, of those in the room: who knows the network's secret, who is listed, or
    /// who was accepted at first sight [default: secret]
    #[arg(long, value_name = "secret|pinned|tofu")]
    pub(crate) trust: Option<String>,
}
