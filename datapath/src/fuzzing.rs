//! Bodies of the fuzz targets: what must hold for any bytes at all.
//!
//! They are ordinary functions, so that `datapath/fuzz` needs only a wrapper for each and `tests/replay_corpora.rs`
//! replays the committed corpora on stable Rust. A body panics when a promise is broken, and only then. A new target:
//! its body here, an entry in [`TARGETS`], a wrapper in `fuzz/fuzz_targets`, a `[[bin]]` in `fuzz/Cargo.toml`, seeds
//! in `fuzz/corpus/<name>`.

use std::time::Instant;

use crate::{
    command::{MAX_LANES, MAX_SIGNAL_LEN},
    frame::{
        self, Description, Gso, Headers, IpVersion, MAX_HEADERS_LEN, Offload, Template, Transport,
        WIRE_OFFLOAD_LEN,
    },
    path::channel_data,
    record,
    tunnel::{
        hello::{Hello, HelloError, MAX_HELLO_LEN, MAX_NAME_LEN},
        signal::{SignalQueue, SignalReader},
    },
};

/// One fuzz target.
pub struct Target {
    /// Of the corpus directory, the wrapper and the function.
    pub name: &'static str,
    /// What to run on an input.
    pub body: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "channel_data", body: channel_data },
    Target { name: "frame_input", body: frame_input },
    Target { name: "hello", body: hello },
    Target { name: "records", body: record::fuzzing::records },
    Target { name: "reassembly", body: record::fuzzing::reassembly },
    Target { name: "signals", body: signals },
];

/// What a relay sends. What is read of it must come out again when it is wrapped.
///
/// # Panics
/// When that does not hold.
pub fn channel_data(bytes: &[u8]) {
    let Some((channel, content)) = channel_data::parse(bytes) else { return };
    let mut wrapped = bytes[content.clone()].to_vec();
    channel_data::wrap(&mut wrapped, content.len(), channel);
    let packet = if content.is_empty() { &[] } else { &bytes[..content.end] };
    assert_eq!(wrapped, packet);
}

/// A stream of signalling messages, cut into pieces as long as the first byte says. What was read must read the same in one piece.
///
/// # Panics
/// When that does not hold, or a message is longer than any may be.
pub fn signals(bytes: &[u8]) {
    let Some((cut, stream)) = bytes.split_first() else { return };
    let now = Instant::now();
    let mut reader = SignalReader::new(now);
    let mut queue = SignalQueue::default();
    let mut read = 0;
    for piece in stream.chunks(usize::from(*cut).max(1)) {
        let result = reader.push(now, piece, |message| {
            assert!((1..=MAX_SIGNAL_LEN).contains(&message.len()));
            read += 2 + message.len();
            queue.push(message);
        });
        if result.is_err() {
            break;
        }
    }
    assert!(reader.dropped > 0 || read <= stream.len());
    if read == queue.bytes.len() {
        assert!(stream.starts_with(&queue.bytes));
    }
}

/// A vnet header and a frame as a peer may send them: 8 bytes of offload as in a record (`docs/WIRE.md`), 2 bytes that
/// choose a run for salvage, the frame.
///
/// What passes [`frame::describe`] must segment into sound frames that carry the whole payload, and a salvaged run
/// must again pass.
///
/// # Panics
/// When that does not hold.
pub fn frame_input(bytes: &[u8]) {
    let Some((wire, rest)) = bytes.split_first_chunk::<WIRE_OFFLOAD_LEN>() else { return };
    let Some((&[first, last], frame)) = rest.split_first_chunk() else { return };
    if let Some(headers) = Headers::parse(frame) {
        assert!(usize::from(headers.end()) <= frame.len());
        let is_udp = frame::udp_endpoints(&headers, frame).is_some();
        assert!(is_udp || !frame::is_dhcp(&headers, frame));
    }
    let Ok(offload) = Offload::from_wire(wire) else { return };
    let mut completed = frame.to_vec();
    if frame::complete_checksum(offload, &mut completed).is_err() {
        assert_eq!(completed, frame, "a refused frame is left alone");
    }
    let Ok(checked) = frame::describe(offload, frame, frame.len()) else { return };
    let head = &frame[..frame.len().min(MAX_HEADERS_LEN)];
    assert_eq!(frame::describe(offload, head, frame.len()), Ok(checked));
    let at_tap = checked.offload().to_tap(checked.headers_len());
    assert_eq!(Offload::from_tap(&at_tap), Ok(checked.offload()));
    cut(&checked, frame);
    salvage(checked.offload(), frame, first, last);
}

