//! A virtual network: the secret that its members share, and the line of text that invites to it.
//!
//! The secret opens the room (its password is derived from it) and is proved inside each tunnel before any frame passes, so that
//! whoever runs the server or the room cannot join by it.

pub mod pin;
pub mod secret;
pub mod token;

pub use self::{
    pin::{BadPin, MAX_PINS, Pin, ServerPins},
    secret::{Secret, SecretError, Secrets},
    token::{JoinToken, TokenError},
};
