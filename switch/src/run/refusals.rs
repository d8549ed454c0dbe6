//! Refused connections in the log. Whoever is refused dials again every few seconds, for days if nobody sees to it: the first time
//! is told, then it is told every few minutes how often it has happened since.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use ipop_control::notice::{Level, Notice};

use super::{ENGINE, told::Told};

/// Different refusals remembered. Strangers can make more by taking more addresses or keys: then the oldest is told anew.
const REMEMBERED_MAX: usize = 256;

/// Which refusals were told, of each address for each reason.
#[derive(Default)]
pub(super) struct Refusals {
    told: HashMap<(IpAddr, String), Told>,
}

impl Refusals {
    /// The line that tells of a notice. None for a refusal that was told lately: whoever is refused must fill neither the log nor the events.
    pub(super) fn line(&mut self, now: Instant, notice: &Notice) -> Option<(Level, String)> {
        match notice {
            Notice::Refused { peer, remote, why } => {
                let line = self.note(now, *remote, format!("peer {peer}: {why}"))?;
                Some((Level::Warning, line))
            }
            Notice::PeerUp { .. } => Some((notice.level(), format!("{notice}, engine {ENGINE}"))),
            _ => Some((notice.level(), notice.to_string())),
        }
    }

    /// Notes a refusal; gives the line for the log if it is to be told.
    pub(super) fn note(&mut self, now: Instant, remote: SocketAddr, why: String) -> Option<String> {
        let key = (remote.ip().to_canonical(), why.clone());
        if self.told.len() >= REMEMBERED_MAX && !self.told.contains_key(&key) {
            self.forget_oldest();
        }
        let untold = self.told.entry(key).or_default().note(now, 1)?;
        Some(match untold - 1 {
            0 => format!("refused a connection from {remote}: {why}"),
            more => format!("refused a connection from {remote}, after {more} more like it: {why}"),
        })
    }

    fn forget_oldest(&mut self) {
        let oldest = self.told.iter().min_by_key(|(_, told)| told.at).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.told.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipop_control::notice::Trespass;
    use ipop_datapath::node_id::NodeId;

    use super::{super::told::QUIET, *};

    fn remote(host: u32, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(host.into()), port)
    }

    #[test]
    fn a_refusal_is_told_once_and_then_counted() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let first = refusals.note(start, remote(1, 9), "unknown".into());
        assert_eq!(first.as_deref(), Some("refused a connection from 0.0.0.1:9: unknown"));
        for second in 1..=20 {
            let at = start + Duration::from_secs(second);
            // The same host dials from another port.
            assert_eq!(refusals.note(at, remote(1, 10), "unknown".into()), None);
        }
        let later = refusals.note(start + QUIET, remote(1, 11), "unknown".into()).unwrap();
        assert!(later.contains("after 20 more like it"), "{later}");
        let after = refusals.note(start + 2 * QUIET, remote(1, 11), "unknown".into()).unwrap();
        assert!(!after.contains("more"), "{after}");
    }

    #[test]
    fn other_addresses_and_other_reasons_are_told() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for (host, why) in [(1, "unknown"), (2, "unknown"), (1, "itself")] {
            assert!(refusals.note(now, remote(host, 9), why.into()).is_some());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        for host in 0..2 * REMEMBERED_MAX as u32 {
            let at = start + Duration::from_millis(host.into());
            assert!(refusals.note(at, remote(host, 9), "unknown".into()).is_some());
        }
        assert_eq!(refusals.told.len(), REMEMBERED_MAX);
        let end = start + Duration::from_secs(1);
        let latest = 2 * REMEMBERED_MAX as u32 - 1;
        assert!(refusals.note(end, remote(latest, 9), "unknown".into()).is_none());
        assert!(refusals.note(end, remote(0, 9), "unknown".into()).is_some());
    }

    #[test]
    fn a_notice_of_a_refusal_is_told_once_and_every_other_one_each_time() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let peer = NodeId([7; 32]);
        let refused = Notice::Refused { peer, remote: remote(1, 9), why: Trespass::Itself };
        let (level, line) = refusals.line(now, &refused).unwrap();
        assert!(level == Level::Warning && line.contains("0.0.0.1:9"), "{line}");
        assert_eq!(refusals.line(now, &refused), None);
        let forgotten = Notice::Forgotten { peer };
        assert!((0..2).all(|_| refusals.line(now, &forgotten).is_some()));
    }
}
