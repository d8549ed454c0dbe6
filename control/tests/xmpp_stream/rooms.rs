//! The commands of a room's owner, against a real Prosody and a real ejabberd.

use std::path::PathBuf;

use ipop_control::xmpp::{
    BareJid,
    administration::{
        AdministrationError, AffiliationChange, Created, EntryRefusal, Existing, Session, Wanted,
    },
    room::{Affiliation, Entry, RoomPassword},
    stream::{Account, Failure},
};

use super::{client::account, ejabberd::Ejabberd, prosody::Prosody};

fn jid(text: &str) -> BareJid {
    text.parse().expect("JID")
}

fn with_password(password: &str) -> Wanted {
    Wanted { entry: Entry::Password, password: Some(RoomPassword(password.into())) }
}

/// A server with the accounts `alice` and `bob` and rooms at `muc.localhost`.
pub(crate) struct Server {
    port: u16,
    authority: PathBuf,
}

impl Server {
    fn of_prosody(prosody: &Prosody) -> Self {
        Self { port: prosody.port, authority: prosody.authority() }
    }

    pub(crate) fn of_ejabberd(ejabberd: &Ejabberd) -> Self {
        Self { port: ejabberd.port, authority: ejabberd.authority() }
    }

    fn account(&self, name: &str, password: &str) -> Account {
        account(&format!("{name}@localhost"), password, self.port, &self.authority)
    }

    async fn session(&self, name: &str) -> Session {
        let account = self.account(name, &format!("{name}pw"));
        Session::open(account).await.expect("logged in")
    }
}

#[tokio::test]
async fn what_owners_do_with_prosody() {
    let Some(prosody) = Prosody::start() else { return };
    all(&Server::of_prosody(&prosody)).await;
}

/// It makes a room when it is asked for the owner's form, and calls every room new that nobody has entered yet.
#[tokio::test]
async fn what_owners_do_with_ejabberd() {
    let Some(ejabberd) = Ejabberd::start() else { return };
    all(&Server::of_ejabberd(&ejabberd)).await;
}

async fn all(server: &Server) {
    a_room_with_a_password_is_made_once_and_kept(server).await;
    members_come_and_go(server).await;
    who_knows_the_password_is_kept_out_by_a_ban(server).await;
    what_cannot_be_a_room_is_explained(server).await;
}

/// Makes a room with a password.
pub(crate) async fn make(server: &Server, room: &BareJid) {
    let mut alice = server.session("alice").await;
    let made = alice.create(room, &with_password("first"), Existing::Refused).await;
    assert_eq!(made, Ok(Created::New));
    alice.close().await;
}

/// What was made that way is there.
pub(crate) async fn is_there_and_empty(server: &Server, room: &BareJid) {
    let mut bob = server.session("bob").await;
    let report = bob.show(room, with_password("first").password.as_ref()).await.expect("a report");
    assert!(report.configuration.faults(Entry::Password).is_empty(), "{}", report.configuration);
    assert_eq!(report.inside, Ok(Vec::new()));
    bob.close().await;
}

async fn a_room_with_a_password_is_made_once_and_kept(server: &Server) {
    let (room, wanted) = (jid("net@muc.localhost"), with_password("first"));
    let mut alice = server.session("alice").await;
    let missing = alice.show(&room, None).await;
    assert_eq!(missing, Err(AdministrationError::NoRoom(room.clone())));
    let made = alice.create(&room, &wanted, Existing::Refused).await;
    assert_eq!(made, Ok(Created::New));
    let again = alice.create(&room, &wanted, Existing::Refused).await;
    assert_eq!(again, Ok(Created::AsWanted));

    // Another secret is another network, unless it is meant.
    let other = with_password("second");
    let refused = alice.create(&room, &other, Existing::Refused).await.expect_err("it is refused");
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
    let mut bob = server.session("bob").await;
    for existing in [Existing::Refused, Existing::Reconfigured] {
        let taken = bob.create(&room, &wanted, existing).await;
        let (room, account) = (room.clone(), jid("bob@localhost"));
        assert_eq!(taken, Err(AdministrationError::NotOwner { room, account }));
    }
    bob.close().await;
    alice.close().await;
}

