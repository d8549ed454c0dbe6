//! This host makes itself known on its segments: its addresses there, at the MAC addresses that they have now.
//!
//! Others keep in their caches where an address was until then: at another host, or at the bridge's MAC address of before. The
//! kernel corrects them only when it is asked, and asks for a whole while the old place first. So everybody is told
//! when the addresses change, and each peer when its tunnel comes up, since whoever is behind it could not hear that: at once, and twice
//! more in case that it gets lost or the peer forwards it too early.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipop_datapath::{
    MacAddr, PortId,
    command::{Audience, Command, ToPort},
    frame::{HostOrRouter, announcement},
};

/// Pauses between announcements (RFC 5227 section 1.1 has two with 2 s in between, RFC 4861 section 10 three with 1 s).
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// An address of this host on the segment of a TAP.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnAddress {
    /// Of that TAP.
    pub tap: PortId,
    /// Where it is now.
    pub mac: MacAddr,
    /// The address.
    pub address: IpAddr,
    /// Whether neighbours may take this host for a router.
    pub role: HostOrRouter,
}

/// What is announced to whom, and when next.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    own: Vec<OwnAddress>,
    /// When, and how often that was done; peers are as many as there are ports.
    due: BTreeMap<Audience, (Instant, usize)>,
}

impl Announcements {
    /// These are the addresses now.
    pub(super) fn set(&mut self, now: Instant, own: Vec<OwnAddress>) {
        let is_news = own.iter().any(|own| !self.own.contains(own));
        self.own = own;
        if is_news {
            self.due.insert(Audience::Everybody, (now, 0));
        }
    }

    /// A peer is up.
    pub(super) fn peer_up(&mut self, now: Instant, port: PortId) {
        self.due.insert(Audience::Peer(port), (now, 0));
    }

    /// When [`Self::take_due`] has something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.values().map(|(at, _)| *at).min()
    }

    /// What is to be sent by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for (to, (at, done)) in self.due.iter_mut().filter(|(_, (at, _))| *at <= now) {
            commands.extend(self.own.iter().map(|own| {
                Command::Port(
                    own.tap,
                    ToPort::Announce {
                        frame: announcement(own.mac, own.address, own.role),
                        to: *to,
                    },
                )
            }));
            *at = now + PAUSES.get(*done).copied().unwrap_or_default();
            *done += 1;
        }
        self.due.retain(|_, (_, done)| *done <= PAUSES.len());
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(mac: u8) -> OwnAddress {
        OwnAddress {
            tap: PortId(0),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
            address: [10, 9, 0, 1].into(),
            role: HostOrRouter::Host,
        }
    }

    /// When something is sent until nothing is due any more, and to how many.
    fn sent(announcements: &mut Announcements, start: Instant) -> Vec<(Duration, Vec<Audience>)> {
        let mut sent = Vec::new();
        while let Some(at) = announcements.due() {
            let to = announcements.take_due(at).into_iter().map(|command| match command {
                Command::Port(_, ToPort::Announce { to, .. }) => to,
                other => panic!("{other:?}"),
            });
            sent.push((at - start, to.collect()));
        }
        sent
    }

    #[test]
    fn what_is_new_is_told_to_everybody_three_times_and_then_never() {
        let (start, mut announcements) = (Instant::now(), Announcements::default());
        announcements.set(start, vec![own(1)]);
        let everybody = || vec![Audience::Everybody];
        let thrice = [0, 1, 3].map(|s| (Duration::from_secs(s), everybody()));
        assert_eq!(sent(&mut announcements, start), thrice);
        announcements.set(start, vec![own(1)]);
        announcements.set(start, vec![]);
        assert_eq!(announcements.due(), None, "nothing is new");
        announcements.set(start, vec![own(2)]);
        assert_eq!(sent(&mut announcements, start), thrice, "another MAC address");
    }

    #[test]
    fn each_peer_is_told_when_it_comes_up() {
        let (start, mut announcements) = (Instant::now(), Announcements::default());
        announcements.set(start, vec![own(1)]);
        sent(&mut announcements, start);
        announcements.peer_up(start, PortId(7));
        announcements.peer_up(start + Duration::from_millis(500), PortId(7));
        announcements.peer_up(start + Duration::from_millis(500), PortId(8));
        let both = || vec![Audience::Peer(PortId(7)), Audience::Peer(PortId(8))];
        let thrice = [500, 1_500, 3_500].map(|ms| (Duration::from_millis(ms), both()));
        assert_eq!(sent(&mut announcements, start), thrice);
    }
}
