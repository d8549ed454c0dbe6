//! Bodies of the fuzz targets for what other entities put into stanzas; see [`crate::fuzzing`].

use std::time::{Duration, Instant};

use ipop_datapath::node_id::NodeId;
use xmpp_parsers::{
    iq::Iq,
    jid::{BareJid, FullJid},
    minidom::Element,
    presence::Presence,
};

use super::{
    jingle::{self, Jingle, JingleConfig},
    room::{self, Card, Entry, MAX_NAME_LEN, Room, RoomConfig, Stream},
    services::Services,
};
use crate::ice::{Loopback, MAX_CANDIDATES, check_address};

fn element(bytes: &[u8]) -> Option<Element> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn local() -> NodeId {
    NodeId([9; 32])
}

fn jid(text: &str) -> Option<FullJid> {
    FullJid::new(text).ok()
}

/// A presence stanza of a room in which this node is, or is about to be; and a card by itself.
///
/// # Panics
/// When a card is longer than it may be or does not survive being written, or the room names an occupant without an
/// address of its own.
pub fn room_presence(bytes: &[u8]) {
    let Some(element) = element(bytes) else { return };
    if let Some(card) = Card::read(&element) {
        assert!(card.name.len() <= MAX_NAME_LEN && !card.name.contains(char::is_control));
        assert_eq!(Card::read(&card.to_element()), Some(card));
    }
    let Ok(presence) = Presence::try_from(element) else { return };
    let (Ok(address), Some(own)) = (BareJid::new("net@muc.x"), jid("me@x/r")) else { return };
    let name = "me".into();
    let config = RoomConfig { room: address, entry: Entry::Members, password: None, name, seed: 1 };
    let (mut room, now) = (Room::new(local(), config), Instant::now());
    room.online(now, own.clone(), Stream::New);
    for _ in 0..2 {
        room.handle_presence(now, &presence);
        room::fuzz_configured(&mut room, now);
    }
    while let Some(action) = room.poll_action() {
        if let room::Action::Event(room::Event::Occupant(occupant)) = action {
            assert_ne!(occupant.jid, own);
            assert_ne!(occupant.card.node, local());
        }
    }
}

/// The content of an IQ from a peer in a room.
///
/// # Panics
/// When ICE is told what it should not be, or what was understood does not survive being written.
pub fn jingle_payload(bytes: &[u8]) {
    let Some(payload) = element(bytes) else { return };
    jingle::fuzz_round_trip(&payload);
    let (Some(peer), Some(own)) = (jid("peer@x/r"), jid("me@x/r")) else { return };
    for node in [NodeId([1; 32]), NodeId([17; 32])] {
        let now = Instant::now();
        let config = JingleConfig { fingerprint: None, loopback: Loopback::Refused, seed: 1 };
        let mut jingle = Jingle::new(now, local(), config);
        jingle.online(now, own.clone(), Stream::New);
        jingle.peer_seen(now, peer.clone(), node);
        let from = Some(peer.clone().into());
        let iq = Iq::Set { from, to: None, id: "1".into(), payload: payload.clone() };
        let _ = jingle.handle_iq(now, &iq);
        let mut replies = 0;
        while let Some(action) = jingle.poll_action(now) {
            match action {
                jingle::Action::Event(event) => check(&event, &peer, node),
                jingle::Action::Reply(_) => replies += 1,
                jingle::Action::Request(_) | jingle::Action::Message(_) => {}
            }
        }
        assert!(replies <= 1);
    }
}

fn check(event: &jingle::Event, peer: &FullJid, of: NodeId) {
    let (jingle::Event::Describe { jid, node }
    | jingle::Event::Remote { jid, node, .. }
    | jingle::Event::RemoteCandidates { jid, node, .. }) = event;
    assert_eq!((jid, *node), (peer, of));
    match event {
        jingle::Event::Remote { ice, .. } => assert!(ice.is_sound()),
        jingle::Event::RemoteCandidates { candidates, .. } => {
            assert!((1..=MAX_CANDIDATES).contains(&candidates.len()));
            for candidate in candidates {
                assert_eq!(check_address(candidate.address, Loopback::Refused), Ok(()));
            }
        }
        jingle::Event::Describe { .. } => {}
    }
}

