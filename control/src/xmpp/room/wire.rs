//! Payloads of XEP-0045 and XEP-0030 as far as a room's occupant needs them.
//!
//! The types of the same elements in xmpp-parsers refuse a whole presence for one status code or form field that
//! they do not know, and take only full JIDs where servers also put bare ones. These skip what is unknown.

use std::borrow::Cow;

use xmpp_parsers::{jid::Jid, ns};
use xso::{AsXml, AsXmlText, FromXml, FromXmlText};

/// `http://jabber.org/protocol/muc#admin`, which reads and sets affiliations.
pub(in crate::xmpp) const MUC_ADMIN: &str = "http://jabber.org/protocol/muc#admin";
/// `http://jabber.org/protocol/muc#owner`, which configures.
pub(in crate::xmpp) const MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";

/// The lasting relation of an account to a room, XEP-0045 section 5.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Affiliation {
    /// Banned.
    Outcast,
    /// No relation: may come in if the room is open.
    #[default]
    None,
    /// On the list of those who may come in.
    Member,
    /// May change the lists of members and outcasts.
    Admin,
    /// May do everything.
    Owner,
}

impl Affiliation {
    /// Those that a room keeps a list of, by right.
    pub const LISTED: [Self; 4] = [Self::Owner, Self::Admin, Self::Member, Self::Outcast];

    /// As it is written in XML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outcast => "outcast",
            Self::None => "none",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl FromXmlText for Affiliation {
    fn from_xml_text(text: String) -> Result<Self, xso::error::Error> {
        [Self::Outcast, Self::None, Self::Member, Self::Admin, Self::Owner]
            .into_iter()
            .find(|affiliation| affiliation.as_str() == text)
            .ok_or(xso::error::Error::Other("unknown affiliation"))
    }
}

impl AsXmlText for Affiliation {
    fn as_xml_text(&self) -> Result<Cow<'_, str>, xso::error::Error> {
        Ok(Cow::Borrowed(self.as_str()))
    }
}

/// `<status code='...'/>`.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::MUC_USER, name = "status")]
pub(in crate::xmpp) struct Status {
    #[xml(attribute)]
    pub(in crate::xmpp) code: String,
}

/// Codes of XEP-0045 section 15.6.
pub(in crate::xmpp) mod code {
    pub(in crate::xmpp) const SELF: u16 = 110;
    pub(in crate::xmpp) const CREATED: u16 = 201;
    pub(in crate::xmpp) const BANNED: u16 = 301;
    pub(in crate::xmpp) const NEW_NICK: u16 = 303;
    pub(in crate::xmpp) const KICKED: u16 = 307;
    pub(in crate::xmpp) const NO_LONGER_MEMBER: u16 = 321;
    pub(in crate::xmpp) const NOW_MEMBERS_ONLY: u16 = 322;
    pub(in crate::xmpp) const SHUTDOWN: u16 = 332;
    /// 102 to 104 and 170 to 174 say that the configuration changed.
    pub(in crate::xmpp) const CONFIGURED: [u16; 8] = [102, 103, 104, 170, 171, 172, 173, 174];
}

/// `<item/>` of muc#user: an occupant, or an account whose affiliation changed.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::MUC_USER, name = "item")]
pub(in crate::xmpp) struct Item {
    #[xml(attribute(default))]
    pub(in crate::xmpp) affiliation: Option<Affiliation>,
    #[xml(attribute(default))]
    pub(in crate::xmpp) role: Option<String>,
    #[xml(attribute(default))]
    pub(in crate::xmpp) jid: Option<Jid>,
    #[xml(attribute(default))]
    pub(in crate::xmpp) nick: Option<String>,
    #[xml(extract(default, name = "reason", fields(text(type_ = String))))]
    pub(in crate::xmpp) reason: Option<String>,
}

/// `<destroy/>` of muc#user.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::MUC_USER, name = "destroy")]
pub(in crate::xmpp) struct Destroy {
    #[xml(attribute(default))]
    pub(in crate::xmpp) jid: Option<Jid>,
    #[xml(extract(default, name = "reason", fields(text(type_ = String))))]
    pub(in crate::xmpp) reason: Option<String>,
}

/// `<x xmlns='http://jabber.org/protocol/muc#user'/>`.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::MUC_USER, name = "x")]
pub(in crate::xmpp) struct MucUser {
    #[xml(child(n = ..))]
    pub(in crate::xmpp) statuses: Vec<Status>,
    #[xml(child(n = ..))]
    pub(in crate::xmpp) items: Vec<Item>,
    #[xml(child(default))]
    pub(in crate::xmpp) destroy: Option<Destroy>,
}

