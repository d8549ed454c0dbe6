//! Numbers as people read them.

/// A time span in its two largest units at most: `3h`, `12m`, `20s`, `4d`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes with a decimal prefix: `1.2 GB`.
pub(super) fn bytes(count: u64) -> String {
    scaled(count as f64, "B")
}

/// A rate in bits a second with a decimal prefix: `940 Mbit/s`.
pub(super) fn bit_rate(bytes_per_s: f64) -> String {
    scaled(8.0 * bytes_per_s, "bit/s")
}

fn scaled(value: f64, unit: &str) -> String {
    let (mut value, mut prefixes) = (value, ["", "k", "M", "G", "T", "P"].into_iter());
    let mut prefix = prefixes.next().unwrap_or_default();
    // What would be rounded up to 1,000 gets the next prefix.
    while value >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        (value, prefix) = (value / 1_000.0, next);
    }
    if prefix.is_empty() || value >= 9.95 {
        return format!("{value:.0} {prefix}{unit}");
    }
    format!("{value:.1} {prefix}{unit}")
}

/// A round-trip time: `12 ms`, `0.4 ms`.
pub(super) fn rtt(us: u64) -> String {
    let ms = us as f64 / 1_000.0;
    if ms < 9.95 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// The start of a node id, enough to name it.
pub(super) fn short_id(node: &str) -> &str {
    node.get(..8).unwrap_or(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_not_wrong() {
        let spans = [(0.9, "0s"), (59.9, "59s"), (60.0, "1m"), (3_600.0, "1h"), (90_000.0, "1d")];
        spans.into_iter().for_each(|(seconds, text)| assert_eq!(duration(seconds), text));
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_234_567, "1.2 MB"),
            (12_345_678, "12 MB"),
            (999_499_999, "999 MB"),
            (999_500_000, "1.0 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bit_rate(117_500_000.0), "940 Mbit/s");
        assert_eq!((rtt(420), rtt(12_345)), ("0.4 ms".into(), "12 ms".into()));
        assert_eq!((short_id("abcdefghij"), short_id("ab")), ("abcdefgh", "ab"));
    }
}
