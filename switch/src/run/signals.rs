//! The signals that the switch obeys.

use std::thread;

use anyhow::Context as _;
use crossbeam::channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::Message;
use crate::exit::Failure;

/// Brings signals into the control thread's channel.
pub(super) fn watch(messages: Sender<Message>) -> Result<(), Failure> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])
        .context("cannot watch for signals")?;
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
