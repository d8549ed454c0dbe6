//! The hello that opens each connection (`docs/WIRE.md`).

use std::fmt;

use crate::policy::admission::{MAX_PROOFS, PROOF_LEN, Proof};

/// The hello's version that this program speaks.
pub const VERSION: u16 = 1;
/// The largest hello on the wire, in bytes, header included.
pub const MAX_HELLO_LEN: usize = 8 + 1_024;
/// The longest node name, in bytes of UTF-8.
pub const MAX_NAME_LEN: usize = 64;

/// What a node can take at its ports, as bits of the hello's first field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Frames with partial checksums.
    pub const CSUM: u64 = 1;
    /// TCP superframes over IPv4.
    pub const TSO4: u64 = 1 << 1;
    /// TCP superframes over IPv6.
    pub const TSO6: u64 = 1 << 2;
    /// TCP superframes with ECN.
    pub const TSO_ECN: u64 = 1 << 3;
    /// UDP superframes, both families.
    pub const USO: u64 = 1 << 4;
    /// Every offload.
    pub const ALL: Self = Self(0x1f);
    /// Plain frames only.
    pub const NONE: Self = Self(0);
    /// Signalling messages on a second stream.
    pub const SIGNALLING: u64 = 1 << 5;
    /// Ignores frames that it has already, so that small ones can be sent twice.
    pub const REPEATS: u64 = 1 << 6;
    /// Takes messages that say whom the sender reaches.
    pub const REACHED: u64 = 1 << 7;
    /// Takes questions, and answers them.
    pub const QUESTIONS: u64 = 1 << 8;

    /// Whether all of these bits are set.
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(Self::CSUM, "checksums"), (Self::TSO4 | Self::TSO6, "TSO"), (Self::USO, "USO")];
        let mut found = names.iter().filter(|(bits, _)| self.has(*bits)).map(|(_, name)| *name);
        let Some(first) = found.next() else { return f.write_str("plain frames only") };
        write!(f, "offloads {first}")?;
        found.try_for_each(|name| write!(f, ", {name}"))
    }
}

/// What a node says of itself when a connection opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What the sender of the hello can take.
    pub capabilities: Capabilities,
    /// Its largest frame, bytes from the destination MAC on.
    pub max_frame_len: u32,
    /// Its inner MTU, bytes.
    pub inner_mtu: u16,
    /// Lanes that it serves.
    pub lanes: u8,
    /// Lane of this connection.
    pub lane: u8,
    /// A name for people; empty if it gave none.
    pub name: String,
    /// Random at each start: another instance of the same node is a restart.
    pub instance: [u8; 16],
    /// What its loop probes carry, if it sends any.
    pub probe_token: Option<[u8; 16]>,
    /// Program and version, for people.
    pub agent: String,
    /// That the sender knows the network's secret, which it then asks of the other end too; at most [`MAX_PROOFS`].
    pub proofs: Vec<Proof>,
}

/// Why a hello was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// More bytes are needed.
    #[error("the hello is not complete")]
    Incomplete,
    /// Another version.
    #[error(
        "the peer speaks version {0} of the tunnel, this program version {VERSION}; run the same release on both ends"
    )]
    Version(u16),
    /// Anything else.
    #[error("the peer's hello is malformed: {0}")]
    Malformed(&'static str),
}

const MAGIC: [u8; 4] = *b"IPSW";
const HEAD_LEN: usize = 8;

mod field {
    pub(super) const CAPABILITIES: u16 = 1;
    pub(super) const MAX_FRAME_LEN: u16 = 2;
    pub(super) const INNER_MTU: u16 = 3;
    pub(super) const LANES: u16 = 4;
    pub(super) const LANE: u16 = 5;
    pub(super) const NAME: u16 = 6;
    pub(super) const INSTANCE: u16 = 7;
    pub(super) const PROBE_TOKEN: u16 = 8;
    pub(super) const AGENT: u16 = 9;
    pub(super) const PROOFS: u16 = 10;
}

