//! What the value of each key looks like, for whoever wrote another: what the TOML library says names types of this
//! program, and not always the key.

/// Key and form. Keys of tables have the table's name before them.
const FORMS: [(&str, &str); 49] = [
    ("tap", "a name or a list of names, like tap = \"ipop0\""),
    (
        "port",
        "a list of tables: the line [[port]], and below it kind = \"tap\" and name = \"ipop0\"",
    ),
    ("port.kind", "a kind of port, like kind = \"tap\""),
    ("port.name", "a name, like name = \"ipop0\""),
    ("bridge", "a name, like bridge = \"br0\""),
    ("address", "an address with its prefix, like address = \"10.9.0.1/24\""),
    ("listen", "an address and a port, like listen = \"[::]:5800\""),
    (
        "peer",
        "NODEID[@HOST:PORT] or a list of such, like peer = [\"4wsu7m6u...@hostb.example:5800\"]",
    ),
    ("state", "a directory, like state = \"/var/lib/ipop-switch\""),
    ("identity", "a file, like identity = \"/var/lib/ipop-switch/identity.pem\""),
    ("mtu", "a number of bytes without quotes, like mtu = 1500"),
    ("workers", "a number or \"auto\", like workers = 2"),
    ("congestion", "\"tunnel\" or \"cubic\", like congestion = \"tunnel\""),
    ("offload", "\"auto\" or \"off\", like offload = \"auto\""),
    ("busy_poll", "a number of microseconds without quotes, like busy_poll = 50"),
    ("instance", "a name, like instance = \"ipop-switch\""),
    ("api", "a socket's path or \"off\", like api = \"/run/ipop-switch/ipop-switch.sock\""),
    ("controller", "\"room\" or \"external\", like controller = \"external\""),
    ("api_listen", "an address and a port, like api_listen = \"127.0.0.1:5801\""),
    ("api_token_file", "a file, like api_token_file = \"/etc/ipop-switch/api.token\""),
    ("log_format", "\"text\" or \"json\", like log_format = \"json\""),
    ("api_group", "the name of a group, like api_group = \"netops\""),
    ("api_group_read", "the name of a group, like api_group_read = \"monitoring\""),
    ("metrics_peers", "true or false without quotes, like metrics_peers = true"),
    ("log", "a level, like log = \"info\""),
    ("name", "a name in quotes, like name = \"site-a\""),
    ("xmpp", "a table: the line [xmpp], and below it its keys, like jid = \"site-a@example.org\""),
    ("xmpp.jid", "an account, like jid = \"site-a@example.org\""),
    ("xmpp.password", "a text in quotes, like password = \"...\""),
    ("xmpp.password_file", "a file, like password_file = \"/etc/ipop-switch/xmpp.password\""),
    ("xmpp.server", "HOST:PORT, like server = \"xmpp.example.org:5222\""),
    ("xmpp.ca", "a file, like ca = \"/etc/ipop-switch/ca.pem\""),
    ("xmpp.pin", "a pin or a list of two, like pin = \"sha256:...\""),
    ("xmpp.allow_plain", "true or false without quotes, like allow_plain = false"),
    (
        "network",
        "a table: the line [network], and below it its keys, like room = \"vmnet@muc.example.org\"",
    ),
    ("network.room", "a room, like room = \"vmnet@muc.example.org\""),
    ("network.secret_file", "a file, like secret_file = \"/etc/ipop-switch/network.secret\""),
    ("network.trust", "\"secret\", \"pinned\" or \"tofu\", like trust = \"secret\""),
    ("network.join", "the join token in quotes, like join = \"ipop1...\""),
    ("network.pinned", "a list of node ids, like pinned = [\"4wsu7m6u...\"]"),
    ("network.new_nodes", "\"wait\" or \"accept\", like new_nodes = \"wait\""),
    ("ice", "a table: the line [ice], and below it its keys, like stun = [\"stun.example.org\"]"),
    ("ice.stun", "HOST[:PORT] or a list of such, like stun = [\"stun.example.org\"]"),
    (
        "ice.turn",
        "a list of tables, like turn = [{ server = \"turn.example.org\", username = \"u\", password_file = \"FILE\" }]",
    ),
    ("ice.turn.server", "HOST[:PORT], like server = \"turn.example.org\""),
    ("ice.turn.username", "a name in quotes, like username = \"u\""),
    ("ice.turn.password", "a text in quotes, like password = \"...\""),
    ("ice.turn.password_file", "a file, like password_file = \"/etc/ipop-switch/turn.password\""),
    ("ice.ignore_interfaces", "a name or a list of names, like ignore_interfaces = \"docker*\""),
];

