//! Why a request failed, as HTTP and JSON-RPC have it.

use std::fmt;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    answer::json,
    types::{Problem, ProblemCode},
};

impl Problem {
    /// Of this kind; the text is for people.
    pub(crate) fn new(code: ProblemCode, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), field: None }
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl fmt::Display) -> Self {
        Self::new(ProblemCode::NotFound, message)
    }

    /// A field is of no use.
    pub(crate) fn bad_field(field: &str, message: impl fmt::Display) -> Self {
        Self { field: Some(field.into()), ..Self::new(ProblemCode::BadParams, message) }
    }

    /// The switch has too much to do, or ends.
    pub(crate) fn busy() -> Self {
        Self::new(ProblemCode::Busy, "the switch has too much to do, or ends; try again")
    }
}

impl ProblemCode {
    /// The status of the answer (RFC 9110, section 15).
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::BadParams => StatusCode::BAD_REQUEST,
            Self::NoSuchMethod | Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongVerb => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::NotPermitted | Self::Refused => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The code of a JSON-RPC error (JSON-RPC 2.0, section 5.1). Ours begin at -32000.
    pub(super) fn of_rpc(self) -> i32 {
        match self {
            Self::Malformed | Self::TooLarge | Self::TooSlow => -32_600,
            Self::NoSuchMethod | Self::WrongVerb => -32_601,
            Self::BadParams => -32_602,
            Self::Internal => -32_603,
            Self::NotFound => -32_000,
            Self::Conflict => -32_001,
            Self::NotPermitted | Self::Unauthenticated => -32_002,
            Self::Refused => -32_003,
            Self::Busy => -32_004,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        json(self.code.status(), &self)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}