/// A list of STUN and TURN servers.
///
/// # Panics
/// When a server without an address is told, or the next question comes too soon.
pub fn external_services(bytes: &[u8]) {
    let (Some(answer), Ok(own)) = (element(bytes), BareJid::new("me@x")) else { return };
    let (now, mut services) = (Instant::now(), Services::default());
    services.online(now, &own);
    let Some(request) = services.poll_request(now) else { return };
    let answer = Ok(Some(answer));
    for service in services.handle_answer(now, 0, request.token, &answer).unwrap_or_default() {
        assert!(service.port != 0 && !service.host.is_empty());
    }
    assert!(services.poll_timeout().is_some_and(|again| again >= now + Duration::from_secs(60)));
}

/// A room's configuration: its features, and the owner's form.
///
/// # Panics
/// When a form comes back with a field that was not offered.
pub fn room_configuration(bytes: &[u8]) {
    if let Some(element) = element(bytes) {
        room::fuzz_form(&element);
    }
}

/// Inputs to start from, for each target of this file.
#[cfg(test)]
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let (node, other) = (NodeId([1; 32]), NodeId([17; 32]));
    let presence = |kind: &str, x: &str| {
        format!(
            "<presence xmlns='jabber:client' from='net@muc.x/a' {kind}><node xmlns='urn:ipop-switch:1' id='{other}' name='a' \
             version='1' can='lanes'/><x xmlns='http://jabber.org/protocol/muc#user'>{x}</x></presence>"
        )
    };
    let item = "<item affiliation='member' role='participant' jid='a@x/r'/>";
    let offer = |action: &str, node: NodeId, ip: &str| {
        format!(
            "<jingle xmlns='urn:xmpp:jingle:1' action='{action}' sid='s1'><content creator='initiator' name='link'>\
             <description xmlns='urn:ipop-switch:jingle:1' node='{node}' generation='1'/>\
             <transport xmlns='urn:xmpp:jingle:transports:ice-udp:1' ufrag='abcd' pwd='0123456789012345678901'>\
             <candidate component='1' foundation='1' generation='0' id='c' ip='{ip}' port='5800' priority='9' protocol='udp' \
             type='srflx' rel-addr='10.0.0.1' rel-port='5800'/></transport></content></jingle>"
        )
    };
    let texts: Vec<String> = match target {
        "room_presence" => vec![
            presence("", item),
            presence("", &format!("<status code='110'/><status code='100'/>{item}")),
            presence("", &format!("<status code='201'/><status code='110'/>{item}")),
            presence("type='unavailable'", "<status code='321'/><item affiliation='none' role='none' jid='a@x/r'/>"),
            presence("type='unavailable'", "<status code='303'/><item affiliation='member' role='participant' nick='b'/>"),
            presence("type='unavailable'", "<status code='110'/><destroy jid='b@muc.x'><reason>over</reason></destroy>"),
            "<presence xmlns='jabber:client' from='net@muc.x/me' type='error'><error type='cancel'>\
             <conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
                .into(),
            format!("<node xmlns='urn:ipop-switch:1' id='{node}' name='a'/>"),
        ],
        "jingle_payload" => vec![
            offer("session-initiate", node, "192.0.2.1"),
            offer("session-initiate", node, "127.0.0.1"),
            offer("session-initiate", other, "2001:db8::1"),
            offer("session-accept", other, "192.0.2.1"),
            offer("transport-info", other, "192.0.2.1"),
            "<jingle xmlns='urn:xmpp:jingle:1' action='session-terminate' sid='s'><reason><gone/></reason></jingle>".into(),
            "<jingle xmlns='urn:xmpp:jingle:1' action='session-info' sid='s'/>".into(),
        ],
        "external_services" => vec![
            "<services xmlns='urn:xmpp:extdisco:2'><service type='stun' host='stun.example.org' port='3478' transport='udp'/>\
             <service type='turn' host='192.0.2.1' transport='tcp' username='u' password='p' expires='2026-01-01T00:00:00Z'/>\
             <service type='turns' host='[2001:db8::1]' restricted='1'/></services>"
                .into(),
            "<services xmlns='urn:xmpp:extdisco:2'><service action='remove' type='stun' host='x'/></services>".into(),
        ],
        "room_configuration" => vec![
            "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='muc_hidden'/><feature var='muc_nonanonymous'/></query>"
                .into(),
            "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='form'>\
             <field type='hidden' var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>\
             <field type='boolean' var='muc#roomconfig_publicroom'><value>1</value></field></x></query>"
                .into(),
        ],
        _ => Vec::new(),
    };
    texts.into_iter().map(String::into_bytes).collect()
}
