//! Connects, logs in, carries the session, and starts over when it ends: the one task of the `xmpp` thread.

use std::{
    collections::VecDeque,
    future::Future,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{sleep_until, timeout},
};
use xmpp_parsers::jid::FullJid;

use crate::{host::local_addresses::local_addresses, rng::Rng};

use super::{
    Counters, FromStream, Limits, Resumed, ToStream,
    account::{Account, ChannelBinding},
    connect::{Attempt, Established, broken},
    failure::Failure,
    iq::Questions,
    login::Session,
    management::Management,
    online::{Conversation, Online, count},
    retry::{LASTING, Retry},
    srv::Endpoint,
    tls::Tls,
    xml::FOOTER,
};

/// How long the server may take to say good-bye.
const FAREWELL: Duration = Duration::from_millis(500);
/// After a change of the network the next attempt comes this soon: addresses and routes change one after the other.
const AFTER_CHANGE: Duration = Duration::from_millis(50);
/// An attempt older than this is given up when the network changes under it.
const STALE_ATTEMPT: Duration = Duration::from_secs(2);

/// The whole state of the thread.
pub(super) struct Actor {
    account: Account,
    tls: Option<Tls>,
    conversation: Conversation,
    commands: mpsc::Receiver<ToStream>,
    events: mpsc::Sender<FromStream>,
    retry: Retry,
    random: Rng,
    last_good: Option<Endpoint>,
}

/// Why something is not waited for any more.
#[derive(Debug)]
enum Interruption {
    Shutdown,
    NetworkChanged,
    NewAccount(Box<Account>),
}

/// How a session or an attempt ended.
enum End {
    Failed(Failure),
    Interrupted(Interruption),
}

