//! The tunnel's congestion controller: a bounded pipe with a circuit breaker.
//!
//! Inner flows carry their own congestion control; a second loop around them only makes both worse. So the tunnel sends what it is given, bounded by what may be
//! in flight, and steps in only when the network is plainly overwhelmed (RFC 8084, and RFC 8085 section 3.1.11): **when in each of
//! [`TRIP_INTERVALS`] consecutive seconds at least [`TRIP_MIN_BYTES`] were resolved (acknowledged or lost) and more than a quarter of them lost,
//! the tunnel becomes a CUBIC flow for [`HOLD_S`] seconds**, and stays one until a whole second passes with under 2 % lost.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, CubicConfig},
};

/// Which congestion control the tunnels use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Congestion {
    /// The bounded pipe with a circuit breaker.
    #[default]
    Tunnel,
    /// CUBIC (RFC 9438), for paths shared with others.
    Cubic,
}

/// At most this much unacknowledged in one tunnel: 100 ms at 5 Gbit/s.
pub const IN_FLIGHT_LIMIT_BYTES: u64 = 64 << 20;
/// A tunnel that flows share is not faster than this, bytes for each microsecond (16 Gbit/s): what is in flight beyond it stands in a queue somewhere, and on a
/// short path that is the far end's socket, where nothing can overtake it.
const MAX_BYTES_PER_US: u64 = 2_000;
/// What may be in flight beyond that, bytes: acknowledgements come for each 150 kB, and neither end is always at work.
const IN_FLIGHT_MARGIN_BYTES: u64 = 512 << 10;
/// Consecutive bad seconds that trip the breaker: longer than a reroute, shorter than people wait.
pub const TRIP_INTERVALS: u32 = 5;
/// A second with less traffic than this says nothing: a few lost keep-alives are no overload.
pub const TRIP_MIN_BYTES: u64 = 256 << 10;
/// How long a tripped tunnel is a CUBIC flow at least, seconds.
pub const HOLD_S: u64 = 30;

const INTERVAL: Duration = Duration::from_secs(1);
/// `quinn-proto` does not pace windows above `u32::MAX`.
const UNPACED: u64 = u64::MAX / 4;

/// What the controller saw, readable from outside the connection, and what it is told from there.
#[derive(Debug, Default)]
pub struct TunnelHealth {
    /// Bytes declared lost since the start.
    pub lost_bytes: AtomicU64,
    /// Whether the breaker is open (the tunnel is a CUBIC flow).
    pub tripped: AtomicBool,
    /// How often it tripped.
    pub trips: AtomicU64,
    /// Whether flows want to get past one that fills the tunnel. Then no more is in flight than is in motion.
    pub shared: AtomicBool,
}

/// Makes controllers that report to one [`TunnelHealth`].
#[derive(Debug, Clone, Default)]
pub struct TunnelControllerConfig {
    /// Where to report.
    pub health: Arc<TunnelHealth>,
}

impl ControllerFactory for TunnelControllerConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        // Also when a connection has moved to another path: the breaker of the old one says nothing of the new.
        self.health.tripped.store(false, Relaxed);
        Box::new(TunnelController {
            health: self.health.clone(),
            mtu: current_mtu,
            in_flight: 0,
            shared_limit: IN_FLIGHT_LIMIT_BYTES,
            interval: Interval::starting(now),
            bad_intervals: 0,
            breaker: None,
        })
    }
}

#[derive(Clone)]
struct TunnelController {
    health: Arc<TunnelHealth>,
    mtu: u16,
    in_flight: u64,
    /// What may be in flight while flows share the tunnel: see [`in_flight_limit`].
    shared_limit: u64,
    interval: Interval,
    bad_intervals: u32,
    breaker: Option<Breaker>,
}

#[derive(Clone, Copy)]
struct Interval {
    ends: Instant,
    acked: u64,
    lost: u64,
}

impl Interval {
    fn starting(now: Instant) -> Self {
        Self { ends: now + INTERVAL, acked: 0, lost: 0 }
    }

    fn loss_above(&self, numerator: u64, denominator: u64) -> bool {
        self.lost * denominator > (self.acked + self.lost) * numerator
    }
}

/// Open while the tunnel behaves as a CUBIC flow.
struct Breaker {
    cubic: Box<dyn Controller>,
    until: Instant,
}

impl Clone for Breaker {
    fn clone(&self) -> Self {
        Self { cubic: self.cubic.clone_box(), until: self.until }
    }
}

/// What may be in flight in a shared tunnel on a path of this shortest round-trip time: more than the fastest tunnel has there, and a margin.
fn in_flight_limit(min_rtt: Duration) -> u64 {
    let min_rtt_us = u64::try_from(min_rtt.as_micros()).unwrap_or(u64::MAX);
    let in_motion = min_rtt_us.saturating_mul(MAX_BYTES_PER_US);
    in_motion.saturating_add(IN_FLIGHT_MARGIN_BYTES).min(IN_FLIGHT_LIMIT_BYTES)
}

impl TunnelController {
    fn limit(&self) -> u64 {
        if self.health.shared.load(Relaxed) { self.shared_limit } else { IN_FLIGHT_LIMIT_BYTES }
    }

    fn close_interval(&mut self, now: Instant) {
        if now < self.interval.ends {
            return;
        }
        let interval = std::mem::replace(&mut self.interval, Interval::starting(now));
        let resolved = interval.acked + interval.lost;
        if let Some(breaker) = &self.breaker {
            if now >= breaker.until && !interval.loss_above(2, 100) {
                self.breaker = None;
                self.health.tripped.store(false, Relaxed);
            }
            return;
        }
        let bad = resolved >= TRIP_MIN_BYTES && interval.loss_above(25, 100);
        self.bad_intervals = if bad { self.bad_intervals + 1 } else { 0 };
        if self.bad_intervals >= TRIP_INTERVALS {
            self.bad_intervals = 0;
            self.breaker = Some(Breaker {
                cubic: Arc::new(CubicConfig::default()).build(now, self.mtu),
                until: now + Duration::from_secs(HOLD_S),
            });
            self.health.tripped.store(true, Relaxed);
            self.health.trips.fetch_add(1, Relaxed);
        }
    }
}

