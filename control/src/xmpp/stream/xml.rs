//! Cuts the server's bytes into the stream's header, elements and footer, and never holds more than the limits allow.
//!
//! One instance reads one XML document: after TLS and after authentication a new one begins. Entities, comments and
//! processing instructions are errors by the parser's own rules (RFC 6120 section 11.1). A parser keeps pieces of what
//! is not complete yet, so bytes are counted as they go in, not as elements come out.

use rxml::{AttrMap, Event, Parse, Parser, WithOptions, error::EndOrError};
use xmpp_parsers::{minidom::Element, ns};
use xso::{AsXml, Context, FromEventsBuilder, minidom_compat::ElementFromEvents};

use super::{Limits, failure::printable};

/// The longest name or attribute value, in bytes. Longer text comes in pieces, which costs nothing.
const MAX_TOKEN_LEN: usize = 8 * 1024;
/// What is handed to the parser at once, so that a limit is noticed soon after it is passed.
const CHUNK_LEN: usize = 4 * 1024;

/// What a stream consists of.
#[derive(Debug)]
pub(super) enum Item {
    /// `<stream:stream ...>`
    Header,
    /// A child of it, complete.
    Element(Element),
    /// `</stream:stream>`
    Footer,
}

/// What came is not a stream, or too much of one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum XmlFault {
    /// Not well-formed, or with features that XMPP forbids.
    #[error("sent something that is not XMPP's XML ({0})")]
    Malformed(String),
    /// A well-formed document, but not a stream.
    #[error("opened something that is not an XMPP 1.0 stream ({0})")]
    NotAStream(String),
    /// A stanza of too many bytes.
    #[error("sent a stanza of more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A stanza that nests too deeply.
    #[error("sent a stanza that nests more than {limit} deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A stanza of too many elements.
    #[error("sent a stanza of more than {limit} elements")]
    TooManyElements {
        /// The limit.
        limit: usize,
    },
}

/// Reads one document.
pub(super) struct StreamReader {
    parser: Parser,
    stanza: Option<ElementFromEvents>,
    /// 0 before the header, 1 between stanzas.
    depth: usize,
    elements: usize,
    /// Bytes since the last item.
    bytes: usize,
    max_bytes: usize,
    max_depth: usize,
    max_elements: usize,
}

impl StreamReader {
    pub(super) fn new(limits: &Limits) -> Self {
        let max_token_length = MAX_TOKEN_LEN.min(limits.stanza_bytes);
        let options = rxml::Options { max_token_length, ..rxml::Options::default() };
        let mut parser = Parser::with_options(options);
        // White space between stanzas keeps the connection alive; kept back, it would be no sign of life.
        parser.set_text_buffering(false);
        Self {
            parser,
            stanza: None,
            depth: 0,
            elements: 0,
            bytes: 0,
            max_bytes: limits.stanza_bytes,
            max_depth: limits.stanza_depth,
            max_elements: limits.stanza_elements,
        }
    }

