//! Whoever asks a running switch: the commands.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method as HttpMethod, Request, Response, StatusCode, body::Incoming, client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixStream,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::types::Problem;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const LATE: &str = "none in 15 seconds";

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// There is no more.
    All,
    /// The switch has gone.
    CutOff,
    /// The operator has had enough.
    Interrupted,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens there.
    #[error(
        "no switch runs at {path} ({cause}): start one with `ipop-switch --tap ipop0`, or name its socket (--socket PATH) or its instance (--instance NAME)",
        path = path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The socket is for others.
    #[error("you may not use {path}: {who}", path = path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
        /// Who may.
        who: String,
    },
    /// The switch said no.
    #[error("{0}")]
    Refused(Problem),
    /// It did not answer as it should.
    #[error("{path} gives no proper answer: {why}", path = path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Asks one switch.
pub(crate) struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Of the switch at this socket.
    ///
    /// # Errors
    /// When the kernel gives no descriptors.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: path.into(), runtime })
    }

    /// Looks.
    ///
    /// # Errors
    /// When no switch answers, or it says no.
    pub(crate) fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, ClientError> {
        self.ask(HttpMethod::GET, path, None)
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When no switch answers, or it says no.
    pub(crate) fn send<R: DeserializeOwned>(
        &self,
        method: HttpMethod,
        path: &str,
        body: &impl Serialize,
    ) -> Result<R, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.no_answer(error))?;
        self.ask(method, path, Some(body))
    }

    fn ask<R: DeserializeOwned>(
        &self,
        method: HttpMethod,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<R, ClientError> {
        let asked = self
            .runtime
            .block_on(async { timeout(ANSWER_WITHIN, self.exchange(method, path, body)).await });
        let (status, body) = asked.map_err(|_| self.no_answer(LATE))??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.no_answer(error));
        }
        Err(self.refused(status, &body))
    }

    /// Looks on, at what goes on until the switch ends it, `take` fails or the operator has had enough (SIGINT, SIGTERM).
    ///
    /// # Errors
    /// When no switch answers, or it says no; and what `take` says.
    pub(crate) fn receive<E: From<ClientError>>(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Received, E> {
        self.runtime.block_on(async {
            let failed = |error: io::Error| self.no_answer(error);
            let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
            let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
            let exchange = timeout(ANSWER_WITHIN, self.request(HttpMethod::GET, path, None));
            let response = exchange.await.map_err(|_| self.no_answer(LATE))??;
            let (status, mut body) = (response.status(), response.into_body());
            if status != StatusCode::OK {
                let body = body.collect().await.map_err(|error| self.no_answer(error))?;
                return Err(self.refused(status, &body.to_bytes()).into());
            }
            loop {
                let frame = tokio::select! {
                    frame = body.frame() => frame,
                    _ = interrupted.recv() => return Ok(Received::Interrupted),
                    _ = terminated.recv() => return Ok(Received::Interrupted),
                };
                match frame {
                    Some(Ok(frame)) => {
                        if let Ok(bytes) = frame.into_data() {
                            take(&bytes)?;
                        }
                    }
                    Some(Err(_)) => return Ok(Received::CutOff),
                    None => return Ok(Received::All),
                }
            }
        })
    }

    async fn exchange(
        &self,
        method: HttpMethod,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.request(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        Ok((status, body.map_err(|error| self.no_answer(error))?.to_bytes()))
    }

    /// Sends a request. The connection lives as long as the answer's body.
    async fn request(
        &self,
        method: HttpMethod,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.path).await.map_err(|cause| self.unreached(cause))?;
        let failed = |error: hyper::Error| self.no_answer(error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.no_answer(error))?;
        sender.send_request(request).await.map_err(failed)
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let problem = serde_json::from_slice(body);
        problem.map_or_else(|_| self.no_answer(status), ClientError::Refused)
    }

    fn unreached(&self, cause: io::Error) -> ClientError {
        let path = self.path.clone();
        if cause.kind() == io::ErrorKind::PermissionDenied {
            return ClientError::NotPermitted { who: who_may(&path), path };
        }
        ClientError::NotRunning { path, cause }
    }

    fn no_answer(&self, why: impl ToString) -> ClientError {
        ClientError::NoAnswer { path: self.path.clone(), why: why.to_string() }
    }
}

/// Whom the kernel lets use a socket.
fn who_may(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::metadata(path) else {
        return "be root, or ask who runs the switch".into();
    };
    let gid = nix::unistd::Gid::from_raw(metadata.gid());
    match nix::unistd::Group::from_gid(gid) {
        Ok(Some(group)) if gid.as_raw() != 0 => format!("be root, or in group {}", group.name),
        _ => "be root, or have the switch's operator set api_group to a group of yours".into(),
    }
}
