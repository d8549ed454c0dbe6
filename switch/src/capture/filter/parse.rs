//! Text to filter: words and parentheses, `not` before `and` before `or`.
//!
//! ```text
//! any     = both { "or" both }
//! both    = one { "and" one }
//! one     = "not" one | "(" any ")" | primary
//! ```

use std::{net::IpAddr, str::FromStr};

use super::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, End, Filter, Network, Primary, Protocol,
};

/// The longest filter, characters.
pub(crate) const MAX_LEN: usize = 1_024;
/// How deep parentheses and `not` may stand in one another.
const MAX_DEPTH: usize = 32;

const PRIMARIES: &str = "mac, ether, arp, ip, ip6, host, port, tcp, udp, icmp, broadcast, multicast, src, dst, not or (";

/// Where a filter is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: expected {expected}, found {found}")]
pub(crate) struct FilterError {
    /// Counts characters from 1.
    pub(crate) column: usize,
    /// What should stand there.
    pub(crate) expected: &'static str,
    /// What does.
    pub(crate) found: String,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if text.chars().nth(MAX_LEN).is_some() {
            return Err(FilterError {
                column: MAX_LEN + 1,
                expected: "a filter of at most 1,024 characters",
                found: "more".into(),
            });
        }
        let mut parser = Parser { words: words(text), next: 0, end: text.chars().count() + 1 };
        let filter = parser.any(0)?;
        match parser.peek() {
            None => Ok(filter),
            Some(_) => Err(parser.error("and, or, or the end")),
        }
    }
}

/// A word or a parenthesis.
struct Word<'a> {
    text: &'a str,
    column: usize,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word<'_>> = Vec::new();
    // Where the word begins that goes on.
    let mut begun: Option<(usize, usize)> = None;
    for (column, (at, character)) in text.char_indices().enumerate() {
        let is_parenthesis = matches!(character, '(' | ')');
        if !character.is_whitespace() && !is_parenthesis {
            begun.get_or_insert((at, column + 1));
            continue;
        }
        words.extend(begun.take().map(|(from, column)| Word { text: &text[from..at], column }));
        if is_parenthesis {
            words.push(Word { text: &text[at..=at], column: column + 1 });
        }
    }
    words.extend(begun.map(|(from, column)| Word { text: &text[from..], column }));
    words
}

struct Parser<'a> {
    words: Vec<Word<'a>>,
    next: usize,
    /// The column behind the text.
    end: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut filter = self.both(depth)?;
        while self.take("or") {
            filter = Filter::Or(Box::new(filter), Box::new(self.both(depth)?));
        }
        Ok(filter)
    }

    fn both(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut filter = self.one(depth)?;
        while self.take("and") {
            filter = Filter::And(Box::new(filter), Box::new(self.one(depth)?));
        }
        Ok(filter)
    }

    fn one(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_DEPTH {
            return Err(self.error("at most 32 levels of parentheses and not"));
        }
        if self.take("not") {
            return Ok(Filter::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let filter = self.any(depth + 1)?;
            return if self.take(")") { Ok(filter) } else { Err(self.error("and, or, or )")) };
        }
        self.primary().map(Filter::Is)
    }

    fn primary(&mut self) -> Result<Primary, FilterError> {
        let end = if self.take("src") {
            End::Source
        } else if self.take("dst") {
            End::Destination
        } else {
            End::Either
        };
        let word = self.peek();
        self.next += 1;
        match word {
            Some("mac") => {
                let mac = self.value("a MAC address like 52:54:00:12:34:56", |it| it.parse().ok());
                Ok(Primary::Mac(end, mac?))
            }
            Some("host") => {
                let network =
                    self.value("an address like 10.0.0.1, 10.0.0.0/24 or fd00::/64", network);
                Ok(Primary::Host(end, network?))
            }
            Some("port") => {
                let port = self.value("a port from 0 to 65535", |it| it.parse().ok());
                Ok(Primary::Port(end, port?))
            }
            other => match other.filter(|_| end == End::Either).and_then(plain) {
                Some(primary) => Ok(primary),
                None if other == Some("ether") && end == End::Either => {
                    self.value("a type like 0x0806", ethertype).map(Primary::Ether)
                }
                None => {
                    self.next -= 1;
                    let either = end == End::Either;
                    Err(self.error(if either { PRIMARIES } else { "mac, host or port" }))
                }
            },
        }
    }

    /// The next word, read as this.
    fn value<T>(
        &mut self,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, FilterError> {
        let value = self.peek().and_then(read).ok_or_else(|| self.error(expected))?;
        self.next += 1;
        Ok(value)
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|word| word.text)
    }

    fn take(&mut self, text: &str) -> bool {
        let is_next = self.peek() == Some(text);
        self.next += usize::from(is_next);
        is_next
    }

    /// The next word is wrong.
    fn error(&self, expected: &'static str) -> FilterError {
        match self.words.get(self.next) {
            Some(Word { text, column }) => {
                FilterError { column: *column, expected, found: format!("{text:?}") }
            }
            None => FilterError { column: self.end, expected, found: "the end".into() },
        }
    }
}

/// A primary that is one word.
fn plain(word: &str) -> Option<Primary> {
    Some(match word {
        "arp" => Primary::Ether(ETHERTYPE_ARP),
        "ip" => Primary::Ether(ETHERTYPE_IPV4),
        "ip6" => Primary::Ether(ETHERTYPE_IPV6),
        "tcp" => Primary::Protocol(Protocol::Tcp),
        "udp" => Primary::Protocol(Protocol::Udp),
        "icmp" => Primary::Protocol(Protocol::Icmp),
        "broadcast" => Primary::Broadcast,
        "multicast" => Primary::Multicast,
        _ => return None,
    })
}

fn ethertype(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'))?;
    u16::from_str_radix(digits, 16).ok()
}

fn network(text: &str) -> Option<Network> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix_len = len.unwrap_or(longest);
    (prefix_len <= longest).then_some(Network { address, prefix_len })
}
