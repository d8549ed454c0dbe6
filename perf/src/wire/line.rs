//! What happens to a frame on the wire: a pure function of the seed, the frame's number, and the clock.
//!
//! Each direction numbers its frames. Every chance that a frame takes is a hash of seed, direction, number and kind of
//! chance, so a run with the same seed loses the same numbers, and turning one impairment on or off, or changing it on
//! the way, leaves the others' choices as they were.

use std::time::Duration;

/// Ethernet header; a VLAN tag adds 4 bytes that do not count against the MTU either.
const ETHERNET_HEADER_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
const VLAN_ETHER_TYPE: [u8; 2] = [0x81, 0];

/// What a wire does to the frames of a direction. By default it does nothing to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairments {
    /// The share of frames that is lost, 0 to 1.
    pub loss: f64,
    /// The share of frames that arrives twice, 0 to 1.
    pub duplication: f64,
    /// The share of frames that is held back so that later ones overtake them, 0 to 1.
    pub reordering: f64,
    /// How long such a frame is held back.
    pub reordering_delay: Duration,
    /// Delay of every frame.
    pub delay: Duration,
    /// Up to so much is added to the delay, evenly spread; frames keep their order.
    pub jitter: Duration,
    /// Frames with a larger payload vanish silently, as on a path whose ICMP is filtered; bytes.
    pub mtu: u32,
    /// The line's rate, bits a second, if it has one.
    pub rate_bits_per_s: Option<u64>,
    /// Frames beyond so many bytes under way are dropped at the tail.
    pub queue_bytes: usize,
    /// Whether there is a connection at all.
    pub carrier: Carrier,
}

/// Whether a direction carries anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// It does.
    Connected,
    /// Every frame is lost.
    Cut,
}

impl Default for Impairments {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            reordering_delay: Duration::from_millis(1),
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            mtu: u32::MAX,
            rate_bits_per_s: None,
            queue_bytes: 16 << 20,
            carrier: Carrier::Connected,
        }
    }
}

/// Why a frame did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Chance,
    TooLarge,
    QueueFull,
    Cut,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost(Lost),
    Arrives { at_ns: u64, again_at_ns: Option<u64>, order: Order },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Kept,
    Overtaken,
}

/// One direction.
#[derive(Clone, Debug)]
pub(super) struct Line {
    seed: u64,
    frame: u64,
    /// When the line has sent all that it was given, at its rate.
    free_at_ns: u64,
    /// When the last frame arrives that keeps its order.
    last_at_ns: u64,
}

/// What a chance is for. The numbers are part of what a seed means.
#[derive(Clone, Copy)]
enum Chance {
    Loss = 0,
    Duplication = 1,
    Reordering = 2,
    Jitter = 3,
}

impl Line {
    pub(super) fn new(seed: u64, direction: u64) -> Self {
        Self { seed: mix(seed ^ mix(direction)), frame: 0, free_at_ns: 0, last_at_ns: 0 }
    }

    /// Decides on the next frame. `queued_bytes` are under way in this direction.
    pub(super) fn decide(
        &mut self,
        impairments: &Impairments,
        now_ns: u64,
        frame: &[u8],
        queued_bytes: usize,
    ) -> Fate {
        let number = self.frame;
        self.frame += 1;
        let chance = |of: Chance| unit(mix(self.seed ^ mix(number * 4 + of as u64)));
        if impairments.carrier == Carrier::Cut {
            return Fate::Lost(Lost::Cut);
        }
        if payload_len(frame) > impairments.mtu as usize {
            return Fate::Lost(Lost::TooLarge);
        }
        if chance(Chance::Loss) < impairments.loss {
            return Fate::Lost(Lost::Chance);
        }
        if queued_bytes + frame.len() > impairments.queue_bytes {
            return Fate::Lost(Lost::QueueFull);
        }
        let sent_at_ns = match impairments.rate_bits_per_s {
            Some(rate) => {
                self.free_at_ns.max(now_ns) + frame.len() as u64 * 8 * 1_000_000_000 / rate.max(1)
            }
            None => now_ns,
        };
        let jitter_ns = chance(Chance::Jitter) * impairments.jitter.as_nanos() as f64;
        let at_ns = sent_at_ns + nanos(impairments.delay) + jitter_ns as u64;
        let at_ns = at_ns.max(self.last_at_ns);
        self.free_at_ns = sent_at_ns;
        let again_at_ns = (chance(Chance::Duplication) < impairments.duplication).then_some(at_ns);
        if chance(Chance::Reordering) < impairments.reordering {
            let at_ns = at_ns + nanos(impairments.reordering_delay);
            return Fate::Arrives { at_ns, again_at_ns, order: Order::Overtaken };
        }
        self.last_at_ns = at_ns;
        Fate::Arrives { at_ns, again_at_ns, order: Order::Kept }
    }
}

