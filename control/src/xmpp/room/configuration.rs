//! What a room is, and what it must be.
//!
//! An occupant reads it from the room's features (XEP-0045 section 6.4), which every server tells everyone; the owner's
//! form is for `room create`. A feature that is missing counts as its worse half.

use std::{collections::BTreeSet, fmt};

use xmpp_parsers::minidom::Element;

use super::wire::{DiscoInfo, Field, Form};

/// What keeps strangers out of the room, which follows from the mode of trust.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A password derived from the network secret.
    Password,
    /// A list of members.
    Members,
}

/// A room's configuration as its features tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Not in the server's list of rooms.
    pub hidden: bool,
    /// Nobody comes in without the password.
    pub password_protected: bool,
    /// Nobody comes in who is not on the list.
    pub members_only: bool,
    /// Every occupant sees the others' real JIDs.
    pub non_anonymous: bool,
    /// Stays when the last occupant leaves.
    pub persistent: bool,
}

impl Configuration {
    /// From the answer to disco#info at the room's JID.
    pub fn read(answer: &Element) -> Option<Self> {
        let info = DiscoInfo::try_from(answer.clone()).ok()?;
        let features: BTreeSet<&str> = info.features.iter().map(String::as_str).collect();
        let is = |feature: &str| features.contains(feature);
        Some(Self {
            hidden: is("muc_hidden"),
            password_protected: is("muc_passwordprotected"),
            members_only: is("muc_membersonly"),
            non_anonymous: is("muc_nonanonymous"),
            persistent: is("muc_persistent"),
        })
    }

    /// What must be different for this kind of entry; empty if all is well.
    pub fn faults(self, entry: Entry) -> Vec<&'static str> {
        let password = entry == Entry::Password;
        [
            (password && !self.hidden, "it is public (must be hidden)"),
            (password && !self.password_protected, "it has no password"),
            (!password && !self.members_only, "it is open (must be members-only)"),
            (
                !self.non_anonymous,
                "it hides its occupants' JIDs (must be non-anonymous: `whois` for anyone)",
            ),
        ]
        .into_iter()
        .filter_map(|(wrong, text)| wrong.then_some(text))
        .collect()
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let halves = [
            (self.hidden, "hidden", "public"),
            (self.password_protected, "with a password", "without a password"),
            (self.members_only, "members-only", "open"),
            (self.non_anonymous, "non-anonymous", "semi-anonymous"),
            (self.persistent, "persistent", "temporary"),
        ];
        let words = halves.map(|(is, yes, no)| if is { yes } else { no });
        f.write_str(&words.join(", "))
    }
}

/// The owner's form filled in: what the server offered, with our values in it.
pub(in crate::xmpp) fn filled(offered: &Form, entry: Entry, password: Option<&str>) -> Form {
    let members = entry == Entry::Members;
    let yes_no = |yes: bool| if yes { "1" } else { "0" };
    let wanted: [(&str, &str); 11] = [
        ("FORM_TYPE", "http://jabber.org/protocol/muc#roomconfig"),
        ("muc#roomconfig_persistentroom", "1"),
        ("muc#roomconfig_publicroom", "0"),
        ("muc#roomconfig_membersonly", yes_no(members)),
        ("muc#roomconfig_whois", "anyone"),
        ("muc#roomconfig_moderatedroom", "0"),
        ("muc#roomconfig_allowinvites", "0"),
        ("muc#roomconfig_enablelogging", "0"),
        ("muc#roomconfig_changesubject", "0"),
        ("muc#roomconfig_passwordprotectedroom", yes_no(password.is_some())),
        ("muc#roomconfig_roomsecret", password.unwrap_or_default()),
    ];
    // A form may be sent back in part, XEP-0045 section 10.2: what is not mentioned stays as it was offered. Some servers
    // refuse fields that they did not offer.
    let fields = wanted
        .into_iter()
        .filter(|(var, _)| {
            *var == "FORM_TYPE"
                || offered.fields.iter().any(|field| field.var.as_deref() == Some(var))
        })
        .map(|(var, value)| Field {
            var: Some(var.into()),
            type_: None,
            values: vec![value.into()],
        })
        .collect();
    Form { type_: "submit".into(), fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(vars: &[&str]) -> Element {
        let features: String = vars.iter().map(|var| format!("<feature var='{var}'/>")).collect();
        format!("<query xmlns='http://jabber.org/protocol/disco#info'>{features}</query>")
            .parse()
            .expect("XML")
    }

    #[test]
    fn each_fault_is_named() {
        let good = ["muc_hidden", "muc_passwordprotected", "muc_nonanonymous", "muc_persistent"];
        let read = |vars: &[&str]| Configuration::read(&features(vars)).expect("a configuration");
        assert!(read(&good).faults(Entry::Password).is_empty());
        for missing in &good[..3] {
            let rest: Vec<&str> = good.iter().copied().filter(|var| var != missing).collect();
            assert_eq!(read(&rest).faults(Entry::Password).len(), 1, "{missing}");
        }
        assert_eq!(read(&good).faults(Entry::Members).len(), 1);
        assert!(read(&["muc_membersonly", "muc_nonanonymous"]).faults(Entry::Members).is_empty());
        assert_eq!(read(&[]).faults(Entry::Password).len(), 3);
    }

    #[test]
    fn the_form_comes_back_with_our_values_and_nothing_that_was_not_offered() {
        let field = |var: &str, value: &str| Field {
            var: Some(var.into()),
            type_: None,
            values: vec![value.into()],
        };
        let offered = Form {
            type_: "form".into(),
            fields: vec![
                field("muc#roomconfig_roomname", "name"),
                field("muc#roomconfig_publicroom", "1"),
                field("muc#roomconfig_roomsecret", ""),
                field("muc#roomconfig_whois", "moderators"),
            ],
        };
        let form = filled(&offered, Entry::Password, Some("derived"));
        assert_eq!(form.value("muc#roomconfig_publicroom"), Some("0"));
        assert_eq!(form.value("muc#roomconfig_roomsecret"), Some("derived"));
        assert_eq!(form.value("muc#roomconfig_whois"), Some("anyone"));
        assert_eq!(form.value("muc#roomconfig_membersonly"), None);
        assert_eq!(form.fields.len(), 4);
    }
}
