//! Opens the stream: finds the server, connects TCP, TLS and logs in, within set times.
//!
//! The addresses of a name are tried in the system's order, each a moment after the one before (RFC 8305), so that a
//! dead address costs little. After a failed endpoint comes the next one, unless the failure is about the account.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use xmpp_parsers::ns;

use crate::{network::Pin, rng::Rng};

use super::{
    Limits,
    account::{Account, ServerAddress},
    failure::Failure,
    login::{Login, Progress, Session, stream_error},
    management::Resumption,
    srv::{self, Endpoint, Mode},
    tls::{Tls, exported_key},
    xml::{self, Item, StreamReader},
};

/// Until the next address is tried beside the one under way (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// For all addresses of a name together.
const TCP_TIMEOUT: Duration = Duration::from_secs(8);
/// Short, since a server that expects no TLS on that port may just wait.
const TLS_TIMEOUT: Duration = Duration::from_secs(6);
/// Of a name. The others are left: whoever answers for it could have this host knock at any number of doors.
const MAX_ADDRESSES: usize = 8;
/// How often in a row a server may send on to another one.
const MAX_REDIRECTIONS: usize = 2;

/// What opening the stream needs; nothing in it is shared, so that it can be dropped at any time.
pub(super) struct Attempt {
    pub(super) account: Account,
    pub(super) tls: Tls,
    pub(super) limits: Limits,
    pub(super) resumption: Option<Resumption>,
    /// Where it worked last; tried first if it is still one of the places.
    pub(super) last_good: Option<Endpoint>,
    pub(super) random: Rng,
}

/// An open stream.
pub(super) struct Established {
    pub(super) inbound: Inbound<ReadHalf<TlsStream<TcpStream>>>,
    pub(super) outbound: WriteHalf<TlsStream<TcpStream>>,
    pub(super) session: Session,
    /// Whether the log-in was bound to the TLS connection.
    pub(super) is_bound: bool,
    pub(super) endpoint: Endpoint,
    /// Of this host, if the system tells.
    pub(super) local_ip: Option<IpAddr>,
}

impl Attempt {
    /// Tries one endpoint after the other. Reports the failure that came furthest.
    pub(super) async fn run(mut self) -> Result<Established, Failure> {
        let mut endpoints: VecDeque<Endpoint> =
            srv::endpoints(&self.account, &mut self.random).await?.into();
        if let Some(index) =
            endpoints.iter().position(|endpoint| Some(endpoint) == self.last_good.as_ref())
            && let Some(good) = endpoints.remove(index)
        {
            endpoints.push_front(good);
        }
        let mut best: Option<(Stage, Failure)> = None;
        let mut redirections = 0;
        while let Some(endpoint) = endpoints.pop_front() {
            let (stage, failure) = match self.establish(&endpoint).await {
                Ok(established) => return Ok(established),
                Err(stumbled) => stumbled,
            };
            tracing::debug!(server = %endpoint.server, mode = ?endpoint.mode, ?stage, "{failure}");
            if !failure.is_local_to_address() {
                return Err(failure);
            }
            if stage != Stage::Securing {
                endpoints.retain(|other| other.server != endpoint.server);
            }
            if let Failure::Stream { elsewhere: Some(server), .. } = &failure
                && redirections < MAX_REDIRECTIONS
            {
                redirections += 1;
                endpoints.push_front(Endpoint { server: server.clone(), mode: endpoint.mode });
            }
            if best.as_ref().is_none_or(|(furthest, _)| *furthest < stage) {
                best = Some((stage, failure));
            }
        }
        Err(self.furthest(best))
    }

    /// The pin of the first endpoint that proves who it is.
    pub(super) async fn server_pin(mut self) -> Result<Pin, Failure> {
        let mut best: Option<(Stage, Failure)> = None;
        for endpoint in srv::endpoints(&self.account, &mut self.random).await? {
            let (stage, failure) = match self.open(&endpoint).await {
                Ok(tls) => {
                    let shown = self.tls.pin_to_hand_on(&tls);
                    return shown.ok_or(Failure::Protocol("has a certificate that cannot be read"));
                }
                Err(stumbled) => stumbled,
            };
            if best.as_ref().is_none_or(|(furthest, _)| *furthest < stage) {
                best = Some((stage, failure));
            }
        }
        Err(self.furthest(best))
    }

