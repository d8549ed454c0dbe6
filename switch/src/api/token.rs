//! Requests over TCP: from this host, for this host, and with the token.
//!
//! Anybody on the host can connect to a loopback port, browsers included, which whoever wrote a page can send there. So each request must carry the token
//! (`Authorization: Bearer`, RFC 6750), and its Host must be a name of the loopback: a page whose name an attacker resolves to 127.0.0.1 (DNS rebinding) says its own.

use std::{net::IpAddr, sync::Arc};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, header, uri::Authority},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};

use super::{
    rights::Caller,
    types::{Problem, ProblemCode},
};

/// The secret of whoever may use the API over TCP.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(Arc<str>);

/// Fewer characters can be guessed.
const MIN_LEN: usize = 20;

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// What stands in a file.
    ///
    /// # Errors
    /// When it is too short to be a secret, or cannot stand in a header.
    pub(crate) fn of_file(text: &str) -> Result<Self, String> {
        let token = text.trim();
        if token.len() < MIN_LEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the token must be at least {MIN_LEN} printable characters without spaces; `ipop-switch secret new` makes one"
            ));
        }
        Ok(Self(token.into()))
    }

    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer")
                && verify_slices_are_equal(token.trim().as_bytes(), self.0.as_bytes()).is_ok()
        })
    }
}

/// The same for whoever has the token.
pub(super) fn guarded(router: Router, token: Token) -> Router {
    router.layer(from_fn_with_state(token, guard))
}

async fn guard(State(token): State<Token>, mut request: Request, next: Next) -> Response {
    if !names_loopback(request.headers()) {
        let text = "the Host of a request must be localhost or a loopback address";
        return Problem::new(ProblemCode::NotPermitted, text).into_response();
    }
    if !token.is_in(request.headers()) {
        let text = "send the token: Authorization: Bearer TOKEN";
        return Problem::new(ProblemCode::Unauthenticated, text).into_response();
    }
    request.extensions_mut().insert(Caller::token_holder());
    next.run(request).await
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_host_is_this_one() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:5801", "127.9.9.9", "[::1]:5801"] {
            assert!(names_loopback(&headers(header::HOST, host)), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "192.0.2.1", "[2001:db8::1]"]
        {
            assert!(!names_loopback(&headers(header::HOST, host)), "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new()));
    }

    #[test]
    fn the_token_is_the_whole_token() {
        let token = Token::of_file("abcdefghijklmnopqrst\n").unwrap();
        let has = |value: &str| token.is_in(&headers(header::AUTHORIZATION, value));
        assert!(has("Bearer abcdefghijklmnopqrst") && has("bearer abcdefghijklmnopqrst"));
        for wrong in [
            "Bearer abcdefghijklmnopqrs",
            "Bearer abcdefghijklmnopqrstu",
            "Bearer ",
            "Basic abcdefghijklmnopqrst",
            "abcdefghijklmnopqrst",
        ] {
            assert!(!has(wrong), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert!(!format!("{token:?}").contains("abc"));
        for wrong in ["short", "", "abcdefghij klmnopqrst", "abcdefghijklmnopqrsü"] {
            assert!(Token::of_file(wrong).is_err(), "{wrong}");
        }
    }
}