async fn members_come_and_go(server: &Server) {
    let (room, bob) = (jid("members@muc.localhost"), jid("bob@localhost"));
    let wanted = Wanted { entry: Entry::Members, password: None };
    let mut alice = server.session("alice").await;
    assert_eq!(alice.create(&room, &wanted, Existing::Refused).await, Ok(Created::New));
    let mut guest = server.session("bob").await;
    let shut = guest.look(&room, None).await;
    assert_eq!(shut, Ok(Err(EntryRefusal::NotAMember)));
    let denied = guest.add(&room, &bob).await.expect_err("it is refused");
    assert!(matches!(denied, AdministrationError::NotAdmin { .. }), "{denied}");

    let (none, member) = (Affiliation::None, Affiliation::Member);
    for was in [none, member] {
        assert_eq!(alice.add(&room, &bob).await, Ok(AffiliationChange { was, is: member }));
    }
    assert_eq!(guest.look(&room, None).await, Ok(Ok(Vec::new())));
    for was in [member, none] {
        assert_eq!(alice.remove(&room, &bob).await, Ok(AffiliationChange { was, is: none }));
    }
    assert_eq!(guest.look(&room, None).await, Ok(Err(EntryRefusal::NotAMember)));

    // An owner is neither demoted nor removed by mistake.
    let (own, owner) = (jid("alice@localhost"), Affiliation::Owner);
    assert_eq!(alice.add(&room, &own).await, Ok(AffiliationChange { was: owner, is: owner }));
    let kept = alice.remove(&room, &own).await.expect_err("it is refused");
    assert!(matches!(kept, AdministrationError::Privileged { .. }), "{kept}");
    guest.close().await;
    alice.close().await;
}

async fn who_knows_the_password_is_kept_out_by_a_ban(server: &Server) {
    let (room, bob, wanted) =
        (jid("bans@muc.localhost"), jid("bob@localhost"), with_password("pass"));
    let mut alice = server.session("alice").await;
    alice.create(&room, &wanted, Existing::Refused).await.expect("made");
    let mut guest = server.session("bob").await;
    let password = wanted.password.as_ref();
    assert_eq!(guest.look(&room, password).await, Ok(Ok(Vec::new())));
    let (none, member, outcast) = (Affiliation::None, Affiliation::Member, Affiliation::Outcast);
    assert_eq!(alice.remove(&room, &bob).await, Ok(AffiliationChange { was: none, is: outcast }));
    assert_eq!(
        alice.remove(&room, &bob).await,
        Ok(AffiliationChange { was: outcast, is: outcast })
    );
    assert_eq!(guest.look(&room, password).await, Ok(Err(EntryRefusal::Banned)));
    assert_eq!(alice.add(&room, &bob).await, Ok(AffiliationChange { was: outcast, is: member }));
    assert_eq!(guest.look(&room, password).await, Ok(Ok(Vec::new())));
    guest.close().await;
    alice.close().await;
}

async fn what_cannot_be_a_room_is_explained(server: &Server) {
    let mut alice = server.session("alice").await;
    for room in ["net@localhost", "net@nowhere.localhost"] {
        let room = jid(room);
        for error in [
            alice
                .create(&room, &with_password("p"), Existing::Refused)
                .await
                .expect_err("it is refused"),
            alice.show(&room, None).await.expect_err("it is refused"),
        ] {
            let AdministrationError::NoService { offered, .. } = &error else { panic!("{error}") };
            assert_eq!(offered, &["muc.localhost"], "{error}");
        }
    }
    alice.close().await;
    let wrong = server.account("alice", "wrong");
    let refused = Session::open(wrong).await.expect_err("it is refused");
    let AdministrationError::Stream(failure) = &refused else { panic!("{refused}") };
    assert!(matches!(failure, Failure::Credentials { .. }), "{failure}");
}
