//! Whoever asks a running switch: the commands.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method as HttpMethod, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

use super::types::Problem;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

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
        let (status, body) = asked.map_err(|_| self.no_answer("none in 15 seconds"))??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.no_answer(error));
        }
        let problem = serde_json::from_slice(&body);
        Err(problem.map_or_else(|_| self.no_answer(status), ClientError::Refused))
    }

    async fn exchange(
        &self,
        method: HttpMethod,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream =
            UnixStream::connect(&self.path).await.map_err(|cause| self.unreached(cause))?;
        let failed = |error: hyper::Error| self.no_answer(error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.no_answer(error))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        connection.abort();
        Ok((status, body))
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