impl Actor {
    /// `seed` is for jitter, `id_prefix` for the ids of questions.
    pub(super) fn new(
        account: Account,
        limits: Limits,
        commands: mpsc::Receiver<ToStream>,
        events: mpsc::Sender<FromStream>,
        (seed, id_prefix): (u64, String),
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            account,
            tls: None,
            retry: Retry::new(limits.retry_cap, seed),
            random: Rng::new(!seed),
            conversation: Conversation {
                questions: Questions::new(limits.questions, id_prefix),
                management: Management::default(),
                jid: None,
                outbox: VecDeque::new(),
                counters,
                limits,
            },
            commands,
            events,
            last_good: None,
        }
    }

    /// Runs until it is told to stop, or nobody is left to tell it.
    pub(super) async fn run(mut self) {
        loop {
            let end = match self.attempt().await {
                Ok(established) => self.online(established).await,
                Err(end) => end,
            };
            if matches!(end, End::Failed(_)) {
                count(&self.conversation.counters.failures);
            }
            let interruption = match end {
                End::Failed(failure) if failure.is_final() => self.refused(failure).await,
                End::Failed(failure) => self.pause(failure).await,
                End::Interrupted(interruption) => Some(interruption),
            };
            match interruption {
                Some(Interruption::Shutdown) => return,
                Some(Interruption::NewAccount(account)) => self.use_account(*account),
                Some(Interruption::NetworkChanged) | None => {}
            }
        }
    }

    fn use_account(&mut self, account: Account) {
        let account = remembering(account, &self.account);
        if account != self.account {
            self.account = account;
            self.last_good = None;
            self.conversation.end_session();
        }
        // The file of authorities may be another one, too.
        self.tls = None;
        self.retry.reset();
    }

    async fn attempt(&mut self) -> Result<Established, End> {
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None => self.tls.insert(Tls::new(&self.account).map_err(End::Failed)?).clone(),
        };
        let attempt = Attempt {
            account: self.account.clone(),
            tls,
            limits: self.conversation.limits.clone(),
            resumption: self.conversation.management.resumption(),
            last_good: self.last_good.clone(),
            random: Rng::new(self.random.fraction().to_bits()),
        };
        let started_at = Instant::now();
        let mut attempt = pin!(attempt.run());
        loop {
            match self.meanwhile(attempt.as_mut()).await {
                Ok(result) => return result.map_err(End::Failed),
                // A network that never settles must not keep every attempt from its end.
                Err(Interruption::NetworkChanged) if started_at.elapsed() < STALE_ATTEMPT => {}
                Err(interruption) => return Err(End::Interrupted(interruption)),
            }
        }
    }

    /// Waits after a failure.
    async fn pause(&mut self, why: Failure) -> Option<Interruption> {
        let wait = self.retry.after(&why);
        tracing::debug!(retry_in_ms = wait.as_millis() as u64, "{why}");
        self.conversation.outbox.push_back(FromStream::Offline { why, retry_in: wait });
        match self.meanwhile(pin!(tokio::time::sleep(wait))).await {
            Ok(()) => None,
            Err(Interruption::NetworkChanged) => {
                self.retry.reset();
                self.meanwhile(pin!(tokio::time::sleep(wait.min(AFTER_CHANGE)))).await.err()
            }
            Err(interruption) => Some(interruption),
        }
    }

    /// Waits for other settings.
    async fn refused(&mut self, why: Failure) -> Option<Interruption> {
        self.conversation.end_session();
        self.conversation.outbox.push_back(FromStream::Refused { why });
        loop {
            match self.meanwhile(pin!(std::future::pending::<()>())).await {
                Err(Interruption::NetworkChanged) | Ok(()) => {}
                Err(interruption) => return Some(interruption),
            }
        }
    }

    /// Waits for `future`, and serves the program while there is no connection.
    async fn meanwhile<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Interruption> {
        loop {
            let conversation = &mut self.conversation;
            let deadline = conversation.questions.next_deadline();
            tokio::select! {
                biased;
                permit = self.events.reserve(), if !conversation.outbox.is_empty() => {
                    let permit = permit.map_err(|_| Interruption::Shutdown)?;
                    if let Some(event) = conversation.outbox.pop_front() {
                        permit.send(event);
                    }
                }
                output = &mut future => return Ok(output),
                command = self.commands.recv(), if conversation.outbox_has_room() => match command {
                    None | Some(ToStream::Shutdown) => return Err(Interruption::Shutdown),
                    Some(ToStream::NetworkChanged) => return Err(Interruption::NetworkChanged),
                    Some(ToStream::UseAccount(account)) => return Err(Interruption::NewAccount(account)),
                    Some(ToStream::Send(stanza)) => conversation.send_offline(&stanza),
                    Some(ToStream::Iq(question)) => conversation.ask_offline(Instant::now(), *question),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    conversation.expire_questions(Instant::now());
                }
            }
        }
    }

    /// Carries a session to its end.
    async fn online(&mut self, established: Established) -> End {
        let opened_at = Instant::now();
        let Established { inbound, mut outbound, session, is_bound, endpoint, local_ip } =
            established;
        if is_bound && self.account.binding != ChannelBinding::Required {
            self.account.binding = ChannelBinding::Required;
            self.conversation
                .outbox
                .push_back(FromStream::Bound { account: self.account.jid.clone() });
        }
        tracing::debug!(server = %endpoint.server, mode = ?endpoint.mode, "XMPP stream open");
        self.last_good = Some(endpoint);
        let first = match self.begin(session) {
            Ok(first) => first,
            Err(failure) => {
                self.conversation.end_session();
                return End::Failed(failure);
            }
        };
        let mut online = Online::new(&mut self.conversation, first, opened_at);
        let surroundings = Surroundings {
            commands: &mut self.commands,
            events: &self.events,
            account: &self.account,
            local_ip,
        };
        let end = converse(&mut online, inbound, &mut outbound, surroundings).await;
        match &end {
            End::Failed(failure) => online.lost(failure),
            End::Interrupted(_) => online.out.extend_from_slice(FOOTER),
        }
        // Nobody waits for the outcome: the server notices by itself, only later.
        let _ = timeout(FAREWELL, async {
            outbound.write_all(&online.out).await?;
            outbound.shutdown().await
        })
        .await;
        if opened_at.elapsed() >= LASTING {
            self.retry.reset();
        }
        end
    }

    /// Notes what session this is, and gives what has to be sent first.
    fn begin(&mut self, session: Session) -> Result<Vec<u8>, Failure> {
        let mut first = Vec::new();
        let conversation = &mut self.conversation;
        let (jid, resumed): (FullJid, Resumed) = match (session, conversation.jid.clone()) {
            (Session::Resumed { received }, Some(jid)) => {
                conversation.management.resumed(received, &mut first)?;
                (jid, Resumed::Yes)
            }
            (Session::Resumed { .. }, None) => {
                return Err(Failure::Protocol("resumes a session that never was"));
            }
            (Session::New { jid, management }, _) => {
                conversation.end_session();
                if management {
                    conversation.management = Management::asked();
                }
                (jid, Resumed::No)
            }
        };
        count(match resumed {
            Resumed::Yes => &conversation.counters.resumptions,
            Resumed::No => &conversation.counters.sessions,
        });
        conversation.jid = Some(jid.clone());
        conversation.outbox.push_back(FromStream::Online { jid, resumed });
        Ok(first)
    }
}

