//! From XML to what it means, with every limit applied, and back.

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::minidom::Element;

use super::{
    candidate,
    wire::{self, APPLICATION},
};
use crate::ice::{Candidate, IceDescription, Loopback, MAX_CANDIDATES};

/// Longest session id. Ours have 16 characters.
const MAX_SID_LEN: usize = 64;
/// The one content of a session.
const CONTENT: &str = "link";

/// A session id, chosen by the initiator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Sid(String);

impl Sid {
    /// From text as it came, if it is not odd.
    pub(super) fn new(text: &str) -> Option<Self> {
        let fine =
            (1..=MAX_SID_LEN).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
        fine.then(|| Self(text.to_owned()))
    }

    pub(super) fn from_random(random: u64) -> Self {
        Self(format!("{random:016x}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a description comes with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// session-initiate
    Initiate,
    /// session-accept
    Accept,
    /// transport-info: candidates, or with a new generation a restart (XEP-0176 section 5.9).
    Info,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Initiate => "session-initiate",
            Self::Accept => "session-accept",
            Self::Info => "transport-info",
        }
    }
}

/// What one node tells another of itself. Every message carries all of it but old candidates, so that none depends on
/// another that may have been lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) step: Step,
    pub(super) node: NodeId,
    pub(super) ice: IceDescription,
    pub(super) candidates: Vec<Candidate>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Offer(Offer),
    /// session-terminate
    Terminate,
    /// session-info without content: a ping of the session (XEP-0166 section 6.8).
    Ping,
}

/// A `<jingle/>` that makes sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) sid: Sid,
    pub(super) content: Content,
    /// Candidates that were skipped.
    pub(super) skipped: usize,
}

/// Why a `<jingle/>` is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It is not Jingle, or not complete, or breaks a limit.
    Malformed,
    /// An action that this application has no use for.
    Unsupported,
}

impl Message {
    pub(super) fn read(element: &Element, loopback: Loopback) -> Result<Self, Fault> {
        let jingle = wire::Jingle::try_from(element.clone()).map_err(|_| Fault::Malformed)?;
        let sid = Sid::new(&jingle.sid).ok_or(Fault::Malformed)?;
        let step = match jingle.action.as_str() {
            "session-initiate" => Step::Initiate,
            "session-accept" => Step::Accept,
            "transport-info" => Step::Info,
            "session-terminate" => {
                return Ok(Self { sid, content: Content::Terminate, skipped: 0 });
            }
            "session-info" if element.children().next().is_none() => {
                return Ok(Self { sid, content: Content::Ping, skipped: 0 });
            }
            _ => return Err(Fault::Unsupported),
        };
        let [wire::Content { description: Some(description), transport: Some(transport), .. }] =
            jingle.contents.as_slice()
        else {
            return Err(Fault::Malformed);
        };
        let (offer, skipped) =
            read_offer(step, description, transport, loopback).ok_or(Fault::Malformed)?;
        Ok(Self { sid, content: Content::Offer(offer), skipped })
    }
}

fn read_offer(
    step: Step,
    description: &wire::Description,
    transport: &wire::Transport,
    loopback: Loopback,
) -> Option<(Offer, usize)> {
    let ice = IceDescription {
        ufrag: transport.ufrag.clone()?,
        password: transport.pwd.clone()?,
        generation: description.generation.parse().ok()?,
    };
    let candidates: Vec<Candidate> = transport
        .candidates
        .iter()
        .take(MAX_CANDIDATES)
        .filter_map(|candidate| candidate::read(candidate, loopback))
        .collect();
    let skipped = transport.candidates.len() - candidates.len();
    let node = description.node.parse().ok()?;
    ice.is_sound().then_some((Offer { step, node, ice, candidates }, skipped))
}

/// Who sends an offer in which role, and its certificate for those that look at XEP-0320.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    /// `active` for the initiator, which dials.
    pub(super) side: Side,
    pub(super) fingerprint: Option<&'a [u8; 32]>,
    pub(super) jid: &'a str,
}

/// The two ends of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Initiator,
    Responder,
}

impl Side {
    fn setup(self) -> &'static str {
        match self {
            Self::Initiator => "active",
            Self::Responder => "passive",
        }
    }
}

/// The `<jingle/>` with this offer. Candidates are numbered from `first_candidate` within their generation.
pub(super) fn write_offer(
    sid: &Sid,
    offer: &Offer,
    sender: Sender<'_>,
    first_candidate: usize,
) -> Element {
    let hex = |hash: &[u8; 32]| hash.map(|byte| format!("{byte:02X}")).join(":");
    let transport = wire::Transport {
        ufrag: Some(offer.ice.ufrag.clone()),
        pwd: Some(offer.ice.password.clone()),
        // Once a session is enough.
        fingerprint: sender.fingerprint.filter(|_| offer.step != Step::Info).map(|hash| {
            wire::Fingerprint {
                hash: "sha-256".into(),
                setup: Some(sender.side.setup().into()),
                value: hex(hash),
            }
        }),
        candidates: offer
            .candidates
            .iter()
            .zip(first_candidate..)
            .map(|(candidate, id)| candidate::write(candidate, offer.ice.generation, id))
            .collect(),
    };
    let content = wire::Content {
        creator: "initiator".into(),
        name: CONTENT.into(),
        description: Some(wire::Description {
            node: offer.node.to_string(),
            generation: offer.ice.generation.to_string(),
        }),
        transport: Some(transport),
    };
    wire::Jingle {
        action: offer.step.as_str().into(),
        sid: sid.as_str().into(),
        initiator: (offer.step == Step::Initiate).then(|| sender.jid.into()),
        responder: (offer.step == Step::Accept).then(|| sender.jid.into()),
        contents: vec![content],
    }
    .into()
}

