//! The messages by which a node tells a peer whom it reaches (docs/WIRE.md, Whom a node reaches).
//!
//! A list is cut into messages, of which the first and the last say so. Ids are short and ascend over the whole list, so that
//! a list cannot hold one twice, and is bounded by their number.

use std::fmt;

use ipop_datapath::{command::MAX_SIGNAL_LEN, node_id::NodeId};

use crate::sessions::MAX_PEERS;

/// The first byte of these messages. Those of ICE are JSON and begin with a brace.
const KIND: u8 = 1;
/// Kind, flags, and two bytes that are zero in this version.
const HEADER_LEN: usize = 4;
const FIRST: u8 = 1;
const LAST: u8 = 2;
const ID_LEN: usize = 8;
const IDS_PER_MESSAGE: usize = (MAX_SIGNAL_LEN - HEADER_LEN) / ID_LEN;

/// The first bytes of a node id: enough to tell nodes of a network apart, not to prove anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShortId([u8; ID_LEN]);

impl From<NodeId> for ShortId {
    fn from(NodeId([a, b, c, d, e, f, g, h, ..]): NodeId) -> Self {
        Self([a, b, c, d, e, f, g, h])
    }
}

impl ShortId {
    /// The lowest node id that begins so.
    pub(super) fn lowest(self) -> NodeId {
        let mut id = [0; 32];
        id[..ID_LEN].copy_from_slice(&self.0);
        NodeId(id)
    }
}

/// The characters of the node id that it says for certain.
impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CERTAIN: usize = ID_LEN * 8 / 5;
        f.write_str(&self.lowest().to_string()[..CERTAIN])
    }
}

/// The messages of a list, which must ascend.
pub(super) fn write(list: &[ShortId]) -> Vec<Vec<u8>> {
    let mut parts: Vec<&[ShortId]> = list.chunks(IDS_PER_MESSAGE).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let last = parts.len() - 1;
    let message = |(number, part): (usize, &&[ShortId])| {
        let first = if number == 0 { FIRST } else { 0 };
        let flags = first | if number == last { LAST } else { 0 };
        let mut message = vec![KIND, flags, 0, 0];
        part.iter().for_each(|id| message.extend_from_slice(&id.0));
        message
    };
    parts.iter().enumerate().map(message).collect()
}

/// The peer sent something that is no part of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadPart;

/// Puts a list together.
#[derive(Debug, Default)]
pub(super) struct Reader(Option<Vec<ShortId>>);

impl Reader {
    /// Takes the next message; gives the list when it is complete. After one that makes no sense the next list is waited for.
    pub(super) fn push(&mut self, message: &[u8]) -> Result<Option<Vec<ShortId>>, BadPart> {
        let so_far = self.0.take();
        let (header, ids) = message.split_first_chunk::<HEADER_LEN>().ok_or(BadPart)?;
        let [KIND, flags, _, _] = *header else { return Err(BadPart) };
        let mut list = if flags & FIRST != 0 { Vec::new() } else { so_far.ok_or(BadPart)? };
        let (ids, []) = ids.as_chunks::<ID_LEN>() else { return Err(BadPart) };
        if list.len() + ids.len() > MAX_PEERS {
            return Err(BadPart);
        }
        list.extend(ids.iter().map(|id| ShortId(*id)));
        if !list.is_sorted_by(|a, b| a < b) {
            return Err(BadPart);
        }
        if flags & LAST != 0 {
            return Ok(Some(list));
        }
        self.0 = Some(list);
        Ok(None)
    }
}

/// For fuzzing: a message of a peer, behind any other.
///
/// # Panics
/// When a list is taken that is too long, or is not written as it was read.
#[cfg(feature = "testing")]
pub fn fuzz(bytes: &[u8]) {
    let mut reader = Reader::default();
    let (one, other) = bytes.split_at(bytes.len() / 2);
    for message in [one, other, bytes] {
        let Ok(Some(list)) = reader.push(message) else { continue };
        assert!(list.len() <= MAX_PEERS);
        let mut again = Reader::default();
        let mut read = Ok(None);
        for part in write(&list) {
            read = again.push(&part);
        }
        assert_eq!(read, Ok(Some(list)));
    }
}

/// Inputs to start from.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let list: Vec<ShortId> = (1..4).map(|byte| ShortId([byte; ID_LEN])).collect();
    let [whole] = &write(&list)[..] else { return Vec::new() };
    let cut = [[KIND, FIRST, 0, 0], [KIND, LAST, 0, 0]].concat();
    vec![whole.clone(), cut, write(&[]).concat(), whole[..7].to_vec()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<ShortId> {
        numbers.into_iter().map(|number| ShortId(number.to_be_bytes())).collect()
    }

    fn read(messages: &[Vec<u8>]) -> Result<Option<Vec<ShortId>>, BadPart> {
        let mut reader = Reader::default();
        let mut result = Err(BadPart);
        for message in messages {
            result = reader.push(message);
        }
        result
    }

    #[test]
    fn a_list_comes_out_as_it_went_in() {
        for count in [0, 1, 511, 512, MAX_PEERS as u64] {
            let list = ids(0..count);
            let messages = write(&list);
            assert!(messages.iter().all(|message| message.len() <= MAX_SIGNAL_LEN));
            assert_eq!(read(&messages), Ok(Some(list)), "{count}");
        }
        assert_eq!(write(&ids(0..MAX_PEERS as u64)).len(), 3);
    }

    #[test]
    fn lists_that_are_too_long_or_hold_an_id_twice_are_refused() {
        let too_long = write(&ids(0..MAX_PEERS as u64 + 1));
        assert_eq!(read(&too_long), Err(BadPart));
        for odd in [[5, 5], [6, 5]] {
            assert_eq!(read(&write(&ids(odd))), Err(BadPart), "{odd:?}");
        }
        // Over two messages, too.
        let repeated = [vec![KIND, FIRST, 0, 0], vec![0; 8]].concat();
        let end = [vec![KIND, LAST, 0, 0], vec![0; 8]].concat();
        assert_eq!(read(&[repeated, end]), Err(BadPart));
    }

    #[test]
    fn a_part_without_its_beginning_is_refused_and_the_next_list_is_taken() {
        let list = ids([1, 2]);
        let mut reader = Reader::default();
        assert_eq!(reader.push(&[KIND, LAST, 0, 0]), Err(BadPart));
        assert_eq!(reader.push(&[KIND, FIRST, 0, 0]), Ok(None));
        assert_eq!(reader.push(&[KIND, 0, 0, 0, 1]), Err(BadPart), "half an id");
        assert_eq!(reader.push(&[KIND, LAST, 0, 0]), Err(BadPart), "what it belonged to is gone");
        assert_eq!(reader.push(&write(&list)[0]), Ok(Some(list)));
        for short in [&[][..], &[KIND], &[KIND, FIRST | LAST, 0], &[7, FIRST | LAST, 0, 0]] {
            assert_eq!(reader.push(short), Err(BadPart));
        }
    }

    #[test]
    fn a_short_id_is_the_beginning_of_the_nodes_id() {
        let node = NodeId([0xa7; 32]);
        let short = ShortId::from(node).to_string();
        assert_eq!(short.len(), 12);
        assert!(node.to_string().starts_with(&short));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
            fuzz(&[&[KIND, FIRST | LAST, 0, 0][..], &bytes].concat());
        }
    }
}
