//! Transport settings of a tunnel, each with its reason.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use quinn_proto::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
};

use super::{
    cid::CidKey,
    controller::{Congestion, TunnelControllerConfig, TunnelHealth},
};
use crate::command::{Direction, Lane};

/// Silence after which QUIC itself gives a connection up. A peer that leaves questions unanswered is given up sooner
/// (`liveness.rs`); this is for when the network does not even take questions.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(7);
/// Interval of keep-alives on an idle first lane, which stands for the peer: when it falls silent, the others are asked.
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The same on further lanes, where only the mappings of NATs and firewalls are kept: shorter than the 30 s of the strictest
/// common ones. A lane that dies alone is noticed when it is used or asked.
const FURTHER_KEEP_ALIVE: Duration = Duration::from_secs(25);
const FURTHER_IDLE_TIMEOUT: Duration = Duration::from_secs(40);
/// The end that did not dial waits this much longer, in percent, or both would send keep-alives at the same moment.
const ACCEPTED_PERCENT: u32 = 125;
/// The tunnel's queue: what may wait for the window or the socket, bytes. 8 ms at 4 Gbit/s.
pub const SEND_QUEUE_BYTES: usize = 4 << 20;
/// Datagrams are drained after every train of at most 64 KiB, so this never fills.
const RECEIVE_QUEUE_BYTES: usize = 8 << 20;
/// Path MTU before discovery: what every QUIC path carries (RFC 9000 section 14).
pub const INITIAL_UDP_PAYLOAD: u16 = 1_200;

/// What is acknowledged at once while much is sent, bytes.
const ACKED_TOGETHER_BYTES: u32 = 150_000;

/// Bytes of IP and UDP headers in front of the payload towards this address.
pub fn ip_udp_overhead(remote: &SocketAddr) -> u16 {
    match remote.ip().to_canonical() {
        std::net::IpAddr::V4(_) => 28,
        std::net::IpAddr::V6(_) => 48,
    }
}

/// Settings of one connection.
///
/// `first_hop_mtu` is the MTU of the interface towards `remote`, bytes of IP packet: discovery looks no further.
pub fn transport_config(
    congestion: Congestion,
    (lane, direction): (Lane, Direction),
    health: Arc<TunnelHealth>,
    remote: &SocketAddr,
    first_hop_mtu: u16,
) -> Arc<TransportConfig> {
    let (keep_alive, idle_timeout) = match lane {
        Lane(0) => (KEEP_ALIVE, IDLE_TIMEOUT),
        Lane(_) => (FURTHER_KEEP_ALIVE, FURTHER_IDLE_TIMEOUT),
    };
    let keep_alive = match direction {
        Direction::Dialled => keep_alive,
        Direction::Accepted => keep_alive * ACCEPTED_PERCENT / 100,
    };
    let idle_timeout = VarInt::from_u32(idle_timeout.as_millis() as u32);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(idle_timeout)))
        .keep_alive_interval(Some(keep_alive))
        // A lost handshake packet is repeated after 3 x this.
        .initial_rtt(Duration::from_millis(100))
        // One stream each way for the hello, one for signalling.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(2))
        .stream_receive_window(VarInt::from_u32(4_096))
        .receive_window(VarInt::from_u32(8_192))
        .crypto_buffer_size(16 * 1_024)
        .datagram_receive_buffer_size(Some(RECEIVE_QUEUE_BYTES))
        .datagram_send_buffer_size(SEND_QUEUE_BYTES)
        // Nothing is retransmitted: being late to declare a loss costs nothing, being early spoils the statistics.
        .packet_threshold(128)
        .time_threshold(2.0)
        .ack_frequency_config(Some(ack_frequency(first_hop_mtu)))
        .initial_mtu(INITIAL_UDP_PAYLOAD)
        .min_mtu(INITIAL_UDP_PAYLOAD)
        .mtu_discovery_config(Some(mtu_discovery(remote, first_hop_mtu)))
        .allow_spin(false);
    match congestion {
        Congestion::Tunnel => {
            config.congestion_controller_factory(Arc::new(TunnelControllerConfig { health }))
        }
        Congestion::Cubic => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
    };
    Arc::new(config)
}

/// Settings of one worker's endpoint.
pub fn endpoint_config(cid_key: &CidKey, reset_secret: &[u8; 32], worker: u8) -> EndpointConfig {
    let reset_key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_secret));
    let mut config = EndpointConfig::new(reset_key);
    let cid_key = cid_key.clone();
    config.cid_generator(move || cid_key.generator(worker)).grease_quic_bit(false);
    config.max_udp_payload_size(65_527).expect("65,527 is QUIC's own limit");
    config
}

fn ack_frequency(first_hop_mtu: u16) -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    // Two trains an ACK, of 45 packets each on an Ethernet: acknowledging is most of the receiver's sending work. A higher threshold gained nothing measurable. In
    // bytes, since what is in flight in a shared tunnel is bounded in bytes (`controller.rs`) and must not wait for more packets than fit.
    let packets = ACKED_TOGETHER_BYTES / u32::from(first_hop_mtu).max(INITIAL_UDP_PAYLOAD.into());
    config
        .ack_eliciting_threshold(VarInt::from_u32(packets))
        .max_ack_delay(Some(Duration::from_millis(10)))
        .reordering_threshold(VarInt::from_u32(128));
    config
}

fn mtu_discovery(remote: &SocketAddr, first_hop_mtu: u16) -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    config
        .upper_bound(first_hop_mtu.saturating_sub(ip_udp_overhead(remote)).max(INITIAL_UDP_PAYLOAD))
        // The search ends this close below the limit: four bytes cost one more probe, twenty cost 1.4 % of every packet.
        .minimum_change(4)
        .interval(Duration::from_secs(120))
        .black_hole_cooldown(Duration::from_secs(15));
    config
}