/// The higher node has no session and wishes for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Nudge {
    pub(super) node: NodeId,
}

impl Nudge {
    pub(super) fn read(payloads: &[Element]) -> Option<Self> {
        let element = payloads.iter().find(|payload| payload.is("nudge", APPLICATION))?;
        let wire = wire::Nudge::try_from(element.clone()).ok()?;
        Some(Self { node: wire.node.parse().ok()? })
    }

    pub(super) fn to_element(&self) -> Element {
        wire::Nudge { node: self.node.to_string() }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::CandidateKind;

    fn offer(step: Step, candidates: usize) -> Offer {
        let candidate = |number: usize| Candidate {
            priority: 1_000_000 - u32::try_from(number).expect("small"),
            address: format!("192.0.2.{}:5800", number + 1).parse().expect("an address"),
            kind: CandidateKind::Host,
            related: None,
        };
        Offer {
            step,
            node: NodeId::of_spki(b"a node"),
            ice: IceDescription { ufrag: "abcd".into(), password: "p".repeat(22), generation: 300 },
            candidates: (0..candidates).map(candidate).collect(),
        }
    }

    fn written(offer: &Offer) -> Element {
        let sender = Sender { side: Side::Initiator, fingerprint: Some(&[7; 32]), jid: "a@x/r" };
        write_offer(&Sid::from_random(5), offer, sender, 0)
    }

    #[test]
    fn offers_survive_the_way() {
        for step in [Step::Initiate, Step::Accept, Step::Info] {
            let offer = offer(step, 3);
            let read = Message::read(&written(&offer), Loopback::Refused).expect("a message");
            assert_eq!(
                read,
                Message { sid: Sid::from_random(5), content: Content::Offer(offer), skipped: 0 }
            );
        }
        let gone = "<jingle xmlns='urn:xmpp:jingle:1' action='session-terminate' sid='5'><reason><gone/></reason></jingle>";
        let gone =
            Message::read(&gone.parse().expect("XML"), Loopback::Refused).expect("a message");
        assert_eq!(gone.content, Content::Terminate);
        let nudge = Nudge { node: NodeId::of_spki(b"n") };
        assert_eq!(Nudge::read(&[nudge.to_element()]), Some(nudge));
    }

    #[test]
    fn others_find_what_they_look_for() {
        let text = String::from(&written(&offer(Step::Initiate, 1)));
        for part in [
            "urn:xmpp:jingle:1",
            "session-initiate",
            "urn:xmpp:jingle:transports:ice-udp:1",
            "urn:xmpp:jingle:apps:dtls:0",
            "07:07:07",
            "setup='active'",
            "initiator='a@x/r'",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// Nothing is believed of it: whoever answers at the end of the path is known by its key.
    #[test]
    fn a_fingerprint_that_the_server_swapped_changes_nothing() {
        let offer = offer(Step::Initiate, 2);
        let text = String::from(&written(&offer));
        let own = ["07"; 32].join(":");
        assert!(text.contains(&own), "{text}");
        for other in [["08"; 32].join(":"), "none".into(), String::new()] {
            let swapped = text.replace(&own, &other).parse().expect("XML");
            let read = Message::read(&swapped, Loopback::Refused).expect("a message");
            assert_eq!(read.content, Content::Offer(offer.clone()));
        }
    }

    #[test]
    fn messages_are_small() {
        // Prosody reads 10 kB/s of a client.
        let len = String::from(&written(&offer(Step::Initiate, 4))).len();
        assert!(len < 2_000, "{len} bytes with four candidates");
    }

    #[test]
    fn ten_thousand_candidates_are_24() {
        let mut many = offer(Step::Info, 1);
        many.candidates = vec![many.candidates[0]; 10_000];
        let read = Message::read(&written(&many), Loopback::Refused).expect("a message");
        let Content::Offer(read_offer) = read.content else { panic!("an offer") };
        assert_eq!(
            (read_offer.candidates.len(), read.skipped),
            (MAX_CANDIDATES, 10_000 - MAX_CANDIDATES)
        );
    }

    #[test]
    fn nonsense_is_told_from_what_is_not_supported() {
        let text = String::from(&written(&offer(Step::Initiate, 1)));
        let read =
            |text: &str| Message::read(&text.parse().expect("XML"), Loopback::Refused).map(|_| ());
        assert_eq!(read(&text), Ok(()));
        for (from, to, fault) in [
            ("session-initiate", "content-add", Fault::Unsupported),
            ("session-initiate", "transport-replace", Fault::Unsupported),
            ("'abcd'", "'abc'", Fault::Malformed),
            ("'300'", "'-1'", Fault::Malformed),
            ("'300'", "'4294967296'", Fault::Malformed),
            ("sid='0000000000000005'", "sid=''", Fault::Malformed),
            ("ice-udp:1", "raw-udp:1", Fault::Malformed),
            ("urn:ipop-switch:jingle:1", "urn:xmpp:jingle:apps:rtp:1", Fault::Malformed),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            assert_eq!(read(&text.replace(from, to)), Err(fault), "{to}");
        }
    }
}