impl Hello {
    /// The bytes for the stream. Names longer than [`MAX_NAME_LEN`] are cut at a character.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(256);
        let mut put = |kind: u16, value: &[u8]| {
            fields.extend_from_slice(&kind.to_be_bytes());
            fields.extend_from_slice(&(value.len() as u16).to_be_bytes());
            fields.extend_from_slice(value);
        };
        put(field::CAPABILITIES, &self.capabilities.0.to_be_bytes());
        put(field::MAX_FRAME_LEN, &self.max_frame_len.to_be_bytes());
        put(field::INNER_MTU, &self.inner_mtu.to_be_bytes());
        put(field::LANES, &[self.lanes]);
        put(field::LANE, &[self.lane]);
        put(field::NAME, cut(&self.name).as_bytes());
        put(field::INSTANCE, &self.instance);
        if let Some(token) = &self.probe_token {
            put(field::PROBE_TOKEN, token);
        }
        put(field::AGENT, cut(&self.agent).as_bytes());
        if !self.proofs.is_empty() {
            let proofs = &self.proofs[..self.proofs.len().min(MAX_PROOFS)];
            put(field::PROOFS, proofs.as_flattened());
        }
        let mut hello = Vec::with_capacity(HEAD_LEN + fields.len());
        hello.extend_from_slice(&MAGIC);
        hello.extend_from_slice(&VERSION.to_be_bytes());
        hello.extend_from_slice(&(fields.len() as u16).to_be_bytes());
        hello.extend_from_slice(&fields);
        hello
    }

    /// Reads what has arrived of the stream so far.
    ///
    /// # Errors
    /// [`HelloError::Incomplete`] until all is there; bytes after the hello are ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            return Err(HelloError::Malformed("it does not start with IPSW"));
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            return Err(HelloError::Incomplete);
        };
        let version = u16::from_be_bytes([head[4], head[5]]);
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        let len = usize::from(u16::from_be_bytes([head[6], head[7]]));
        if HEAD_LEN + len > MAX_HELLO_LEN {
            return Err(HelloError::Malformed("it is longer than 1,024 bytes"));
        }
        let fields = rest.get(..len).ok_or(HelloError::Incomplete)?;
        Self::decode_fields(fields)
    }

    fn decode_fields(mut rest: &[u8]) -> Result<Self, HelloError> {
        let mut found = Fields::default();
        while !rest.is_empty() {
            let (head, tail) = rest.split_first_chunk::<4>().ok_or(CUT_SHORT)?;
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (value, tail) = tail.split_at_checked(len).ok_or(CUT_SHORT)?;
            found.take(kind, value)?;
            rest = tail;
        }
        found.finish()
    }
}

const CUT_SHORT: HelloError = HelloError::Malformed("a field is cut short");
const WRONG_LENGTH: HelloError = HelloError::Malformed("a field has the wrong length");

#[derive(Default)]
struct Fields {
    capabilities: Option<u64>,
    max_frame_len: Option<u32>,
    inner_mtu: Option<u16>,
    lanes: Option<u8>,
    lane: Option<u8>,
    name: Option<String>,
    instance: Option<[u8; 16]>,
    probe_token: Option<[u8; 16]>,
    agent: Option<String>,
    proofs: Option<Vec<Proof>>,
}