fn payload_len(frame: &[u8]) -> usize {
    let tagged = frame.get(12..14).is_some_and(|ether_type| ether_type == VLAN_ETHER_TYPE);
    let header_len = ETHERNET_HEADER_LEN + if tagged { VLAN_TAG_LEN } else { 0 };
    frame.len().saturating_sub(header_len)
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX / 4)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), with its increment.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// 0 to below 1, from the top 53 bits.
fn unit(value: u64) -> f64 {
    (value >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 1514] = [0; 1514];

    fn fates(seed: u64, impairments: &Impairments, count: usize) -> Vec<Fate> {
        let mut line = Line::new(seed, 0);
        (0..count).map(|n| line.decide(impairments, n as u64 * 1000, &FRAME, 0)).collect()
    }

    fn share(fates: &[Fate], of: impl Fn(&Fate) -> bool) -> f64 {
        fates.iter().filter(|fate| of(fate)).count() as f64 / fates.len() as f64
    }

    #[test]
    fn the_seed_decides_everything() {
        let impairments = Impairments {
            loss: 0.1,
            duplication: 0.1,
            reordering: 0.1,
            jitter: Duration::from_micros(50),
            ..Impairments::default()
        };
        assert_eq!(fates(1, &impairments, 1000), fates(1, &impairments, 1000));
        assert_ne!(fates(1, &impairments, 1000), fates(2, &impairments, 1000));
        let (mut there, mut back) = (Line::new(1, 0), Line::new(1, 1));
        assert!((0..100).any(|n| {
            there.decide(&impairments, n, &FRAME, 0) != back.decide(&impairments, n, &FRAME, 0)
        }));
        // Losing more loses the same frames and others.
        let more = Impairments { loss: 0.2, ..impairments };
        let lost = |fate: &Fate| *fate == Fate::Lost(Lost::Chance);
        let both = fates(1, &impairments, 1000).into_iter().zip(fates(1, &more, 1000));
        both.for_each(|(less, more)| assert!(!lost(&less) || lost(&more)));
    }

    #[test]
    fn shares_are_as_asked() {
        let impairments = Impairments {
            loss: 0.01,
            duplication: 0.05,
            reordering: 0.2,
            ..Impairments::default()
        };
        let fates = fates(7, &impairments, 100_000);
        let lost = share(&fates, |fate| *fate == Fate::Lost(Lost::Chance));
        let twice = share(&fates, |f| matches!(f, Fate::Arrives { again_at_ns: Some(_), .. }));
        let overtaken =
            share(&fates, |f| matches!(f, Fate::Arrives { order: Order::Overtaken, .. }));
        assert!((0.009..0.011).contains(&lost), "{lost}");
        assert!((0.047..0.053).contains(&twice), "{twice}");
        assert!((0.19..0.21).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn delay_and_rate_add_up_and_jitter_keeps_the_order() {
        let steady = Impairments {
            delay: Duration::from_micros(500),
            rate_bits_per_s: Some(1514 * 8 * 10_000),
            ..Impairments::default()
        };
        let mut line = Line::new(0, 0);
        for n in 1..=3 {
            // All three come at once; each takes 100 us on the line.
            let expected = Fate::Arrives {
                at_ns: 500_000 + n * 100_000,
                again_at_ns: None,
                order: Order::Kept,
            };
            assert_eq!(line.decide(&steady, 0, &FRAME, 0), expected);
        }
        let jitter = Impairments { jitter: Duration::from_millis(1), ..Impairments::default() };
        let at = |fate: &Fate| match fate {
            Fate::Arrives { at_ns, .. } => *at_ns,
            Fate::Lost(_) => panic!("nothing is lost here"),
        };
        let times: Vec<_> = fates(3, &jitter, 1000).iter().map(at).collect();
        assert!(times.is_sorted());
        let delay_of = |(n, at): (usize, &u64)| at - n as u64 * 1000;
        assert!(times.iter().enumerate().map(delay_of).max() > Some(900_000));
    }

    #[test]
    fn limits_drop() {
        let small = Impairments { mtu: 1499, queue_bytes: 5000, ..Impairments::default() };
        let mut line = Line::new(0, 0);
        assert_eq!(line.decide(&small, 0, &FRAME, 0), Fate::Lost(Lost::TooLarge));
        assert!(matches!(line.decide(&small, 0, &FRAME[1..], 0), Fate::Arrives { .. }));
        assert_eq!(line.decide(&small, 0, &FRAME[1..], 4000), Fate::Lost(Lost::QueueFull));
        let mut tagged = vec![0; 1499 + 18];
        tagged[12..14].copy_from_slice(&VLAN_ETHER_TYPE);
        assert!(matches!(line.decide(&small, 0, &tagged, 0), Fate::Arrives { .. }));
        let cut = Impairments { carrier: Carrier::Cut, ..Impairments::default() };
        assert_eq!(line.decide(&cut, 0, &FRAME, 0), Fate::Lost(Lost::Cut));
    }
}