/// A peer's hello stream as it grows: what is read of it is within bounds, survives being said again, and does not depend on
/// where the stream was cut. A hello that can still become sound is not refused, and none is waited for beyond its bound.
///
/// # Panics
/// When that does not hold.
pub fn hello(bytes: &[u8]) {
    let read = Hello::decode(bytes);
    for len in 0..bytes.len() {
        let so_far = Hello::decode(&bytes[..len]);
        assert!(so_far == Err(HelloError::Incomplete) || so_far == read, "{len} bytes");
    }
    assert!(read != Err(HelloError::Incomplete) || bytes.len() < MAX_HELLO_LEN);
    let Ok(hello) = read else { return };
    assert!((1..=MAX_LANES).contains(&usize::from(hello.lanes)));
    assert!(usize::from(hello.lane) < MAX_LANES);
    for text in [&hello.name, &hello.agent] {
        assert!(text.len() <= MAX_NAME_LEN && !text.contains(char::is_control));
    }
    let said_again = hello.encode();
    assert!(said_again.len() <= MAX_HELLO_LEN);
    assert_eq!(Hello::decode(&said_again), Ok(hello));
}

fn cut(checked: &Description, frame: &[u8]) {
    let is_superframe = checked.offload().gso != Gso::None;
    let headers_len = usize::from(checked.headers_len());
    let gso_size = usize::from(checked.offload().gso_size);
    let mut carried = Vec::new();
    let mut frames = 0;
    frame::segment(checked, frame, &mut Vec::new(), |segment| {
        frames += 1;
        if is_superframe {
            assert!(segment.len() <= headers_len + gso_size);
            assert_sound(segment);
            carried.extend_from_slice(&segment[headers_len..]);
        } else {
            assert_eq!(segment.len(), frame.len());
        }
    })
    .expect("what was checked can be cut");
    if is_superframe {
        assert!(frames > 1);
        assert_eq!(carried, frame[headers_len..]);
    } else {
        assert_eq!(frames, 1);
    }
}

fn salvage(offload: Offload, frame: &[u8], first: u8, last: u8) {
    let Ok(template) = Template::new(offload, frame, frame.len()) else { return };
    let headers_len = template.headers_len();
    let at = |place: u8| headers_len + (frame.len() - headers_len) * usize::from(place) / 255;
    let (start, end) = (at(first), at(last));
    let mut run = Vec::new();
    let Ok(run_offload) = template.run(start, end, &mut run) else {
        assert!(start >= end, "a run within the payload can be written");
        return;
    };
    run.extend_from_slice(&frame[start..end]);
    let checked = frame::describe(run_offload, &run, run.len()).expect("a run is sound");
    assert_eq!(checked.offload(), run_offload);
    let mut carried = Vec::new();
    frame::segment(&checked, &run, &mut Vec::new(), |segment| {
        assert_sound(segment);
        carried.extend_from_slice(&segment[headers_len..]);
    })
    .expect("what was checked can be cut");
    assert_eq!(carried, frame[start..end]);
}