    /// Reads on in `bytes` and takes off what it has read. `None` when all of it is read and nothing is complete; to be
    /// called until then.
    pub(super) fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Item>, XmlFault> {
        loop {
            let mut chunk = &bytes[..bytes.len().min(CHUNK_LEN)];
            let chunk_len = chunk.len();
            let event = self.parser.parse(&mut chunk, false);
            let read = chunk_len - chunk.len();
            *bytes = &bytes[read..];
            self.bytes += read;
            if self.bytes > self.max_bytes {
                return Err(XmlFault::TooLong { limit: self.max_bytes });
            }
            match event {
                Ok(Some(event)) => {
                    if let Some(item) = self.event(event)? {
                        self.bytes = 0;
                        return Ok(Some(item));
                    }
                }
                Ok(None) => return Ok(None),
                Err(EndOrError::NeedMoreData) if bytes.is_empty() => return Ok(None),
                Err(EndOrError::NeedMoreData) if read > 0 => {}
                Err(EndOrError::NeedMoreData) => {
                    return Err(XmlFault::Malformed("the parser is stuck".to_owned()));
                }
                Err(EndOrError::Error(error)) => {
                    return Err(XmlFault::Malformed(printable(&error.to_string())));
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<Option<Item>, XmlFault> {
        match (self.depth, event) {
            (_, Event::XmlDeclaration(..)) => Ok(None),
            (0, Event::StartElement(_, (namespace, name), attributes)) => {
                if namespace.as_str() != ns::STREAM || name.as_str() != "stream" {
                    let what = printable(&format!("<{}>", name.as_str()));
                    return Err(XmlFault::NotAStream(what));
                }
                check_version(&attributes)?;
                self.depth = 1;
                Ok(Some(Item::Header))
            }
            (1, Event::StartElement(_, name, attributes)) => {
                self.depth = 2;
                self.elements = 1;
                self.stanza = Some(ElementFromEvents::new(name, attributes));
                self.parser.set_text_buffering(true);
                Ok(None)
            }
            (0, Event::Text(..)) => Ok(None),
            (1, Event::Text(_, text)) => {
                if !xso::is_xml_whitespace(&text) {
                    return Err(XmlFault::Malformed("text between stanzas".to_owned()));
                }
                self.bytes = 0;
                Ok(None)
            }
            (0 | 1, Event::EndElement(_)) => {
                self.depth = 0;
                Ok(Some(Item::Footer))
            }
            (_, event) => self.inside(event),
        }
    }

    /// An event inside a stanza.
    fn inside(&mut self, event: Event) -> Result<Option<Item>, XmlFault> {
        match &event {
            Event::StartElement(..) => {
                self.depth += 1;
                self.elements += 1;
                // The stream's own element is not the stanza's.
                if self.depth - 1 > self.max_depth {
                    return Err(XmlFault::TooDeep { limit: self.max_depth });
                }
                if self.elements > self.max_elements {
                    return Err(XmlFault::TooManyElements { limit: self.max_elements });
                }
            }
            Event::EndElement(_) => self.depth -= 1,
            Event::Text(..) | Event::XmlDeclaration(..) => {}
        }
        let Some(stanza) = &mut self.stanza else { return Ok(None) };
        let done = stanza
            .feed(event, &Context::empty())
            .map_err(|error| XmlFault::Malformed(printable(&error.to_string())))?;
        Ok(done.map(|element| {
            self.stanza = None;
            self.parser.set_text_buffering(false);
            self.parser.release_temporaries();
            Item::Element(element)
        }))
    }
}

fn check_version(attributes: &AttrMap) -> Result<(), XmlFault> {
    let version = attributes.get(&rxml::Namespace::NONE, "version").map_or("none", String::as_str);
    // RFC 6120 section 4.7.5: a higher minor version is to be accepted.
    match version.split_once('.') {
        Some(("1", _)) => Ok(()),
        _ => Err(XmlFault::NotAStream(printable(&format!("version {version}")))),
    }
}

/// The header of a stream from a client to `domain`.
pub(super) fn header(domain: &str) -> Vec<u8> {
    let mut text = b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
        xmlns:stream='http://etherx.jabber.org/streams' version='1.0' xml:lang='en' to='"
        .to_vec();
    text.extend_from_slice(&xmpp_parsers::minidom::element::escape(domain.as_bytes()));
    text.extend_from_slice(b"'>");
    text
}

/// The end of a stream.
pub(super) const FOOTER: &[u8] = b"</stream:stream>";

/// Writes an element of the stream, or nothing if it holds what XML cannot express.
pub(super) fn write(element: &impl AsXml, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    let bytes = xso::to_vec(element).map_err(|_| Unwritable)?;
    out.extend_from_slice(&bytes);
    Ok(())
}

/// A text holds characters that XML cannot express.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwritable;

#[cfg(test)]
#[path = "xml/tests.rs"]
mod tests;