    /// The failure that came furthest, of all that were tried.
    fn furthest(&self, best: Option<(Stage, Failure)>) -> Failure {
        let nothing_to_try =
            || Failure::NotOffered { domain: self.account.jid.domain().to_string() };
        best.map_or_else(nothing_to_try, |(_, failure)| failure)
    }

    async fn establish(&self, endpoint: &Endpoint) -> Result<Established, (Stage, Failure)> {
        let tls = self.open(endpoint).await?;
        let logged_in = timeout(self.limits.login, self.log_in(endpoint, tls)).await;
        let silent =
            |_| Err(Failure::Silent { doing: "logging in", waited_s: self.limits.login.as_secs() });
        logged_in.unwrap_or_else(silent).map_err(|failure| (Stage::LoggingIn, failure))
    }

    /// TCP and TLS.
    async fn open(&self, endpoint: &Endpoint) -> Result<TlsStream<TcpStream>, (Stage, Failure)> {
        let server = &endpoint.server;
        let tcp = connect(server).await.map_err(|failure| (Stage::Connecting, failure))?;
        let secured = timeout(self.limits.login.min(TLS_TIMEOUT), self.secure(endpoint, tcp)).await;
        let silent =
            |_| Err(Failure::Tls { server: server.clone(), why: "no answer in time".to_owned() });
        let opened = secured.unwrap_or_else(silent);
        opened.map_err(|failure| (Stage::of_securing(&failure), failure))
    }

    async fn secure(
        &self,
        endpoint: &Endpoint,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let tcp = match endpoint.mode {
            Mode::Direct => tcp,
            Mode::StartTls => self.start_tls(&endpoint.server, tcp).await?,
        };
        self.tls.connect(endpoint.mode, &endpoint.server, tcp).await
    }

    /// RFC 6120 section 5.4, up to `<proceed/>`. Nothing that came before TLS is carried into it.
    async fn start_tls(
        &self,
        server: &ServerAddress,
        mut tcp: TcpStream,
    ) -> Result<TcpStream, Failure> {
        let no_tls = || Failure::NoTls { server: server.clone() };
        tcp.write_all(&xml::header(self.account.jid.domain().as_str())).await.map_err(broken)?;
        let mut inbound = Inbound::new(tcp, &self.limits);
        inbound.expect_header().await?;
        let features = inbound.expect_element().await?;
        if features.is("error", ns::STREAM) {
            return Err(stream_error(&features));
        }
        if !features.has_child("starttls", ns::TLS) {
            return Err(no_tls());
        }
        inbound
            .io
            .write_all(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            .await
            .map_err(broken)?;
        let answer = inbound.expect_element().await?;
        if !answer.is("proceed", ns::TLS) {
            return Err(no_tls());
        }
        if !inbound.buffer.is_empty() {
            return Err(Failure::Protocol("sends more in plain text after it agreed to encrypt"));
        }
        Ok(inbound.io)
    }

    async fn log_in(
        &self,
        endpoint: &Endpoint,
        tls: TlsStream<TcpStream>,
    ) -> Result<Established, Failure> {
        let exported = exported_key(&tls);
        let local_ip = tls.get_ref().0.local_addr().ok().map(|address| address.ip().to_canonical());
        let (reader, mut outbound) = tokio::io::split(tls);
        let mut inbound = Inbound::new(reader, &self.limits);
        let mut login = Login::new(&self.account, exported, self.resumption.clone());
        let mut out = xml::header(self.account.jid.domain().as_str());
        loop {
            outbound.write_all(&out).await.map_err(broken)?;
            outbound.flush().await.map_err(broken)?;
            out.clear();
            match inbound.next().await? {
                Item::Header => {}
                Item::Footer => return Err(Failure::Closed),
                Item::Element(element) => match login.element(element, &mut out)? {
                    Progress::More => {}
                    Progress::NewStream => inbound.new_document(&self.limits),
                    Progress::Done(session) => {
                        return Ok(Established {
                            inbound,
                            outbound,
                            session,
                            is_bound: login.is_bound(),
                            endpoint: endpoint.clone(),
                            local_ip,
                        });
                    }
                },
            }
        }
    }
}

/// How far an attempt came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Connecting,
    /// What answers there may understand the other way to begin TLS.
    Securing,
    /// It understood, and it is of no use.
    Secured,
    LoggingIn,
}