impl Controller for TunnelController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight += bytes;
        if let Some(breaker) = &mut self.breaker {
            breaker.cubic.on_sent(now, bytes, last_packet_number);
        }
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.interval.acked += bytes;
        self.shared_limit = in_flight_limit(rtt.min());
        if let Some(breaker) = &mut self.breaker {
            breaker.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        // The connection knows exactly; what was counted since the last batch is an upper bound.
        self.in_flight = in_flight;
        if let Some(breaker) = &mut self.breaker {
            breaker.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        }
        self.close_interval(now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.interval.lost += lost_bytes;
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.health.lost_bytes.fetch_add(lost_bytes, Relaxed);
        if let Some(breaker) = &mut self.breaker {
            breaker.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
        self.close_interval(now);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        if let Some(breaker) = &mut self.breaker {
            breaker.cubic.on_mtu_update(new_mtu);
        }
    }

    fn window(&self) -> u64 {
        match &self.breaker {
            Some(breaker) => breaker.cubic.window(),
            None if self.in_flight < self.limit() => UNPACED,
            None => self.limit(),
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        UNPACED
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1_400;

    fn controller(config: &Arc<TunnelControllerConfig>, now: Instant) -> TunnelController {
        let built = config.clone().build(now, MTU).into_any();
        *built.downcast::<TunnelController>().unwrap()
    }

    /// Feeds whole seconds of 1 MiB each; `RttEstimator` has no public constructor, so acknowledged bytes go in directly.
    fn feed(
        controller: &mut TunnelController,
        start: Instant,
        seconds: u32,
        lost_percent: u64,
    ) -> Instant {
        const RATE: u64 = 1 << 20;
        for second in 1..=seconds {
            let now = start + INTERVAL * second;
            controller.on_sent(now, RATE, 0);
            controller.on_congestion_event(now, now, false, RATE * lost_percent / 100);
            controller.interval.acked += RATE * (100 - lost_percent) / 100;
            controller.on_end_acks(now, 0, false, None);
        }
        start + INTERVAL * seconds
    }

    #[test]
    fn steady_heavy_loss_trips_and_a_clean_second_after_the_hold_resets() {
        let config = Arc::new(TunnelControllerConfig::default());
        let start = Instant::now();
        let mut controller = controller(&config, start);
        assert!(controller.window() > u64::from(u32::MAX), "not paced");
        let now = feed(&mut controller, start, TRIP_INTERVALS + 1, 40);
        assert!(config.health.tripped.load(Relaxed));
        assert!(controller.window() < 1 << 20, "a fresh CUBIC window");
        let now = feed(&mut controller, now, HOLD_S as u32 - 5, 0);
        assert!(config.health.tripped.load(Relaxed), "held");
        feed(&mut controller, now, 10, 0);
        assert!(!config.health.tripped.load(Relaxed));
        assert!(controller.window() > u64::from(u32::MAX));
    }

    #[test]
    fn ordinary_loss_and_short_outages_do_not_trip() {
        let config = Arc::new(TunnelControllerConfig::default());
        let start = Instant::now();
        let mut controller = controller(&config, start);
        let now = feed(&mut controller, start, 60, 10);
        let now = feed(&mut controller, now, TRIP_INTERVALS - 2, 90);
        feed(&mut controller, now, 3, 0);
        assert_eq!(config.health.trips.load(Relaxed), 0);
    }

    #[test]
    fn in_flight_is_bounded() {
        let start = Instant::now();
        let mut controller = Arc::new(TunnelControllerConfig::default()).build(start, MTU);
        controller.on_sent(start, IN_FLIGHT_LIMIT_BYTES + 1, 0);
        assert_eq!(controller.window(), IN_FLIGHT_LIMIT_BYTES);
        controller.on_end_acks(start, 0, false, None);
        assert!(controller.window() > IN_FLIGHT_LIMIT_BYTES);
    }

    #[test]
    fn a_shared_tunnel_holds_as_much_as_its_path() {
        let (start, config) = (Instant::now(), Arc::new(TunnelControllerConfig::default()));
        let mut controller = controller(&config, start);
        controller.on_sent(start, 4 << 20, 0);
        controller.shared_limit = in_flight_limit(Duration::from_micros(150));
        assert!(controller.window() > 4 << 20);
        config.health.shared.store(true, Relaxed);
        assert_eq!(controller.window(), controller.shared_limit);
        config.health.shared.store(false, Relaxed);
        assert!(controller.window() > 4 << 20);
    }

    #[test]
    fn a_short_path_holds_little_and_a_long_one_all() {
        assert_eq!(in_flight_limit(Duration::ZERO), IN_FLIGHT_MARGIN_BYTES);
        let lan = in_flight_limit(Duration::from_micros(150));
        assert!((700_000..1_000_000).contains(&lan), "{lan}");
        // 10 Gbit/s over 20 ms.
        assert!(in_flight_limit(Duration::from_millis(20)) > 25_000_000);
        assert_eq!(in_flight_limit(Duration::from_millis(100)), IN_FLIGHT_LIMIT_BYTES);
        assert_eq!(in_flight_limit(Duration::MAX), IN_FLIGHT_LIMIT_BYTES);
    }
}