/// The key that the value after `before` belongs to, and what it should look like. `line` is the line in which `before`
/// ends.
pub(super) fn at(before: &str, line: &str) -> Option<(&'static str, &'static str)> {
    let mut place = Place::default();
    place.read(before);
    if place.keys.is_empty() {
        place.read_key_of(line);
    }
    let keys = place.table.iter().chain(&place.keys).map(String::as_str).collect::<Vec<_>>();
    let path = keys.join(".");
    FORMS.into_iter().find(|(key, _)| *key == path)
}

/// Where in a TOML text one is, as far as is needed to name the key.
#[derive(Default)]
struct Place {
    /// Of the last header.
    table: Option<String>,
    /// The keys whose values one is in, those of inline tables last.
    keys: Vec<String>,
    /// Tables and lists that are open.
    open: Vec<char>,
    /// What may become a key.
    word: String,
}

impl Place {
    fn read(&mut self, text: &str) {
        let mut skipped_to = None;
        for c in text.chars() {
            match c {
                // A text that is not closed ends with its line.
                '\n' => {
                    skipped_to = None;
                    self.end_line();
                }
                c if skipped_to.is_some() => skipped_to = skipped_to.filter(|end| *end != c),
                '"' | '\'' => skipped_to = Some(c),
                '#' => skipped_to = Some('\n'),
                '[' if self.keys.is_empty() && self.word.is_empty() => self.word.push('['),
                '=' => {
                    let depth = self.open.iter().filter(|open| **open == '{').count();
                    self.keys.truncate(depth);
                    self.keys.push(std::mem::take(&mut self.word));
                }
                '[' | '{' => self.open.push(c),
                ']' | '}' => drop(self.open.pop()),
                c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') => self.word.push(c),
                c if c.is_whitespace() => {}
                _ => self.word.clear(),
            }
        }
    }

    /// A list goes on in the next line; a header and a value do not.
    fn end_line(&mut self) {
        if let Some(header) = self.word.strip_prefix('[') {
            self.table = Some(name_of(header));
            self.open.clear();
        }
        if self.open.is_empty() {
            self.keys.clear();
            self.word.clear();
        }
    }

    /// One is before a value, at a key or at a header.
    fn read_key_of(&mut self, line: &str) {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            self.table = Some(name_of(header));
        } else if let Some((key, _)) = line.split_once('=') {
            self.keys.push(key.trim().to_owned());
        }
    }
}

/// The name in a header, without what stands around it.
fn name_of(header: &str) -> String {
    let name = header.trim_start_matches('[').split(']').next().unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_whatever_stands_before_it() {
        for (text, key) in [
            ("mtu = ", "mtu"),
            ("tap = \"mtu = \" # [ice]\nmtu = ", "mtu"),
            ("peer = [\n  'a@b=c', # x = {\n  ", "peer"),
            ("peer = [\n  'a',\n]\n[xmpp]\n# jid\njid = ", "xmpp.jid"),
            ("xmpp = { jid = 'a@b', password = ", "xmpp.password"),
            ("xmpp = { jid = 'a@b' }\nmtu = ", "mtu"),
            ("[ ice ]\nturn = [{ server = 'x' }, { server = ", "ice.turn.server"),
            ("[[ice.turn]]\nserver = 'x'\n[network]\nroom = ", "network.room"),
            ("network.trust = ", "network.trust"),
            ("mtu = 5 # x\n[xmpp] # = [\njid = ", "xmpp.jid"),
            ("name = 'it is open\nmtu = ", "mtu"),
        ] {
            assert_eq!(at(text, "").map(|(key, _)| key), Some(key), "{text}");
        }
        assert_eq!(at("nonsense = ", ""), None);
        assert_eq!(at("", "mtu = 5").map(|(key, _)| key), Some("mtu"));
        assert_eq!(at("[ice]\n", "[xmpp]").map(|(key, _)| key), Some("xmpp"));
    }
}
