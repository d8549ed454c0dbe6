//! The same methods as JSON-RPC 2.0 (jsonrpc.org/specification): `POST /v1/rpc`, batches and notifications included.

use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Api,
    params::Params,
    rights::Caller,
    types::{Problem, ProblemCode},
};

/// Requests in a batch at most.
const MAX_BATCH: usize = 100;
/// Not even JSON (JSON-RPC 2.0, section 5.1).
const PARSE_ERROR: i32 = -32_700;

/// A request; without an `id` it is a notification, which gets no answer.
#[derive(Deserialize)]
struct Request {
    jsonrpc: String,
    method: String,
    #[serde(default)]
    params: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
}

/// `null` is an id too.
fn present<'de, D: serde::Deserializer<'de>>(id: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(id).map(Some)
}

#[derive(Serialize)]
struct Response {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
    id: Value,
}

#[derive(Serialize)]
struct Error {
    code: i32,
    message: String,
    data: Problem,
}

impl Response {
    fn of(id: Value, answer: Result<Box<RawValue>, Problem>) -> Self {
        let (result, error) = match answer {
            Ok(result) => (Some(result), None),
            Err(problem) => (None, Some(Error::of(problem.code.of_rpc(), problem))),
        };
        Self { jsonrpc: "2.0", result, error, id }
    }
}

impl Error {
    fn of(code: i32, data: Problem) -> Self {
        Self { code, message: data.to_string(), data }
    }
}

/// Answers what was posted; nothing if nothing in it asks for an answer.
pub(super) async fn answer(api: &Api, caller: &Caller, body: &[u8]) -> Option<Box<RawValue>> {
    let responses = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Array(batch)) if !batch.is_empty() && batch.len() <= MAX_BATCH => {
            let mut responses = Vec::new();
            for request in batch {
                responses.extend(answer_one(api, caller, request).await);
            }
            return (!responses.is_empty()).then(|| to_raw_value(&responses).ok()).flatten();
        }
        Ok(Value::Array(batch)) => {
            let why = match batch.len() {
                0 => "an empty batch is no request".to_owned(),
                len => format!("{len} requests in a batch are more than {MAX_BATCH}"),
            };
            Some(Response::of(Value::Null, Err(Problem::new(ProblemCode::Malformed, why))))
        }
        Ok(request) => answer_one(api, caller, request).await,
        Err(error) => {
            let problem = Problem::new(ProblemCode::Malformed, format!("no JSON: {error}"));
            let error = Some(Error::of(PARSE_ERROR, problem));
            Some(Response { jsonrpc: "2.0", result: None, error, id: Value::Null })
        }
    };
    to_raw_value(&responses?).ok()
}

async fn answer_one(api: &Api, caller: &Caller, request: Value) -> Option<Response> {
    let id = request.get("id").filter(|id| id.is_string() || id.is_number()).cloned();
    let request = match serde_json::from_value::<Request>(request) {
        Ok(request) if request.jsonrpc == "2.0" => request,
        Ok(_) => return Some(malformed(id, "jsonrpc must be \"2.0\"")),
        Err(error) => return Some(malformed(id, error)),
    };
    // Named parameters only: an object.
    let params = request.params.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let answer = api.call(&request.method, caller, Params::Json(params)).await;
    request.id.map(|id| Response::of(id, answer))
}

fn malformed(id: Option<Value>, why: impl std::fmt::Display) -> Response {
    let problem = Problem::new(ProblemCode::Malformed, format!("no JSON-RPC 2.0 request: {why}"));
    Response::of(id.unwrap_or(Value::Null), Err(problem))
}

/// Answers what was posted by somebody who may do all, with no control thread there: what reaches it is `busy`.
#[cfg(feature = "testing")]
pub(crate) fn answer_without_control(body: &[u8]) -> Option<Box<RawValue>> {
    use std::sync::LazyLock;
    static API: LazyLock<Api> = LazyLock::new(|| {
        let (messages, _) = crossbeam::channel::bounded(1);
        Api::new(messages, super::Groups::default(), super::EventLog::default())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    runtime.block_on(answer(&API, &Caller::token_holder(), body))
}
