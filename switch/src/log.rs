//! The log, on standard error. Standard output belongs to what programs read: the node id, counters as JSON.

use std::{
    io::{self, IsTerminal},
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, LogLevel};

/// Sets the level of the log that was started.
static SET: OnceLock<Box<dyn Fn(LogLevel) + Send + Sync>> = OnceLock::new();
/// The level that was set last.
static LEVEL: Mutex<LogLevel> = Mutex::new(LogLevel::Info);

/// The least severity that is logged now.
pub(crate) fn level() -> LogLevel {
    *LEVEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs from this severity on.
pub(crate) fn set(level: LogLevel) {
    if let Some(set) = SET.get() {
        set(level);
        *LEVEL.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }
}

/// Starts logging. A second call changes nothing.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(level_shows_internals(level))
        // It would be told on standard error, in a way that panics if that takes nothing, as when a log file has filled its disk.
        .log_internal_errors(false);
    // Each fails only if a subscriber is set already, which then stays.
    match format {
        LogFormat::Text => {
            let subscriber = subscriber.with_filter_reloading();
            let handle = subscriber.reload_handle();
            if tracing::subscriber::set_global_default(subscriber.finish()).is_ok() {
                started(level, move |filter| drop(handle.reload(filter)));
            }
        }
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_filter_reloading();
            let handle = subscriber.reload_handle();
            if tracing::subscriber::set_global_default(subscriber.finish()).is_ok() {
                started(level, move |filter| drop(handle.reload(filter)));
            }
        }
    }
}

/// The subscriber, which is never dropped, takes another filter this way.
fn started(level: LogLevel, reload: impl Fn(EnvFilter) + Send + Sync + 'static) {
    let _ = SET.set(Box::new(move |level| reload(filter(level))));
    *LEVEL.lock().unwrap_or_else(PoisonError::into_inner) = level;
}

/// The libraries below log every packet: their words are shown at `trace` only, their warnings always. But for
/// `stun-types`, which warns of each bad packet of a stranger, and at `trace` writes keys down.
fn filter(level: LogLevel) -> EnvFilter {
    let directives = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,ipop_switch=info,ipop_control=info,ipop_datapath=info",
        LogLevel::Debug => "warn,ipop_switch=debug,ipop_control=debug,ipop_datapath=debug",
        LogLevel::Trace => "trace",
    };
    EnvFilter::new(format!("{directives},stun_types=off"))
}

fn level_shows_internals(level: LogLevel) -> bool {
    matches!(level, LogLevel::Debug | LogLevel::Trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_valid_filter() {
        for (level, shown) in [
            (LogLevel::Error, "error"),
            (LogLevel::Warn, "warn"),
            (LogLevel::Info, "ipop_switch=info"),
            (LogLevel::Debug, "ipop_datapath=debug"),
            (LogLevel::Trace, "trace"),
        ] {
            assert!(filter(level).to_string().contains(shown), "{}", filter(level));
        }
    }

    #[test]
    fn packets_of_strangers_do_not_fill_the_log() {
        for level in [LogLevel::Error, LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
            let log = tracing_subscriber::fmt().with_env_filter(filter(level)).finish();
            tracing::subscriber::with_default(log, || {
                assert!(tracing::enabled!(target: "ipop_control", tracing::Level::ERROR));
                assert!(!tracing::enabled!(target: "stun_types::message", tracing::Level::ERROR));
            });
        }
    }
}