impl Fields {
    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), HelloError> {
        match kind {
            field::CAPABILITIES => once(&mut self.capabilities, u64::from_be_bytes(fixed(value)?)),
            field::MAX_FRAME_LEN => {
                once(&mut self.max_frame_len, u32::from_be_bytes(fixed(value)?))
            }
            field::INNER_MTU => once(&mut self.inner_mtu, u16::from_be_bytes(fixed(value)?)),
            field::LANES => once(&mut self.lanes, fixed::<1>(value)?[0]),
            field::LANE => once(&mut self.lane, fixed::<1>(value)?[0]),
            field::NAME => once(&mut self.name, text(value)?),
            field::INSTANCE => once(&mut self.instance, fixed(value)?),
            field::PROBE_TOKEN => once(&mut self.probe_token, fixed(value)?),
            field::AGENT => once(&mut self.agent, text(value)?),
            field::PROOFS => once(&mut self.proofs, proofs(value)?),
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<Hello, HelloError> {
        const MISSING: HelloError = HelloError::Malformed("a required field is missing");
        let hello = Hello {
            capabilities: Capabilities(self.capabilities.ok_or(MISSING)?),
            max_frame_len: self.max_frame_len.ok_or(MISSING)?,
            inner_mtu: self.inner_mtu.ok_or(MISSING)?,
            lanes: self.lanes.ok_or(MISSING)?,
            lane: self.lane.ok_or(MISSING)?,
            name: self.name.unwrap_or_default(),
            instance: self.instance.ok_or(MISSING)?,
            probe_token: self.probe_token,
            agent: self.agent.unwrap_or_default(),
            proofs: self.proofs.unwrap_or_default(),
        };
        if hello.lanes == 0 || usize::from(hello.lanes) > crate::command::MAX_LANES {
            return Err(HelloError::Malformed("it serves no lane, or more than 16"));
        }
        if usize::from(hello.lane) >= crate::command::MAX_LANES {
            return Err(HelloError::Malformed("its lane is above 15"));
        }
        Ok(hello)
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), HelloError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HelloError::Malformed("a field stands twice")),
    }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], HelloError> {
    value.try_into().map_err(|_| WRONG_LENGTH)
}

fn proofs(value: &[u8]) -> Result<Vec<Proof>, HelloError> {
    let (proofs, rest) = value.as_chunks::<PROOF_LEN>();
    if rest.is_empty() && (1..=MAX_PROOFS).contains(&proofs.len()) {
        return Ok(proofs.to_vec());
    }
    Err(WRONG_LENGTH)
}