/// Lengths and checksums of a TCP or UDP frame, as its receiver verifies them.
fn assert_sound(segment: &[u8]) {
    let headers = Headers::parse(segment).expect("not a runt");
    let ip = headers.ip.expect("an IP packet");
    assert_ne!(ip.transport, Transport::Other);
    assert_eq!(ip.packet_end as usize, segment.len());
    let (ip_start, l4_start) = (usize::from(headers.l2_len), usize::from(ip.l4_start));
    let addresses = match ip.version {
        IpVersion::V4 => {
            assert_eq!(frame::internet_checksum(&segment[ip_start..l4_start]), 0);
            ip_start + 12..ip_start + 20
        }
        IpVersion::V6 => ip_start + 8..ip_start + 40,
    };
    let mut summed = segment[addresses].to_vec();
    summed.extend_from_slice(&[0, ip.protocol]);
    summed.extend_from_slice(&((segment.len() - l4_start) as u32).to_be_bytes());
    summed.extend_from_slice(&segment[l4_start..]);
    assert_eq!(frame::internet_checksum(&summed), 0, "transport checksum");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        frame::testing::{ACK, CWR, FIN, Family, PSH, Protocol, Recipe, recipe},
        tunnel::hello::Capabilities,
    };

    fn input(offload: Offload, run: [u8; 2], frame: &[u8]) -> Vec<u8> {
        [&offload.to_wire()[..], &run, frame].concat()
    }

    /// Superframes of every kind, each also as a plain frame, and frames that no superframe recipe makes.
    fn seeds() -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for (tags, ip_option_units) in [(0, 0), (1, 2), (2, 10)] {
                    let flags = ACK | PSH | FIN | CWR;
                    let tcp = Recipe::tcp4(700 - 100 * tags, 250);
                    let recipe = Recipe { family, protocol, tags, ip_option_units, flags, ..tcp };
                    let (offload, frame) = recipe.build();
                    seeds.push(input(offload, [0, 128], &frame));
                    let plain = Offload { gso: Gso::None, gso_size: 0, ..offload };
                    seeds.push(input(plain, [64, 255], &frame));
                }
            }
        }
        let (_, mut fragment) = Recipe { protocol: Protocol::Udp, ..Recipe::tcp4(40, 9) }.build();
        fragment[20] = 0x20;
        seeds.push(input(Offload::NONE, [0, 0], &fragment));
        let mut arp = vec![0xff; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        seeds.push(input(Offload::NONE, [0, 0], &arp));
        seeds
    }

    /// A sound hello, one with everything optional left out, and each way to be wrong that the wire format names.
    fn hello_seeds() -> Vec<Vec<u8>> {
        let full = Hello {
            capabilities: Capabilities::ALL,
            max_frame_len: 65_557,
            inner_mtu: 1_500,
            lanes: 16,
            lane: 15,
            name: "rack7".into(),
            instance: [7; 16],
            probe_token: Some([9; 16]),
            agent: "ipop-switch 0.1.0".into(),
            proofs: Vec::new(),
        };
        let bare = Hello { probe_token: None, name: String::new(), ..full.clone() };
        let no_lanes = Hello { lanes: 0, ..full.clone() };
        let control = Hello { name: "a\x1b[2Jb\u{85}".into(), ..full.clone() };
        let proving = Hello { proofs: vec![[1; 32], [2; 32]], ..full.clone() };
        let sound = full.encode();
        let others = [&bare, &no_lanes, &control, &proving];
        let mut seeds = vec![sound.clone()];
        seeds.extend(others.map(Hello::encode));
        let mut next_version = sound.clone();
        next_version[5] = 2;
        let mut too_long = sound.clone();
        too_long[6..8].copy_from_slice(&1_025_u16.to_be_bytes());
        seeds.extend([
            next_version,
            too_long,
            sound[..40].to_vec(),
            [&sound[..], &[0; 9]].concat(),
        ]);
        // An unknown field, a field that stands twice, one that is cut short, a name that is too long, one that is not UTF-8.
        let long_name = [&[0, 6, 0, 65][..], &[b'x'; 65]].concat();
        for field in [
            &[0x77, 0, 0, 2, 1, 2][..],
            &[0, 4, 0, 1, 1],
            &[0, 99, 0, 9],
            &long_name,
            &[0, 9, 0, 1, 0xff],
            &[0, 10, 0, 0],
        ] {
            let mut bytes = [&bare.encode()[..], field].concat();
            let len = (bytes.len() - 8) as u16;
            bytes[6..8].copy_from_slice(&len.to_be_bytes());
            seeds.push(bytes);
        }
        seeds
    }

    /// Messages of one byte, of many, with padding, cut short; another channel's number; STUN.
    fn channel_data_seeds() -> Vec<Vec<u8>> {
        let long = [&[0x4f, 0xff, 0, 100][..], &[7; 100]].concat();
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[1; 12]].concat();
        vec![
            vec![0x40, 0, 0, 1, 9],
            [&long[..], &[0; 3]].concat(),
            long[..60].to_vec(),
            long,
            vec![0x40, 0, 0, 0],
            vec![0x50, 0, 0, 1, 9],
            stun,
        ]
    }

    /// Messages cut into pieces of one byte and of more; the longest; lengths out of bounds; one that never ends.
    fn signal_seeds() -> Vec<Vec<u8>> {
        let mut queue = SignalQueue::default();
        for message in [&b"a"[..], b"candidate", &[3; 300]] {
            assert!(queue.push(message));
        }
        let stream = queue.bytes;
        let longest = [&[255, 0x10, 0][..], &[5; MAX_SIGNAL_LEN]].concat();
        vec![
            [&[1][..], &stream].concat(),
            [&[200][..], &stream].concat(),
            longest,
            [&[9][..], &stream, &[0, 0, 1]].concat(),
            vec![3, 0x10, 1, 7],
            vec![2, 0, 50, 1, 2, 3],
        ]
    }

    #[test]
    #[ignore = "writes the seed corpora"]
    fn write_seed_corpora() {
        for (name, seeds) in [
            ("channel_data", channel_data_seeds()),
            ("frame_input", seeds()),
            ("hello", hello_seeds()),
            ("signals", signal_seeds()),
        ] {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            fs::create_dir_all(&corpus).unwrap();
            for (index, seed) in seeds.iter().enumerate() {
                fs::write(corpus.join(format!("seed-{index:02}")), seed).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            frame_input(&bytes);
        }

        #[test]
        fn hellos_with_a_few_bytes_changed(
            seed in proptest::sample::select(hello_seeds()),
            changes in proptest::collection::vec((0..200_usize, any::<u8>()), 0..3),
        ) {
            let mut bytes = seed;
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            hello(&bytes);
        }

        #[test]
        fn superframes_with_a_few_bytes_changed(
            recipe in recipe(),
            run in any::<[u8; 2]>(),
            changes in proptest::collection::vec((0..110_usize, any::<u8>()), 0..4),
        ) {
            let (offload, frame) = recipe.build();
            let mut bytes = input(offload, run, &frame);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            frame_input(&bytes);
        }
    }
}
