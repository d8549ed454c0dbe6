//! The API's thread: connections, and requests on their way to methods.
//!
//! Clients are not trusted to be quick or quiet: a connection has to bring each request's head and body in time and take each answer in time, or it is closed,
//! and there are only so many at once. What is over waits in the kernel's queue of the socket.

use std::{
    future::pending,
    io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, RequestExt, Router,
    body::to_bytes,
    extract::{RawPathParams, Request},
    http::{Method as HttpMethod, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use form_urlencoded::Serializer;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;

use super::{
    Api, Listeners,
    answer::{json, json_text, written},
    captures, events,
    listen::UnixSocket,
    metrics,
    params::Params,
    rights::{Caller, Right},
    rpc,
    token::{Token, guarded},
    types::{CaptureParams, EventParams, Problem, ProblemCode},
};

/// Connections at once. Each takes some 20 kB while it waits.
pub(super) const MAX_CLIENTS: usize = 256;
/// How long a client has to send a request's head, and how long a connection may be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a client has to send a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// How long a client has to take some more of an answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// The longest body of a request, bytes.
pub(super) const MAX_BODY: usize = 256 << 10;
/// The longest head of a request, bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// After an accept that failed, as when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is told to end.
pub(super) async fn serve(api: Api, listeners: Listeners, ended: oneshot::Receiver<()>) {
    let api = Arc::new(api);
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    let Listeners { unix, tcp } = listeners;
    tokio::select! {
        () = serve_unix(&api, unix.as_ref(), &clients) => {}
        () = serve_tcp(&api, tcp, &clients) => {}
        _ = ended => {}
    }
}

async fn serve_unix(api: &Arc<Api>, socket: Option<&UnixSocket>, clients: &Arc<Semaphore>) {
    let router = router(api);
    let listener = socket.map(|socket| socket.listener.try_clone());
    let Some(listener) = of_runtime(listener, tokio::net::UnixListener::from_std) else {
        return pending().await;
    };
    loop {
        let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
        // Not before: the other listener would wait for a place that nobody uses.
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        let router = match Caller::of_socket(&stream, &api.groups) {
            Ok(caller) => router.clone().layer(Extension(caller)),
            Err(problem) => refusing(problem),
        };
        tokio::spawn(converse(stream, router, place));
    }
}

async fn serve_tcp(api: &Arc<Api>, tcp: Option<(TcpListener, Token)>, clients: &Arc<Semaphore>) {
    let Some((listener, token)) = tcp else { return pending().await };
    let router = guarded(router(api), token);
    let Some(listener) = of_runtime(Some(Ok(listener)), tokio::net::TcpListener::from_std) else {
        return pending().await;
    };
    loop {
        let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
        // Not before: the other listener would wait for a place that nobody uses.
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        tokio::spawn(converse(stream, router.clone(), place));
    }
}

/// A listener as the runtime has it; none if there is none, or the kernel says no, which the log has.
fn of_runtime<S, R>(listener: Option<io::Result<S>>, into: fn(S) -> io::Result<R>) -> Option<R> {
    let listener = listener?.and_then(into);
    listener.inspect_err(|error| tracing::error!("the API is not served: {error}")).ok()
}

async fn accepted<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!("API: no connection could be taken: {error}");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// One client, until it goes or is too slow.
async fn converse<S>(stream: S, router: Router, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKEN_WITHIN));
    let stream = TokioIo::new(Box::pin(stream));
    // What went wrong with it concerns the client alone, which knows.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, TowerToHyperService::new(router))
        .await;
}

/// Whatever is asked for, the answer is no.
fn refusing(problem: Problem) -> Router {
    Router::new().fallback(move || std::future::ready(problem.clone().into_response()))
}

fn router(api: &Arc<Api>) -> Router {
    let mut router = Router::new();
    for (index, method) in api.methods.iter().enumerate() {
        let call = move |api, caller, request| call(api, index, caller, request);
        router = router.route(method.path, place(api, method.verb.filter(), call));
    }
    router
        .route("/v1/rpc", place(api, MethodFilter::POST, answer_rpc))
        .route("/v1/events", place(api, MethodFilter::GET, listen))
        .route("/v1/capture", place(api, MethodFilter::GET, capture))
        .route("/metrics", place(api, MethodFilter::GET, scrape))
        .route("/v1/openapi.json", place(api, MethodFilter::GET, describe))
        .method_not_allowed_fallback(wrong_verb)
        .fallback(no_such_path)
}
/// A place that answers so.
fn place<F, A>(api: &Arc<Api>, verb: MethodFilter, answer: F) -> MethodRouter
where
    F: Fn(Arc<Api>, Caller, Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    let api = api.clone();
    on(verb, move |Extension(caller): Extension<Caller>, request: Request| {
        let answer = answer(api.clone(), caller, request);
        async move { answer.await.unwrap_or_else(Problem::into_response) }
    })
}

