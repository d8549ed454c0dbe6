//! Answers as JSON.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::Response,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::types::{Problem, ProblemCode};

/// What a method answers, written already.
pub(super) type Answer = Result<Box<RawValue>, Problem>;

/// An answer with this body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => json_text(status, text),
        // None of the types can fail.
        Err(error) => json_text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// An answer with this body, which is written already.
pub(super) fn json_text(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text + "\n"));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Writes an answer.
pub(super) fn written(answer: &impl Serialize) -> Answer {
    serde_json::value::to_raw_value(answer)
        .map_err(|error| Problem::new(ProblemCode::Internal, error))
}
