//! What a TURN server's answers mean.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    super::{TurnFault, stun::Message},
    LIFETIME_S,
};

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

/// Why there is no allocation.
pub(super) fn refusal(code: u16, alternate: Option<SocketAddr>) -> TurnFault {
    match code {
        300 => TurnFault::SendsElsewhere(alternate),
        401 | 441 => TurnFault::CredentialsRefused(code),
        403 => TurnFault::Forbidden,
        437 => TurnFault::OldAllocation,
        440 | 443 => TurnFault::NoAddressOfFamily(code),
        442 => TurnFault::NoUdp,
        486 => TurnFault::QuotaReached,
        508 => TurnFault::NoCapacity,
        code => TurnFault::Refused(code),
    }
}
