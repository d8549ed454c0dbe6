//! What a node says of itself in its presence: `<node xmlns='urn:ipop-switch:1'/>`.
//!
//! Presence is small and never changes while a node is in a room: every change would be a stanza to every occupant.
//! It is a claim of the account that sends it. What is true is proved in the tunnel.

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::{minidom::Element, presence::Presence};
use xso::{AsXml, FromXml};

use super::super::request::printable;

/// Namespace of this program's own payloads.
pub const NAMESPACE: &str = "urn:ipop-switch:1";
/// Longest name of a node, bytes: as much as the hello takes.
pub const MAX_NAME_LEN: usize = 64;
/// Longest version, bytes.
const MAX_VERSION_LEN: usize = 32;
/// Most capabilities, and the longest, bytes. What is beyond is skipped: a later version may have more to say.
const MAX_CAPABILITIES: usize = 16;
const MAX_CAPABILITY_LEN: usize = 32;

/// A node by its own account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its id: to be proved.
    pub node: NodeId,
    /// Its name, for people; at most [`MAX_NAME_LEN`] bytes without control characters.
    pub name: String,
    /// Its program's version.
    pub version: String,
    /// What it can do, as short words.
    pub capabilities: Vec<String>,
}

#[derive(FromXml, AsXml, Debug)]
#[xml(namespace = NAMESPACE, name = "node")]
struct Wire {
    #[xml(attribute)]
    id: String,
    #[xml(attribute(default))]
    name: String,
    #[xml(attribute(default))]
    version: String,
    #[xml(attribute(default))]
    can: Option<String>,
}

impl Card {
    /// The card in a presence; none if there is none or it makes no sense.
    pub fn of(presence: &Presence) -> Option<Self> {
        presence.payloads.iter().find(|payload| payload.is("node", NAMESPACE)).and_then(Self::read)
    }

    /// The card that this element is.
    pub fn read(element: &Element) -> Option<Self> {
        let wire = Wire::try_from(element.clone()).ok()?;
        Some(Self {
            node: wire.id.parse().ok()?,
            name: cut(&printable(&wire.name), MAX_NAME_LEN),
            version: cut(&printable(&wire.version), MAX_VERSION_LEN),
            capabilities: wire
                .can
                .unwrap_or_default()
                .split_ascii_whitespace()
                .filter(|word| word.len() <= MAX_CAPABILITY_LEN && !word.contains(char::is_control))
                .take(MAX_CAPABILITIES)
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The card as presence carries it.
    pub fn to_element(&self) -> Element {
        Wire {
            id: self.node.to_string(),
            name: self.name.clone(),
            version: self.version.clone(),
            can: (!self.capabilities.is_empty()).then(|| self.capabilities.join(" ")),
        }
        .into()
    }
}

/// The longest start of `text` of at most `len` bytes.
pub(super) fn cut(text: &str, len: usize) -> String {
    text[..text.floor_char_boundary(len)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            node: NodeId::of_spki(b"a node"),
            name: "rack7".into(),
            version: "0.1.0".into(),
            capabilities: vec!["lanes".into(), "signal".into()],
        }
    }

    #[test]
    fn survives_the_way() {
        assert_eq!(Card::read(&card().to_element()), Some(card()));
        let plain = Card { capabilities: Vec::new(), ..card() };
        assert_eq!(Card::read(&plain.to_element()), Some(plain));
    }

    #[test]
    fn what_a_stranger_writes_is_bounded() {
        let id = card().node;
        let many = "word ".repeat(1_000) + &"x".repeat(1_000);
        let element: Element = format!(
            "<node xmlns='{NAMESPACE}' id='{id}' name='{}' can='{many}'/>",
            "é".repeat(500)
        )
        .parse()
        .expect("XML");
        let read = Card::read(&element).expect("a card");
        assert_eq!((read.name.len(), read.capabilities.len()), (MAX_NAME_LEN, MAX_CAPABILITIES));
    }

    #[test]
    fn no_card_without_a_node_id() {
        for bad in ["", "id=''", "id='abc'"] {
            let element: Element =
                format!("<node xmlns='{NAMESPACE}' {bad}/>").parse().expect("XML");
            assert_eq!(Card::read(&element), None, "{bad}");
        }
    }
}
