//! What peers meet at: real servers of Debian's packages, run as processes of a lab.
//!
//! * [`Prosody`] and [`Ejabberd`]: XMPP with rooms ([`XmppServer`]).
//! * [`Coturn`]: STUN and TURN.
//! * [`Dns`]: a name server for one's own names (dnsmasq).
//! * [`Authority`]: the certificates.
//!
//! Each is configured in a directory of the lab, listens at one address of its machine, and is ready when its `start`
//! returns. What they print is in the lab's directory too, and shown when a test fails.

mod authority;
mod coturn;
mod dns;
mod ejabberd;
mod prosody;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

pub use self::{
    authority::{Authority, Validity},
    coturn::{Coturn, CoturnOptions},
    dns::{Dns, DnsRecords},
    ejabberd::{Ejabberd, EjabberdOptions},
    prosody::{Prosody, ProsodyOptions, TlsVersions},
};
use super::{Attached, Internet, Lab, Place, Process, wait_until};

/// How long a server may take until it answers: much more than it does, on a machine that is busy with other things.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The secret that a room's server and the TURN server share.
const TURN_SECRET: &str = "turn-secret-of-the-lab";

/// What clients of an XMPP server are told, whichever program it is.
pub trait XmppServer {
    /// Its domain.
    fn domain(&self) -> &str;

    /// The domain of its rooms.
    fn rooms(&self) -> String;

    /// The address for STARTTLS.
    fn address(&self) -> SocketAddr;

    /// What belongs to it.
    fn directory(&self) -> &Path;

    /// The file with the certificate of the authority that signed its own.
    fn ca_file(&self) -> PathBuf {
        self.directory().join("ca.crt")
    }

    /// An account's address.
    fn jid(&self, account: &str) -> String {
        format!("{account}@{}", self.domain())
    }

    /// A room's address.
    fn room(&self, room: &str) -> String {
        format!("{room}@{}", self.rooms())
    }

    /// The password of an account.
    fn password(&self, account: &str) -> String {
        password_of(account)
    }

    /// A file with the password of an account, readable by its owner alone.
    ///
    /// # Errors
    /// When it can't be written.
    fn password_file(&self, account: &str) -> Result<PathBuf> {
        let path = self.directory().join(format!("{account}.password"));
        fs::write(&path, self.password(account))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

fn password_of(account: &str) -> String {
    format!("password of {account}")
}

/// A machine `server` with both: what most tests want.
#[derive(Debug)]
pub struct Servers {
    /// The machine.
    pub machine: Attached,
    /// Its XMPP server, which hands out credentials for the other one.
    pub prosody: Prosody,
    /// Its STUN and TURN server.
    pub coturn: Coturn,
}

impl Servers {
    /// Attaches the machine to the router and starts both.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(internet: &Internet, options: ProsodyOptions) -> Result<Self> {
        let machine = internet.machine("server", Place::Internet)?;
        let coturn = Coturn::start(internet.lab(), &machine, CoturnOptions::new())?;
        let prosody = Prosody::start(internet.lab(), &machine, options.turn(&coturn))?;
        Ok(Self { machine, prosody, coturn })
    }
}

/// A new directory of the lab for one server.
fn directory(lab: &Lab, at: &Attached, program: &str) -> Result<PathBuf> {
    let mut number = 0;
    loop {
        let dir = lab.dir().join(format!("{}-{program}{number}", at.host.name()));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            result => return result.map(|()| dir).with_context(|| format!("for {program}")),
        }
    }
}

/// Waits until a TCP port answers, asked from the server's own machine.
fn wait_for_port(process: &mut Process, at: &Attached, port: u16) -> Result<()> {
    let address = SocketAddr::from((at.ipv4, port));
    wait_until_ready(process, &format!("port {port}"), || {
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500));
        at.host.enter(connect).is_ok_and(|connected| connected.is_ok())
    })
}

fn wait_until_ready(
    process: &mut Process,
    what: &str,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    let mut is_ready = false;
    let _ = wait_until(READY_LIMIT, || {
        is_ready = ready();
        is_ready || !process.is_running()
    });
    let printed = process.stdout() + &process.stderr();
    let lines: Vec<_> = printed.lines().rev().take(20).collect();
    let end = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
    ensure!(
        is_ready,
        "{}: {what} does not answer. The end of what it said:\n{end}",
        process.label()
    );
    Ok(())
}