impl MucUser {
    pub(in crate::xmpp) fn has(&self, code: u16) -> bool {
        self.statuses.iter().any(|status| status.code.parse() == Ok(code))
    }
}

/// `<item/>` of muc#admin.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = MUC_ADMIN, name = "item")]
pub(in crate::xmpp) struct AdminItem {
    #[xml(attribute(default))]
    pub(in crate::xmpp) affiliation: Option<Affiliation>,
    #[xml(attribute(default))]
    pub(in crate::xmpp) jid: Option<Jid>,
}

/// `<query/>` of muc#admin: a question about, or a change of, affiliations.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = MUC_ADMIN, name = "query")]
pub(in crate::xmpp) struct AdminQuery {
    #[xml(child(n = ..))]
    pub(in crate::xmpp) items: Vec<AdminItem>,
}

/// A field of a data form, XEP-0004.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::DATA_FORMS, name = "field")]
pub(in crate::xmpp) struct Field {
    #[xml(attribute(default))]
    pub(in crate::xmpp) var: Option<String>,
    #[xml(attribute(default, name = "type"))]
    pub(in crate::xmpp) type_: Option<String>,
    #[xml(extract(n = .., name = "value", fields(text(type_ = String))))]
    pub(in crate::xmpp) values: Vec<String>,
}

/// A data form, XEP-0004.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::DATA_FORMS, name = "x")]
pub(in crate::xmpp) struct Form {
    #[xml(attribute = "type")]
    pub(in crate::xmpp) type_: String,
    #[xml(child(n = ..))]
    pub(in crate::xmpp) fields: Vec<Field>,
}

impl Form {
    /// The first value of this field.
    pub(in crate::xmpp) fn value(&self, var: &str) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.var.as_deref() == Some(var))?;
        field.values.first().map(String::as_str)
    }
}

/// `<query/>` of muc#owner: empty asks for the form.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = MUC_OWNER, name = "query")]
pub(in crate::xmpp) struct OwnerQuery {
    #[xml(child(default))]
    pub(in crate::xmpp) form: Option<Form>,
}

impl OwnerQuery {
    /// Declines the form: a room that was made goes away again.
    pub(in crate::xmpp) fn cancel() -> Self {
        Self { form: Some(Form { type_: "cancel".into(), fields: Vec::new() }) }
    }
}

/// `<query/>` of disco#info; only the features are read.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::DISCO_INFO, name = "query")]
pub(in crate::xmpp) struct DiscoInfo {
    #[xml(extract(n = .., name = "feature", fields(attribute(name = "var", type_ = String))))]
    pub(in crate::xmpp) features: Vec<String>,
}

/// `<item/>` of disco#items.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug)]
#[xml(namespace = ns::DISCO_ITEMS, name = "item")]
pub(in crate::xmpp) struct DiscoItem {
    #[xml(attribute)]
    pub(in crate::xmpp) jid: Jid,
    #[xml(attribute(default))]
    pub(in crate::xmpp) name: Option<String>,
}

/// `<query/>` of disco#items.
#[derive(FromXml, AsXml, Clone, PartialEq, Debug, Default)]
#[xml(namespace = ns::DISCO_ITEMS, name = "query")]
pub(in crate::xmpp) struct DiscoItems {
    #[xml(child(n = ..))]
    pub(in crate::xmpp) items: Vec<DiscoItem>,
}

#[cfg(test)]
mod tests {
    use xmpp_parsers::minidom::Element;

    use super::*;

    #[test]
    fn unknown_codes_and_bare_jids_do_no_harm() {
        let x: Element = "<x xmlns='http://jabber.org/protocol/muc#user'><status code='999'/><status code='110'/>\
             <status code='later'/><item affiliation='none' jid='a@example.org' new='thing'/><extension xmlns='urn:x'/></x>"
            .parse()
            .expect("XML");
        let x = MucUser::try_from(x).expect("muc#user");
        assert!(x.has(110) && !x.has(100));
        assert_eq!(x.items[0].jid, Some(Jid::new("a@example.org").expect("JID")));
        assert_eq!(x.items[0].affiliation, Some(Affiliation::None));
    }

    #[test]
    fn forms_keep_what_is_needed_of_any_field() {
        let form: Element = "<x xmlns='jabber:x:data' type='form'><title>Room</title><field type='fixed'><value>Section</value></field>\
             <field type='boolean' var='a' label='A'><desc>d</desc><value>1</value></field><field type='text-single' var='b'>\
             <option><value>odd</value></option></field></x>"
            .parse()
            .expect("XML");
        let form = Form::try_from(form).expect("a form");
        assert_eq!(form.value("a"), Some("1"));
        assert_eq!(form.value("b"), None);
        assert_eq!(form.fields.len(), 3);
    }
}
