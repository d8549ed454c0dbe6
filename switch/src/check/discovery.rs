//! The way to the network, step by step: where the server is, whether it answers, encryption, log-in, the room, and the
//! STUN and TURN servers that it names.

use std::{
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipop_control::{
    trust::Policy,
    xmpp::{
        administration::{AdministrationError, Session},
        services::{Service, Services},
        stream::{self, Endpoint, Failure, Mode, ServerAddress},
    },
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{Row, nat};
use crate::{
    exit::ExitCode,
    room_cmd,
    settings::{Ice, Network},
};

/// For a name.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// For a server to take a TCP connection.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

const DNS: &str = "XMPP DNS";
const SERVER: &str = "XMPP server";
const TLS: &str = "XMPP TLS";
const LOG_IN: &str = "XMPP log-in";
pub(super) const ROOM: &str = "room";
/// In their order: each needs those before it.
const STEPS: [&str; 5] = [DNS, SERVER, TLS, LOG_IN, ROOM];

/// One row for each step, and how many nodes are in the room.
pub(super) fn rows(network: &Network, policy: &Policy, ice: &Ice) -> (Vec<Row>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(steps(network, policy, ice)),
        Err(error) => {
            let cure = "allow the system calls epoll_create1 and eventfd2";
            (vec![Row::failed(DNS, ExitCode::Failed, error.to_string(), cure)], 0)
        }
    }
}

async fn steps(network: &Network, policy: &Policy, ice: &Ice) -> (Vec<Row>, usize) {
    let mut rows = Vec::new();
    let mut nodes = 0;
    let named = match log_in(network, &mut rows).await {
        Some(mut session) => {
            let (row, inside) = room(&mut session, network, policy).await;
            rows.push(row);
            nodes = inside;
            let named = services(&mut session).await;
            session.close().await;
            Some(named)
        }
        None => None,
    };
    not_taken(&mut rows);
    rows.extend(nat::rows(named.as_deref(), ice).await);
    (rows, nodes)
}

/// Names the steps that the failing one, the last, kept from being tried.
fn not_taken(rows: &mut Vec<Row>) {
    let Some(failing) = rows.last().map(|row| row.what) else { return };
    let at = STEPS.iter().position(|step| *step == failing);
    let rest = STEPS.iter().skip(at.map_or(0, |at| at + 1));
    rows.extend(rest.map(|step| Row::not_tried(step, format!("needs {failing}"))));
}

/// Down to the log-in; what fails is the last row.
async fn log_in(network: &Network, rows: &mut Vec<Row>) -> Option<Session> {
    let account = match network.account.for_stream(String::new()) {
        Ok(account) => account,
        Err(error) => {
            let cure = "correct --xmpp-jid";
            rows.push(Row::failed(LOG_IN, ExitCode::Usage, error.to_string(), cure));
            return None;
        }
    };
    let endpoints = match stream::endpoints(&account).await {
        Ok(endpoints) => endpoints,
        Err(failure) => {
            rows.push(failed(&failure));
            return None;
        }
    };
    if let Some(failure) = unresolved(&endpoints).await {
        rows.push(failed(&failure));
        return None;
    }
    rows.push(Row::ok(DNS, listed(&endpoints)));
    let reached = reach(&endpoints).await;
    let is_reachable = reached.iter().any(|(_, result)| result.is_ok());
    rows.push(server(&reached));
    if !is_reachable {
        return None;
    }
    match Session::open(account).await {
        Ok(session) => {
            let domain = session.jid().domain().to_string();
            rows.push(Row::ok(TLS, format!("certificate valid for {domain}")));
            rows.push(Row::ok(LOG_IN, session.jid().to_bare().to_string()));
            Some(session)
        }
        Err(AdministrationError::Stream(failure)) => {
            let row = failed(&failure);
            if row.what == LOG_IN {
                rows.push(Row::ok(
                    TLS,
                    format!("certificate valid for {}", network.account.jid.domain()),
                ));
            }
            rows.push(row);
            None
        }
        Err(error) => {
            rows.push(Row::failed(LOG_IN, ExitCode::Failed, error.to_string(), "try again"));
            None
        }
    }
}

fn listed(endpoints: &[Endpoint]) -> String {
    let texts = endpoints.iter().map(|endpoint| match endpoint.mode {
        Mode::Direct => format!("{} (TLS)", endpoint.server),
        Mode::StartTls => format!("{} (STARTTLS)", endpoint.server),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// Why no server's name leads to an address; nothing if at least one does.
async fn unresolved(endpoints: &[Endpoint]) -> Option<Failure> {
    let mut last = None;
    for Endpoint { server, .. } in endpoints {
        let asked = lookup_host((server.host.as_str(), server.port));
        let why = match timeout(DNS_TIMEOUT, asked).await {
            Ok(Ok(mut addresses)) => match addresses.next() {
                Some(_) => return None,
                None => "no such name".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer from DNS".to_owned(),
        };
        last = Some(Failure::Lookup { host: server.host.clone(), why });
    }
    last
}

type Reached = Vec<(ServerAddress, io::Result<()>)>;

/// Opens TCP to each server, side by side.
async fn reach(endpoints: &[Endpoint]) -> Reached {
    let mut servers: Vec<ServerAddress> = Vec::new();
    for endpoint in endpoints {
        if !servers.contains(&endpoint.server) {
            servers.push(endpoint.server.clone());
        }
    }
    let attempts: Vec<_> = servers
        .into_iter()
        .map(|server| {
            tokio::spawn(async move {
                let connect = TcpStream::connect((server.host.as_str(), server.port));
                let silent = || io::Error::new(io::ErrorKind::TimedOut, "no answer");
                let result = timeout(TCP_TIMEOUT, connect).await.unwrap_or_else(|_| Err(silent()));
                (server, result.map(|_| ()))
            })
        })
        .collect();
    let mut reached = Vec::new();
    for attempt in attempts {
        reached.extend(attempt.await);
    }
    reached
}

fn server(reached: &Reached) -> Row {
    let of = |is_ok: bool| reached.iter().filter(move |(_, result)| result.is_ok() == is_ok);
    let answering: Vec<_> = of(true).map(|(server, _)| server.to_string()).collect();
    let silent: Vec<_> = of(false)
        .filter_map(|(server, result)| Some(format!("{server}: {}", result.as_ref().err()?)))
        .collect();
    match (answering.as_slice(), silent.as_slice()) {
        (answering, []) if !answering.is_empty() => {
            Row::ok(SERVER, format!("{} answers", answering.join(", ")))
        }
        ([], silent) => Row::failed(
            SERVER,
            ExitCode::Failed,
            silent.join(", "),
            "start the server, open its port in firewalls in between, or correct its SRV records or --xmpp-server",
        ),
        // A domain without records is tried at all usual ports, so this is no fault of anybody.
        (answering, silent) => {
            Row::ok(SERVER, format!("{} answers; not {}", answering.join(", "), silent.join(", ")))
        }
    }
}

/// The row of the step that failed.
fn failed(failure: &Failure) -> Row {
    let (what, cure) = match failure {
        Failure::Lookup { .. } => (
            DNS,
            "correct the account's domain or this host's DNS, or give --xmpp-server HOST:PORT",
        ),
        Failure::NotOffered { .. } => (DNS, "correct the account's domain, or its SRV records"),
        Failure::Connect { .. } => {
            (SERVER, "start the server, or open its port in firewalls in between")
        }
        Failure::Tls { .. } | Failure::NoTls { .. } => {
            (TLS, "enable TLS on the server, or correct the port of --xmpp-server")
        }
        Failure::Certificate { .. } => (
            TLS,
            "give the server a certificate for the account's domain; --xmpp-ca FILE names an authority of its own",
        ),
        Failure::Credentials { .. } => (
            LOG_IN,
            "correct --xmpp-jid or the password; `prosodyctl adduser` or `ejabberdctl register` makes an account",
        ),
        Failure::Mechanisms { .. } => (
            LOG_IN,
            "enable SCRAM on the server, or set allow_plain = true in [xmpp] if its operator may see the password",
        ),
        Failure::Settings(_) => (TLS, "correct --xmpp-ca"),
        Failure::Impersonation(_) | Failure::Unbound { .. } => {
            (LOG_IN, "find out who answers instead of the server")
        }
        _ => (LOG_IN, "look at the server's log"),
    };
    Row::failed(what, ExitCode::Failed, failure.to_string(), cure)
}

/// With the number of nodes inside.
async fn room(session: &mut Session, network: &Network, policy: &Policy) -> (Row, usize) {
    let create = format!("ipop-switch room create {}", network.room);
    let failed =
        |found: String, cure: String| (Row::failed(ROOM, ExitCode::Failed, found, cure), 0);
    let room = match network.room.to_jid() {
        Ok(room) => room,
        Err(error) => return failed(error.to_string(), "correct --room".into()),
    };
    let wanted = room_cmd::wanted(policy);
    let configuration = match session.configuration(&room).await {
        Ok(configuration) => configuration,
        Err(AdministrationError::NoRoom(_)) => {
            return failed(
                format!("{room} does not exist"),
                format!("`{create}`, or correct --room"),
            );
        }
        Err(error) => return failed(error.to_string(), "correct --room".into()),
    };
    let faults = configuration.faults(wanted.entry);
    if !faults.is_empty() {
        let cure = format!("its owner sets it right with `{create} --reconfigure`");
        return failed(format!("{room}: {}", faults.join(", ")), cure);
    }
    match session.look(&room, wanted.password.as_ref()).await {
        Ok(Ok(seen)) => {
            let nodes = seen.iter().filter(|seen| seen.card.is_some()).count();
            (Row::ok(ROOM, format!("{room}: {configuration}; nodes inside: {nodes}")), nodes)
        }
        Ok(Err(refusal)) => {
            let cure =
                format!("`ipop-switch room show {room}` with the account of its owner tells more");
            failed(refusal.to_string(), cure)
        }
        Err(error) => failed(error.to_string(), "try again; look at the server's log".into()),
    }
}

/// The STUN and TURN servers that the XMPP server names (XEP-0215); none if it does not know of any.
async fn services(session: &mut Session) -> Vec<Service> {
    let (now, mut services) = (Instant::now(), Services::default());
    services.online(now, &session.jid().to_bare());
    let Some(request) = services.poll_request(now) else { return Vec::new() };
    let answer = session.ask(request.to, request.ask).await;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_s = since_1970.as_secs().try_into().unwrap_or(i64::MAX);
    services.handle_answer(Instant::now(), unix_s, request.token, &answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    fn address(text: &str) -> ServerAddress {
        text.parse().unwrap()
    }

    #[test]
    fn each_failure_names_its_step() {
        let server = address("xmpp.example.org:5222");
        for (failure, step) in [
            (Failure::Lookup { host: "x".into(), why: "y".into() }, DNS),
            (Failure::Connect { server: server.clone(), why: "refused".into() }, SERVER),
            (Failure::NoTls { server }, TLS),
            (Failure::Impersonation("no signature".into()), LOG_IN),
            (Failure::Closed, LOG_IN),
        ] {
            let row = failed(&failure);
            assert_eq!((row.what, row.status), (step, Status::Failed(ExitCode::Failed)));
            assert_eq!(row.found, failure.to_string());
        }
    }

    #[test]
    fn what_follows_a_failing_step_is_not_tried() {
        let mut rows = vec![Row::ok(DNS, "x"), failed(&Failure::Closed)];
        rows[1].what = SERVER;
        not_taken(&mut rows);
        let whats: Vec<_> = rows.iter().map(|row| row.what).collect();
        assert_eq!(whats, STEPS);
        assert!(rows[2..].iter().all(|row| row.status == Status::NotTried), "{rows:?}");
        let mut all = vec![Row::ok(ROOM, "x")];
        not_taken(&mut all);
        assert_eq!(all.len(), 1);
    }

    #[tokio::test]
    async fn servers_that_answer_are_told_from_those_that_do_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = address(&listener.local_addr().unwrap().to_string());
        // Nobody can listen on port 1 by chance, nor is anybody asked twice.
        let closed = address("127.0.0.1:1");
        let endpoint = |server: &ServerAddress, mode| Endpoint { server: server.clone(), mode };
        let endpoints = [
            endpoint(&closed, Mode::StartTls),
            endpoint(&open, Mode::StartTls),
            endpoint(&open, Mode::Direct),
        ];
        assert!(listed(&endpoints).starts_with("127.0.0.1:1 (STARTTLS), "));
        let reached = reach(&endpoints).await;
        assert_eq!(reached.len(), 2);
        let row = server(&reached);
        assert_eq!(row.status, Status::Ok);
        assert!(row.found.starts_with(&format!("{open} answers; not 127.0.0.1:1: ")), "{row:?}");
        let none: Reached = reached.into_iter().filter(|(_, result)| result.is_err()).collect();
        assert_eq!(server(&none).status, Status::Failed(ExitCode::Failed));
    }
}
