//! Frames from a TAP of one switch to a TAP of another through QUIC, all in memory: both ends' costs, without the kernel's.
//!
//! Beside them bare `quinn-proto` datagrams with the same settings: the difference is what the switch adds, or saves by filling
//! datagrams. They are measured with either cipher and without cryptography, and with each datagram copied from a buffer first, as a
//! frame has to be that the next read from the TAP overwrites. Last, what a handshake costs with each key exchange.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipop_benches::no_crypto::{NoCryptoClient, NoCryptoServer};
use ipop_control::identity::Identity;
use ipop_datapath::{
    frame::{Gso, Offload, VNET_HEADER_LEN},
    memory::{BareCrypto, BarePair, Pair},
    quic::{TlsIdentity, tls::Preference},
};
use rustls::{CipherSuite, NamedGroup};

/// What is sent at once: a full train, as an eager reader of the TAP collects under load.
const BURST_BYTES: usize = 64 * 1_024;
const DATAGRAM_LENS: [usize; 2] = [64, 1_400];
const FRAME_LENS: [usize; 4] = [64, 1_400, 1_514, 65_226];
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 8];
const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn identity() -> TlsIdentity {
    let identity = Identity::generate().expect("the random generator works");
    TlsIdentity {
        node: identity.node_id(),
        certificate: identity.certificate_der(),
        key: identity.private_key_der(),
        cid_secret: identity.derive_key(b"cid"),
        reset_secret: identity.derive_key(b"reset"),
    }
}

/// Connected, and the receiver's station is known.
fn pair() -> Pair {
    let mut pair = Pair::connect([identity(), identity()]);
    pair.send(1, &[0; VNET_HEADER_LEN], &[&SENDER[..], &RECEIVER, &[0; 48]].concat());
    pair.exchange();
    pair.take_frames(0, |_, _| {});
    pair
}

fn frame(len: usize) -> ([u8; VNET_HEADER_LEN], Vec<u8>) {
    let mut frame = vec![0x5a; len];
    frame[..6].copy_from_slice(&RECEIVER);
    frame[6..12].copy_from_slice(&SENDER);
    if len <= 1_514 {
        frame[12..14].copy_from_slice(&[0x88, 0xb6]);
        return ([0; VNET_HEADER_LEN], frame);
    }
    frame[12..54].fill(0);
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame[23] = 6;
    // 32 bytes of TCP header, ACK.
    frame[46..48].copy_from_slice(&[0x80, 0x10]);
    let gso = Gso::Tcp4 { ecn: false };
    let offload =
        Offload { needs_csum: true, gso, gso_size: 1_448, csum_start: 34, csum_offset: 16 };
    (offload.to_tap(66), frame)
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("tunnel");
    for len in FRAME_LENS {
        let burst = BURST_BYTES.div_ceil(len);
        let (vnet, frame) = frame(len);
        let mut pair = pair();
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(BenchmarkId::new("frames", len), |b| {
            b.iter(|| {
                for _ in 0..burst {
                    pair.send(0, &vnet, black_box(&frame));
                }
                // Time for a delayed ACK now and then.
                pair.advance(Duration::from_millis(1));
                let mut arrived = 0;
                pair.take_frames(1, |_, arrived_len| arrived += usize::from(arrived_len == len));
                assert_eq!(arrived, burst);
                pair.take_frames(0, |_, _| {});
            });
        });
    }
    group.finish();
}

/// With each cipher, and without any: what is left then is the library's own work and the copies.
fn bare_datagrams(c: &mut Criterion) {
    let identities = [identity(), identity()];
    let of = |cipher| BareCrypto::of(&identities, Preference { cipher, ..Preference::default() });
    let aes = of(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let aes_again = of(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let none = BareCrypto {
        client: Arc::new(NoCryptoClient(aes.client.clone())),
        server: Arc::new(NoCryptoServer(aes.server.clone())),
    };
    let cryptos = [
        ("bare_aes_128_gcm", aes, false),
        ("bare_aes_128_gcm_copied", aes_again, true),
        ("bare_chacha20_poly1305", of(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256), false),
        ("bare_no_crypto", none, false),
    ];
    let mut group = c.benchmark_group("tunnel");
    for (name, crypto, is_copied) in cryptos {
        let mut pair = BarePair::connect_by(&identities, crypto);
        for len in DATAGRAM_LENS {
            let burst = BURST_BYTES.div_ceil(len);
            let buffer = vec![0x5a; len];
            let shared = Bytes::from(buffer.clone());
            let datagram = || match is_copied {
                true => Bytes::copy_from_slice(black_box(&buffer)),
                false => black_box(&shared).clone(),
            };
            group.throughput(Throughput::Elements(burst as u64));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    (0..burst).for_each(|_| pair.send(datagram()));
                    assert_eq!(pair.advance(Duration::from_millis(1)), burst * len);
                });
            });
        }
    }
    group.finish();
}

/// From the dial until both ends have their keys: the work of both, and of their QUIC endpoints.
fn handshakes(c: &mut Criterion) {
    let identities = [identity(), identity()];
    let mut group = c.benchmark_group("handshake");
    let groups = [("x25519", NamedGroup::X25519), ("x25519_mlkem768", NamedGroup::X25519MLKEM768)];
    for (name, key_exchange) in groups {
        let first = Preference { key_exchange, ..Preference::default() };
        let crypto = BareCrypto::of(&identities, first);
        group.bench_function(name, |b| {
            b.iter(|| {
                let pair = BarePair::shake_hands(&identities, black_box(&crypto));
                assert!(pair.has_keys());
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = frames, bare_datagrams, handshakes
}
criterion_main!(benches);
