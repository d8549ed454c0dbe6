//! What `ipop-switch` counts, as it prints it at SIGUSR1.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Process, Signal, wait_until};

/// How long the answer may take; a loaded machine needs it.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Sends the signal and reads the line that answers it.
///
/// # Errors
/// When the program has ended, or answers with anything but JSON.
pub fn ask(process: &mut Process) -> Result<Value> {
    let lines = |text: &str| text.matches('\n').count();
    let before = lines(&process.stdout());
    process.signal(Signal::USR1)?;
    let answered = wait_until(ANSWER_LIMIT, || lines(&process.stdout()) > before);
    ensure!(answered, "{} answers no SIGUSR1:\n{}", process.label(), process.stderr());
    let text = process.stdout();
    let line = text.lines().nth(before).unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("reading {line:?}"))
}

/// A counter of a TAP or a peer; one that this kind of port lacks is zero.
pub fn count(port: &Value, counter: &str) -> u64 {
    port[counter].as_u64().unwrap_or(0)
}

/// The frames that a port dropped, by reason.
pub fn drops(port: &Value) -> impl Iterator<Item = (&str, u64)> {
    let drops = port["drops"].as_object().into_iter().flatten();
    drops.map(|(reason, count)| (reason.as_str(), count.as_u64().unwrap_or(0)))
}

/// The TAPs and peers of a report, which count alike.
pub fn ports(report: &Value) -> impl Iterator<Item = &Value> {
    ["taps", "peers"].into_iter().flat_map(|kind| report[kind].as_array().into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_their_drops_are_found() {
        let report = serde_json::json!({
            "taps": [{"sent_frames": 3, "drops": {"runt": 1, "storm": 2}}],
            "peers": [{"sent_frames": 4}],
        });
        let sent: Vec<u64> = ports(&report).map(|port| count(port, "sent_frames")).collect();
        assert_eq!(sent, [3, 4]);
        let dropped: Vec<_> = ports(&report).flat_map(drops).collect();
        assert_eq!(dropped, [("runt", 1), ("storm", 2)]);
    }
}
