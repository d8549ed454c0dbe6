//! The commands of a room's owner, against a real Prosody.

use ipop_control::xmpp::{
    BareJid,
    administration::{
        AdministrationError, Change, Created, EntryRefusal, Existing, Session, Wanted,
    },
    room::{Affiliation, Entry, RoomPassword},
    stream::Failure,
};

use super::{client::account, prosody::Prosody};

fn jid(text: &str) -> BareJid {
    text.parse().expect("JID")
}

fn with_password(password: &str) -> Wanted {
    Wanted { entry: Entry::Password, password: Some(RoomPassword(password.into())) }
}

async fn session(prosody: &Prosody, name: &str) -> Session {
    let account = account(
        &format!("{name}@localhost"),
        &format!("{name}pw"),
        prosody.port,
        &prosody.authority(),
    );
    Session::open(account).await.expect("logged in")
}

#[tokio::test]
async fn a_room_with_a_password_is_made_once_and_kept() {
    let Some(prosody) = Prosody::start() else { return };
    let (room, wanted) = (jid("net@muc.localhost"), with_password("first"));
    let mut alice = session(&prosody, "alice").await;
    let missing = alice.show(&room, None).await;
    assert_eq!(missing, Err(AdministrationError::NoRoom(room.clone())));
    let made = alice.create(&room, &wanted, Existing::Refused).await;
    assert_eq!(made, Ok(Created::New));
    let again = alice.create(&room, &wanted, Existing::Refused).await;
    assert_eq!(again, Ok(Created::AsWanted));

    // Another secret is another network, unless it is meant.
    let other = with_password("second");
    let refused = alice.create(&room, &other, Existing::Refused).await.unwrap_err();
    let AdministrationError::OtherSettings { differences, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(differences.len(), 1, "{refused}");
    assert!(refused.to_string().contains("--reconfigure"), "{refused}");
    let looked = alice.look(&room, other.password.as_ref()).await;
    assert_eq!(looked, Ok(Err(EntryRefusal::Password)), "nothing was changed");
    let set = alice.create(&room, &other, Existing::Reconfigured).await;
    assert_eq!(set, Ok(Created::Reconfigured));

    let report = alice.show(&room, other.password.as_ref()).await.expect("a report");
    assert!(report.configuration.faults(Entry::Password).is_empty(), "{}", report.configuration);
    assert!(report.configuration.persistent);
    assert_eq!(report.lists.accounts[&jid("alice@localhost")], Affiliation::Owner);
    assert_eq!(report.inside, Ok(Vec::new()));

    // What belongs to somebody else stays theirs.
    let mut bob = session(&prosody, "bob").await;
    for existing in [Existing::Refused, Existing::Reconfigured] {
        let taken = bob.create(&room, &wanted, existing).await;
        let (room, account) = (room.clone(), jid("bob@localhost"));
        assert_eq!(taken, Err(AdministrationError::NotOwner { room, account }));
    }
    bob.close().await;
    alice.close().await;
}

#[tokio::test]
async fn members_come_and_go() {
    let Some(prosody) = Prosody::start() else { return };
    let (room, bob) = (jid("net@muc.localhost"), jid("bob@localhost"));
    let wanted = Wanted { entry: Entry::Members, password: None };
    let mut alice = session(&prosody, "alice").await;
    assert_eq!(alice.create(&room, &wanted, Existing::Refused).await, Ok(Created::New));
    let mut guest = session(&prosody, "bob").await;
    let shut = guest.look(&room, None).await;
    assert_eq!(shut, Ok(Err(EntryRefusal::NotAMember)));
    let denied = guest.add(&room, &bob).await.unwrap_err();
    assert!(matches!(denied, AdministrationError::NotAdmin { .. }), "{denied}");

    let (none, member) = (Affiliation::None, Affiliation::Member);
    for was in [none, member] {
        assert_eq!(alice.add(&room, &bob).await, Ok(Change { was, is: member }));
    }
    assert_eq!(guest.look(&room, None).await, Ok(Ok(Vec::new())));
    for was in [member, none] {
        assert_eq!(alice.remove(&room, &bob).await, Ok(Change { was, is: none }));
    }
    assert_eq!(guest.look(&room, None).await, Ok(Err(EntryRefusal::NotAMember)));

    // An owner is neither demoted nor removed by mistake.
    let (own, owner) = (jid("alice@localhost"), Affiliation::Owner);
    assert_eq!(alice.add(&room, &own).await, Ok(Change { was: owner, is: owner }));
    let kept = alice.remove(&room, &own).await.unwrap_err();
    assert!(matches!(kept, AdministrationError::Privileged { .. }), "{kept}");
    guest.close().await;
    alice.close().await;
}

#[tokio::test]
async fn who_knows_the_password_is_kept_out_by_a_ban() {
    let Some(prosody) = Prosody::start() else { return };
    let (room, bob, wanted) =
        (jid("net@muc.localhost"), jid("bob@localhost"), with_password("pass"));
    let mut alice = session(&prosody, "alice").await;
    alice.create(&room, &wanted, Existing::Refused).await.expect("made");
    let mut guest = session(&prosody, "bob").await;
    let password = wanted.password.as_ref();
    assert_eq!(guest.look(&room, password).await, Ok(Ok(Vec::new())));
    let (none, member, outcast) = (Affiliation::None, Affiliation::Member, Affiliation::Outcast);
    assert_eq!(alice.remove(&room, &bob).await, Ok(Change { was: none, is: outcast }));
    assert_eq!(alice.remove(&room, &bob).await, Ok(Change { was: outcast, is: outcast }));
    assert_eq!(guest.look(&room, password).await, Ok(Err(EntryRefusal::Banned)));
    assert_eq!(alice.add(&room, &bob).await, Ok(Change { was: outcast, is: member }));
    assert_eq!(guest.look(&room, password).await, Ok(Ok(Vec::new())));
    guest.close().await;
    alice.close().await;
}

#[tokio::test]
async fn what_cannot_be_a_room_is_explained() {
    let Some(prosody) = Prosody::start() else { return };
    let mut alice = session(&prosody, "alice").await;
    for room in ["net@localhost", "net@nowhere.localhost"] {
        let room = jid(room);
        for error in [
            alice.create(&room, &with_password("p"), Existing::Refused).await.unwrap_err(),
            alice.show(&room, None).await.unwrap_err(),
        ] {
            let AdministrationError::NoService { offered, .. } = &error else { panic!("{error}") };
            assert_eq!(offered, &["muc.localhost"], "{error}");
        }
    }
    alice.close().await;
    let wrong = account("alice@localhost", "wrong", prosody.port, &prosody.authority());
    let refused = Session::open(wrong).await.unwrap_err();
    let AdministrationError::Stream(failure) = &refused else { panic!("{refused}") };
    assert!(matches!(failure, Failure::Credentials { .. }), "{failure}");
}