/// Calls the method of this number.
async fn call(
    api: Arc<Api>,
    index: usize,
    caller: Caller,
    mut request: Request,
) -> Result<Response, Problem> {
    let method = &api.methods[index];
    caller.needs(method.right, &api.groups)?;
    let variables = request.extract_parts::<RawPathParams>().await;
    let variables = variables.map_err(|why| Problem::new(ProblemCode::Malformed, why))?;
    let params = if method.verb.has_body() {
        Params::Json(body_params(&variables, request).await?)
    } else {
        let mut query = Serializer::new(request.uri().query().unwrap_or_default().to_owned());
        query.extend_pairs(&variables);
        Params::Query(query.finish())
    };
    let answer = method.call(api.control.clone(), caller, params).await?;
    Ok(json(StatusCode::OK, &answer))
}

/// The body, an object or nothing, and what stands in the path.
async fn body_params(variables: &RawPathParams, request: Request) -> Result<Value, Problem> {
    let body = read_body(request).await?;
    let mut value = match body.as_ref() {
        [] => Value::Object(Map::new()),
        body => serde_json::from_slice(body).map_err(|error| {
            Problem::new(ProblemCode::Malformed, format!("the body is no JSON: {error}"))
        })?,
    };
    if let Value::Object(fields) = &mut value {
        for (name, text) in variables {
            fields.insert(name.into(), text.into());
        }
    }
    Ok(value)
}

async fn answer_rpc(api: Arc<Api>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let body = read_body(request).await?;
    Ok(match rpc::answer(&api, &caller, &body).await {
        Some(answer) => json(StatusCode::OK, &answer),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// A listener comes, for the first time or again.
async fn listen(api: Arc<Api>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let params: EventParams = Params::Query(query).read()?;
    let wanted = events::Wanted::new(&params, &caller)?;
    let last = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let after = params.after.or(last.and_then(|last| last.parse().ok()));
    if let Some(after) = after {
        return Ok(events::answer(&api.events, wanted, after, None));
    }
    let snapshot = api.control.ask(|switch, reply| {
        switch.with_connections(Instant::now(), |switch, connections| {
            reply.send(switch.show_snapshot(connections));
        });
    });
    let snapshot = snapshot.await?;
    let number = snapshot.number;
    Ok(events::answer(&api.events, wanted, number, Some(written(&snapshot)?)))
}

/// Somebody wants to see frames.
pub(super) async fn capture(
    api: Arc<Api>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Right::Change, &api.groups)?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let params: CaptureParams = Params::Query(query).read()?;
    let begun = api.control.ask(move |switch, reply| {
        tracing::info!("API: capture by {caller}");
        reply.send(switch.begin_capture(&params));
    });
    Ok(captures::answer(begun.await?, api.control.clone()))
}

/// Prometheus comes. Whoever may use the API at all may look.
async fn scrape(api: Arc<Api>, _: Caller, _: Request) -> Result<Response, Problem> {
    let scrape = api.control.ask(|switch, reply| {
        switch.with_connections(Instant::now(), |switch, connections| {
            reply.send(switch.scrape(connections));
        });
    });
    let text = scrape.await?.into_text();
    let text = text.map_err(|error| Problem::new(ProblemCode::Internal, error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn read_body(request: Request) -> Result<axum::body::Bytes, Problem> {
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let too_large = || {
        let text = format!("the body is longer than {MAX_BODY} bytes");
        Problem::new(ProblemCode::TooLarge, text)
    };
    if declared.is_some_and(|len| len > MAX_BODY) {
        return Err(too_large());
    }
    match timeout(BODY_WITHIN, to_bytes(request.into_body(), MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        // Of a connection that broke off nobody hears.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Problem::new(ProblemCode::TooSlow, "the body did not come in ten seconds")),
    }
}

async fn describe(api: Arc<Api>, _: Caller, _: Request) -> Result<Response, Problem> {
    Ok(json_text(StatusCode::OK, api.description.clone()))
}

async fn no_such_path(uri: Uri) -> Problem {
    let text =
        format!("there is nothing at {}; GET /v1/openapi.json lists what there is", uri.path());
    Problem::new(ProblemCode::NoSuchMethod, text)
}

async fn wrong_verb(method: HttpMethod, uri: Uri) -> Problem {
    let text =
        format!("{} does not take {method}; GET /v1/openapi.json says what it takes", uri.path());
    Problem::new(ProblemCode::WrongVerb, text)
}
