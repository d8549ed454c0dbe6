//! A server that follows a script instead of the protocol.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::certificates::{Authority, authority};

pub(crate) const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='1' from='example.org'>";
pub(crate) const PLAIN_ONLY: &str = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
    <mechanism>PLAIN</mechanism></mechanisms></stream:features>";

pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) authority: Arc<Authority>,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Speaks TLS from the first byte, then plays the script to each connection.
    pub(crate) async fn direct<S, F>(script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        Self::direct_with(Arc::new(authority(&["example.org"])), script).await
    }

    /// With a certificate of the caller's.
    pub(crate) async fn direct_with<S, F>(authority: Arc<Authority>, script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&authority.server));
        let script = Arc::new(script);
        Self::listen(authority, move |tcp| {
            let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
            async move {
                let tls = acceptor.accept(tcp).await?;
                let label = b"EXPORTER-Channel-Binding";
                let exported = tls.get_ref().1.export_keying_material([0; 32], label, None);
                let mut peer = Peer::new(tls);
                peer.exported = exported.expect("TLS exports keys");
                script(peer).await
            }
        })
        .await
    }

    /// Hangs up on TLS, and plays the script to whoever speaks in plain text.
    pub(crate) async fn plain<S, F>(script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + Sync + 'static,
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let script = Arc::new(script);
        Self::listen(Arc::new(authority(&["example.org"])), move |tcp| {
            let script = Arc::clone(&script);
            async move {
                let mut first = [0];
                tcp.peek(&mut first).await?;
                match first {
                    [0x16] => Ok(()),
                    _ => script(Peer::new(tcp)).await,
                }
            }
        })
        .await
    }

    async fn listen<S, F>(authority: Arc<Authority>, serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let served = serve(tcp);
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        println!("scripted server: {error}");
                    }
                });
            }
        });
        Self { port, authority, accepted }
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// The client, as the script sees it.
pub(crate) struct Peer {
    pipe: Box<dyn Pipe>,
    /// Read and not yet asked for.
    heard: String,
    /// What the log-in can be bound to.
    pub(crate) exported: [u8; 32],
}

impl Peer {
    fn new(pipe: impl Pipe + 'static) -> Self {
        Self { pipe: Box::new(pipe), heard: String::new(), exported: [0; 32] }
    }

    pub(crate) async fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.pipe.write_all(text.as_bytes()).await?;
        self.pipe.flush().await
    }

    /// Everything up to and including `end`.
    pub(crate) async fn hear(&mut self, end: &str) -> std::io::Result<String> {
        loop {
            if let Some(index) = self.heard.find(end) {
                let rest = self.heard.split_off(index + end.len());
                return Ok(std::mem::replace(&mut self.heard, rest));
            }
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer).await? {
                0 => return Err(std::io::Error::other(format!("closed after {:?}", self.heard))),
                count => self.heard.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
    }

    /// Everything until the client closes.
    pub(crate) async fn hear_all(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.pipe.read_to_end(&mut bytes).await;
        std::mem::take(&mut self.heard) + &String::from_utf8_lossy(&bytes)
    }

    /// Sends the same over and over until the client closes, or takes nothing more for a while. How many bytes it took.
    pub(crate) async fn send_endlessly(&mut self, text: &str, patience: Duration) -> usize {
        let chunk = text.repeat(16 * 1024 / text.len() + 1);
        let mut taken = 0;
        while let Ok(Ok(count)) = timeout(patience, self.pipe.write(chunk.as_bytes())).await {
            taken += count;
        }
        taken
    }

    /// A log-in that goes well, with a server that has no stream management.
    pub(crate) async fn log_in(&mut self) -> std::io::Result<()> {
        self.hear("version='1.0'").await?;
        self.send(&format!("{HEADER}{PLAIN_ONLY}")).await?;
        self.hear("</auth>").await?;
        self.send("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await?;
        self.bind().await
    }

    /// From the log-in's success to a session, with a server that has no stream management.
    pub(crate) async fn bind(&mut self) -> std::io::Result<()> {
        self.hear("version='1.0'").await?;
        let bind =
            "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>";
        self.send(&format!("{HEADER}{bind}")).await?;
        self.hear("</iq>").await?;
        self.send(
            "<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
             <jid>alice@example.org/node</jid></bind></iq>",
        )
        .await
    }
}

/// What stands in the element that ends `heard`.
pub(crate) fn content(heard: &str) -> String {
    let text = heard.rsplit(['<', '>']).nth(2).expect("an element with text");
    String::from_utf8(BASE64.decode(text.as_bytes()).expect("base64")).expect("text")
}