/// Names end up in logs and on terminals: control characters are replaced.
fn text(value: &[u8]) -> Result<String, HelloError> {
    if value.len() > MAX_NAME_LEN {
        return Err(WRONG_LENGTH);
    }
    let text =
        std::str::from_utf8(value).map_err(|_| HelloError::Malformed("a name is not UTF-8"))?;
    Ok(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME_LEN)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Hello {
        Hello {
            capabilities: Capabilities::ALL,
            max_frame_len: 65_557,
            inner_mtu: 1_500,
            lanes: 2,
            lane: 1,
            name: "rack7".into(),
            instance: [7; 16],
            probe_token: Some([9; 16]),
            agent: "ipop-switch 0.1.0".into(),
            proofs: vec![[1; 32], [2; 32]],
        }
    }

    #[test]
    fn offloads_are_named() {
        let named = |bits| Capabilities(bits).to_string();
        assert_eq!(named(Capabilities::REPEATS), "plain frames only");
        assert_eq!(named(Capabilities::CSUM | Capabilities::USO), "offloads checksums, USO");
        assert_eq!(named(Capabilities::TSO4), "plain frames only", "TSO is both versions of IP");
        assert_eq!(Capabilities::ALL.to_string(), "offloads checksums, TSO, USO");
    }

    #[test]
    fn round_trip_and_every_prefix_is_incomplete() {
        let bytes = sample().encode();
        assert_eq!(Hello::decode(&bytes), Ok(sample()));
        for len in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..len]), Err(HelloError::Incomplete), "{len}");
        }
    }

    /// `docs/WIRE.md`, Hello. Switches of other versions read it so.
    #[test]
    fn a_hello_byte_by_byte() {
        let capabilities = Capabilities::CSUM
            | Capabilities::TSO4 << 8
            | Capabilities::TSO6 << 16
            | Capabilities::TSO_ECN << 24
            | Capabilities::USO << 32
            | Capabilities::SIGNALLING << 40
            | Capabilities::REPEATS << 48
            | Capabilities::REACHED << 56;
        let hello = Hello { capabilities: Capabilities(capabilities), ..sample() };
        let mut expected = b"IPSW\0\x01\0\xae".to_vec();
        expected.extend_from_slice(&[0, 1, 0, 8, 0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1]);
        expected.extend_from_slice(&[0, 2, 0, 4, 0, 1, 0, 0x15, 0, 3, 0, 2, 0x05, 0xdc]);
        expected.extend_from_slice(b"\0\x04\0\x01\x02\0\x05\0\x01\x01\0\x06\0\x05rack7");
        expected
            .extend_from_slice(&[&[0, 7, 0, 16][..], &[7; 16], &[0, 8, 0, 16], &[9; 16]].concat());
        expected.extend_from_slice(b"\0\x09\0\x11ipop-switch 0.1.0");
        expected.extend_from_slice(&[&[0, 10, 0, 64][..], &[1; 32], &[2; 32]].concat());
        assert_eq!(hello.encode(), expected);
    }

    #[test]
    fn unknown_fields_are_ignored_and_repeated_ones_refused() {
        let add = |extra: &[u8]| {
            let mut bytes = sample().encode();
            bytes.extend_from_slice(extra);
            let len = (bytes.len() - HEAD_LEN) as u16;
            bytes[6..8].copy_from_slice(&len.to_be_bytes());
            Hello::decode(&bytes)
        };
        assert_eq!(add(&[0x77, 0, 0, 2, 1, 2]), Ok(sample()));
        assert!(matches!(add(&[0, 4, 0, 1, 1]), Err(HelloError::Malformed(_))));
        assert!(matches!(add(&[0, 99, 0, 9]), Err(HelloError::Malformed(_))));
    }

    #[test]
    fn proofs_are_one_to_four_of_32_bytes() {
        let with = |value: &[u8]| {
            let mut bytes = Hello { proofs: Vec::new(), ..sample() }.encode();
            bytes.extend_from_slice(&field::PROOFS.to_be_bytes());
            bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            bytes.extend_from_slice(value);
            let len = (bytes.len() - HEAD_LEN) as u16;
            bytes[6..8].copy_from_slice(&len.to_be_bytes());
            Hello::decode(&bytes).map(|hello| hello.proofs.len())
        };
        assert_eq!(with(&[0; 32]), Ok(1));
        assert_eq!(with(&[0; 128]), Ok(4));
        for len in [0, 31, 33, 160] {
            assert_eq!(with(&vec![0; len]), Err(WRONG_LENGTH), "{len}");
        }
        let many = Hello { proofs: vec![[3; 32]; 9], ..sample() };
        assert_eq!(Hello::decode(&many.encode()).unwrap().proofs, [[3; 32]; 4]);
    }

    #[test]
    fn lengths_and_lanes_out_of_bounds_are_refused() {
        let head = |len: u16| [&b"IPSW\0\x01"[..], &len.to_be_bytes()].concat();
        assert_eq!(Hello::decode(&head(1_024)), Err(HelloError::Incomplete));
        assert!(matches!(Hello::decode(&head(1_025)), Err(HelloError::Malformed(_))));
        let decoded = |hello: Hello| Hello::decode(&hello.encode());
        for (lanes, lane, is_sound) in
            [(0, 0, false), (1, 0, true), (16, 15, true), (17, 0, false), (16, 16, false)]
        {
            let decoded = decoded(Hello { lanes, lane, ..sample() });
            assert_eq!(decoded.is_ok(), is_sound, "lane {lane} of {lanes}");
        }
        let mut named = decoded(Hello { name: "n".repeat(64), ..sample() }).map(|_| ());
        assert_eq!(named, Ok(()));
        let mut bytes = Hello { name: "n".repeat(64), agent: String::new(), ..sample() }.encode();
        let at = bytes.windows(64).position(|bytes| bytes == [b'n'; 64]).unwrap();
        bytes.insert(at, b'n');
        bytes[at - 1] = 65;
        bytes[7] += 1;
        named = Hello::decode(&bytes).map(|_| ());
        assert_eq!(named, Err(WRONG_LENGTH), "a longer one than this end would send");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sample().encode();
        bytes[5] = 2;
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Version(2)));
    }

    #[test]
    fn control_characters_in_names_are_replaced() {
        let hello = Hello { name: "a\x1b[2Jb".into(), ..sample() };
        assert_eq!(Hello::decode(&hello.encode()).unwrap().name, "a?[2Jb");
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
            let mut framed = b"IPSW\0\x01".to_vec();
            framed.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            framed.extend_from_slice(&bytes);
            prop_assert_ne!(Hello::decode(&framed), Err(HelloError::Incomplete));
        }
    }
}