/// The program around a session.
struct Surroundings<'a> {
    commands: &'a mut mpsc::Receiver<ToStream>,
    events: &'a mpsc::Sender<FromStream>,
    account: &'a Account,
    /// The host's address that the connection has.
    local_ip: Option<IpAddr>,
}

/// Stanzas both ways until the connection ends or something else is wanted.
async fn converse(
    online: &mut Online<'_>,
    mut inbound: super::connect::Inbound<impl tokio::io::AsyncRead + Unpin>,
    outbound: &mut (impl AsyncWrite + Unpin),
    surroundings: Surroundings<'_>,
) -> End {
    let Surroundings { commands, events, account, local_ip } = surroundings;
    let mut flush = Flush::Done;
    loop {
        let now = Instant::now();
        if commands.is_empty() {
            online.settle(now);
        }
        let (may_read, may_send) = (online.may_read(now), online.may_send());
        let (wake_at, has_events) = (online.wake_at(now), !online.conversation.outbox.is_empty());
        let must_write = !online.out.is_empty() || flush == Flush::Due;
        let result = tokio::select! {
            permit = events.reserve(), if has_events => match permit {
                Ok(permit) => {
                    if let Some(event) = online.conversation.outbox.pop_front() {
                        permit.send(event);
                    }
                    Ok(())
                }
                Err(_) => return End::Interrupted(Interruption::Shutdown),
            },
            item = inbound.next(), if may_read => {
                let now = Instant::now();
                online.received_bytes(now, inbound.take_received_bytes());
                item.and_then(|item| online.item(now, item))
            }
            written = write_some(outbound, &mut online.out, &mut flush), if must_write => written,
            command = commands.recv(), if may_send => match command {
                // TCP would keep trying from an address that is not there.
                Some(ToStream::NetworkChanged) if local_ip.is_some_and(is_gone) => {
                    Err(Failure::Moved)
                }
                command => match online_command(online, command, account) {
                    Some(interruption) => return End::Interrupted(interruption),
                    None => Ok(()),
                },
            },
            () = sleep_until(wake_at.into()) => online.tick(Instant::now()),
        };
        if let Err(failure) = result {
            return End::Failed(failure);
        }
    }
}

fn online_command(
    online: &mut Online<'_>,
    command: Option<ToStream>,
    account: &Account,
) -> Option<Interruption> {
    let now = Instant::now();
    match command {
        None | Some(ToStream::Shutdown) => return Some(Interruption::Shutdown),
        Some(ToStream::UseAccount(new)) => {
            let new = remembering(*new, account);
            if new != *account {
                return Some(Interruption::NewAccount(Box::new(new)));
            }
        }
        Some(ToStream::NetworkChanged) => {
            online.ask_for_life(now, online.conversation.limits.answer_after_change);
        }
        Some(ToStream::Send(stanza)) => online.send(&stanza),
        Some(ToStream::Iq(question)) => online.ask(now, *question),
    }
    None
}

/// These settings, and what is known of their account by now.
fn remembering(new: Account, old: &Account) -> Account {
    let known = if new.jid == old.jid { old.binding } else { ChannelBinding::IfNamed };
    Account { binding: new.binding.max(known), ..new }
}

/// Whether no interface of this host has this address. If the system does not tell, it may still be there.
fn is_gone(ip: IpAddr) -> bool {
    local_addresses().is_ok_and(|all| !all.iter().any(|own| own.to_canonical() == ip))
}

/// Whether what was written has left TLS's buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flush {
    Due,
    Done,
}

/// Writes a part, or flushes when all is written. Can be dropped while it waits.
async fn write_some(
    outbound: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    flush: &mut Flush,
) -> Result<(), Failure> {
    if out.is_empty() {
        outbound.flush().await.map_err(broken)?;
        *flush = Flush::Done;
    } else {
        let written = outbound.write(out).await.map_err(broken)?;
        out.advance(written);
        *flush = Flush::Due;
    }
    Ok(())
}
