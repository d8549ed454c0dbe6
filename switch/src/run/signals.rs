//! The signals that the switch obeys.

use std::{fs, thread};

use anyhow::Context as _;
use crossbeam::channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::Message;
use crate::exit::Failure;

/// Brings signals into the control thread's channel.
pub(super) fn watch(messages: Sender<Message>) -> Result<(), Failure> {
    let mut watched = vec![SIGINT, SIGTERM, SIGUSR1];
    // A terminal that closes is a reason to stop, unless the switch was started to survive that (nohup).
    if !status_ignores(&fs::read_to_string("/proc/self/status").unwrap_or_default(), SIGHUP) {
        watched.push(SIGHUP);
    }
    let mut signals =
        signal_hook::iterator::Signals::new(watched).context("cannot watch for signals")?;
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
        SIGHUP => "SIGHUP",
        SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}

/// Whether the mask in `/proc/PID/status` says that the signal is ignored.
fn status_ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let nohup = "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(status_ignores(nohup, SIGHUP));
        assert!(!status_ignores(nohup, SIGINT));
        assert!(!status_ignores("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n", SIGHUP));
        assert!(!status_ignores("", SIGHUP));
    }
}
