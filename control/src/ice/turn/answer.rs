//! What a TURN server's answers mean.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{super::stun::Message, LIFETIME_S};

/// A lifetime shorter than this would be nothing but refreshes.
const MIN_LIFETIME_S: u32 = 30;
const MAX_LIFETIME_S: u32 = 3_600;

/// When an allocation ends and when it is to be refreshed: a minute early, or at half time if it is short.
pub(super) fn lifetime(now: Instant, message: &Message<'_>) -> (Instant, Instant) {
    let stated_s = message.lifetime_s.unwrap_or(LIFETIME_S);
    let lifetime_s = stated_s.clamp(MIN_LIFETIME_S, MAX_LIFETIME_S);
    let early_s = 60.min(lifetime_s / 2);
    let end = now + Duration::from_secs(lifetime_s.into());
    (end, end - Duration::from_secs(early_s.into()))
}

/// Why there is no allocation, and what to do about it.
pub(super) fn refusal(code: u16, alternate: Option<SocketAddr>) -> String {
    let elsewhere =
        alternate.map_or_else(|| "another server".to_owned(), |address| address.to_string());
    match code {
        300 => format!(
            "it sends us to {elsewhere}, which is not followed; configure that one if it is right"
        ),
        401 | 441 => format!(
            "it refuses the credentials (error {code}); check user name, password and clock"
        ),
        403 => "it forbids relaying to this node (error 403)".to_owned(),
        437 => "it still holds an allocation of before (error 437); it ends by itself".to_owned(),
        440 | 443 => format!("it has no addresses of this family (error {code})"),
        442 => "it does not relay UDP (error 442)".to_owned(),
        486 => "this user has too many allocations there (error 486)".to_owned(),
        508 => "it has no capacity left (error 508)".to_owned(),
        code => format!("it refuses to allocate (error {code})"),
    }
}
