//! The signals that the switch obeys.

use std::thread;

use anyhow::Context as _;
use crossbeam::channel::Sender;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use super::Message;
use crate::exit::Failure;

/// Signals that ask for something, from the first moment on: whoever sends one while the switch starts does not end it, and
/// gets an answer when there is one to give.
pub(crate) struct Early(Signals);

impl Early {
    /// To be called before anything else.
    pub(crate) fn watch() -> Result<Self, Failure> {
        let signals = Signals::new([SIGHUP, SIGUSR1]).context("cannot watch for signals")?;
        Ok(Self(signals))
    }
}

/// Brings signals into the control thread's channel, from now on also those that end the switch.
pub(super) fn watch(Early(mut signals): Early, messages: Sender<Message>) -> Result<(), Failure> {
    for signal in [SIGINT, SIGTERM] {
        signals.add_signal(signal).context("cannot watch for signals")?;
    }
    let watch = move || {
        for signal in signals.forever() {
            if messages.send(Message::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start a thread")?;
    Ok(())
}

/// The name of a signal that ends the switch.
pub(super) fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}