impl Stage {
    fn of_securing(failure: &Failure) -> Self {
        match failure {
            Failure::Certificate { .. }
            | Failure::Stream { .. }
            | Failure::NoTls { .. }
            | Failure::Protocol(_) => Self::Secured,
            _ => Self::Securing,
        }
    }
}

async fn connect(server: &ServerAddress) -> Result<TcpStream, Failure> {
    let refused = |why: String| Failure::Connect { server: server.clone(), why };
    let connected = timeout(TCP_TIMEOUT, async {
        let found = lookup_host((server.host.as_str(), server.port)).await;
        let lookup = |why: String| Failure::Lookup { host: server.host.clone(), why };
        let addresses: Vec<SocketAddr> =
            found.map_err(|error| lookup(error.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(lookup("no such name".to_owned()));
        }
        connect_any(addresses).await.map_err(|error| refused(error.to_string()))
    });
    let tcp = connected.await.map_err(|_| refused("no answer in time".to_owned()))??;
    // Small messages of a dialogue: each waits for the answer to the one before.
    tcp.set_nodelay(true).map_err(broken)?;
    Ok(tcp)
}

async fn connect_any(mut addresses: Vec<SocketAddr>) -> std::io::Result<TcpStream> {
    addresses.truncate(MAX_ADDRESSES);
    let mut addresses = addresses.into_iter();
    let mut under_way = JoinSet::new();
    let mut last_error = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = addresses.next() {
            under_way.spawn(TcpStream::connect(address));
        }
        let finished = match addresses.len() {
            0 => under_way.join_next().await,
            _ => match timeout(NEXT_ADDRESS, under_way.join_next()).await {
                Ok(finished) => finished,
                Err(_) => continue,
            },
        };
        match finished {
            Some(Ok(Ok(tcp))) => return Ok(tcp),
            Some(Ok(Err(error))) => last_error = error,
            Some(Err(error)) => last_error = error.into(),
            None => return Err(last_error),
        }
    }
}

/// What comes, cut into items.
pub(super) struct Inbound<R> {
    io: R,
    buffer: BytesMut,
    reader: StreamReader,
    received_bytes: usize,
}

/// Room made for one read: a TLS record.
const READ_LEN: usize = 16 * 1024;

impl<R: AsyncRead + Unpin> Inbound<R> {
    fn new(io: R, limits: &Limits) -> Self {
        Self { io, buffer: BytesMut::new(), reader: StreamReader::new(limits), received_bytes: 0 }
    }

    /// Waits for the next item. Can be dropped while it waits.
    pub(super) async fn next(&mut self) -> Result<Item, Failure> {
        loop {
            let mut unread = &self.buffer[..];
            let item = self.reader.read(&mut unread);
            let read = self.buffer.len() - unread.len();
            self.buffer.advance(read);
            if let Some(item) = item? {
                return Ok(item);
            }
            self.buffer.reserve(READ_LEN);
            match self.io.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => self.received_bytes += count,
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Bytes received since this was asked last.
    pub(super) fn take_received_bytes(&mut self) -> usize {
        std::mem::take(&mut self.received_bytes)
    }

    fn new_document(&mut self, limits: &Limits) {
        self.reader = StreamReader::new(limits);
    }

    async fn expect_header(&mut self) -> Result<(), Failure> {
        match self.next().await? {
            Item::Header => Ok(()),
            Item::Element(_) | Item::Footer => Err(Failure::Closed),
        }
    }

    async fn expect_element(&mut self) -> Result<xmpp_parsers::minidom::Element, Failure> {
        match self.next().await? {
            Item::Element(element) => Ok(element),
            Item::Header | Item::Footer => Err(Failure::Closed),
        }
    }
}

/// An error of the connection.
pub(super) fn broken(error: std::io::Error) -> Failure {
    match error.kind() {
        // Many servers leave TLS's good-bye out.
        std::io::ErrorKind::UnexpectedEof => Failure::Closed,
        _ => Failure::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// At the first ones nobody listens, so that each next one is tried at once.
    #[tokio::test]
    async fn eight_addresses_of_a_name_are_tried_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let behind = |dead: usize| {
            let addresses = std::iter::repeat_n(gone, dead).chain([there]).collect();
            connect_any(addresses)
        };
        assert_eq!(behind(7).await.unwrap().peer_addr().unwrap(), there);
        let refused = behind(8).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
