use proptest::prelude::*;

use super::*;

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='1' from='example.org'>";

fn small() -> Limits {
    Limits { stanza_bytes: 2_000, stanza_depth: 5, stanza_elements: 20, ..Limits::default() }
}

/// Everything in `text`, read in pieces of `piece_len`.
fn read_all(text: &[u8], piece_len: usize) -> Result<Vec<Item>, XmlFault> {
    let mut reader = StreamReader::new(&small());
    let mut items = Vec::new();
    for mut piece in text.chunks(piece_len) {
        while let Some(item) = reader.read(&mut piece)? {
            items.push(item);
        }
        assert!(piece.is_empty());
    }
    Ok(items)
}

fn elements(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Element(element) => Some(String::from(element)),
            _ => None,
        })
        .collect()
}

#[test]
fn pieces_of_any_length_give_the_same_items() {
    let text = format!(
        "{HEADER} \n<message to='a@b'><body>1 &lt; 2 &amp; 3</body></message><a/>\n<presence><x xmlns='urn:x' a='&quot;'/>\
         </presence></stream:stream>"
    );
    let whole = read_all(text.as_bytes(), text.len()).unwrap();
    assert!(matches!(whole[0], Item::Header) && matches!(whole.last(), Some(Item::Footer)));
    let expected = elements(&whole);
    assert_eq!(expected.len(), 3, "{expected:?}");
    assert!(expected[0].contains("1 &lt; 2 &amp; 3"), "{expected:?}");
    for piece_len in 1..40 {
        let items = read_all(text.as_bytes(), piece_len).unwrap();
        assert_eq!(elements(&items), expected);
        assert_eq!(items.len(), whole.len());
    }
}

#[test]
fn an_element_is_given_as_soon_as_it_is_complete() {
    let mut reader = StreamReader::new(&small());
    let mut header = HEADER.as_bytes();
    assert!(matches!(reader.read(&mut header), Ok(Some(Item::Header))));
    let mut stanza = "<iq type='get' id='1'/>".as_bytes();
    assert!(matches!(reader.read(&mut stanza), Ok(Some(Item::Element(_)))));
}

#[test]
fn stanzas_of_too_many_bytes_are_refused_before_they_end() {
    for (open, filler) in
        [("<m>", "x"), ("<m>", "<a b='c'/>x"), ("<m ", "a "), ("<m a='", "x"), ("<", "m")]
    {
        let mut text = format!("{HEADER}{open}");
        while text.len() < HEADER.len() + 10_000 {
            text.push_str(filler);
        }
        for piece_len in [1, 7, 5_000] {
            let error = read_all(text.as_bytes(), piece_len).unwrap_err();
            let expected = matches!(
                error,
                XmlFault::TooLong { .. }
                    | XmlFault::TooManyElements { .. }
                    | XmlFault::Malformed(_)
            );
            assert!(expected, "{open}{filler}: {error:?}");
        }
    }
    let endless_text = format!("{HEADER}<m>{}", "x".repeat(5_000));
    assert_eq!(
        read_all(endless_text.as_bytes(), 100).unwrap_err(),
        XmlFault::TooLong { limit: 2_000 }
    );
}

#[test]
fn the_limits_count_each_stanza_by_itself() {
    let stanza = format!("<m>{}</m>", "x".repeat(1_900));
    let text = format!("{HEADER}{}", stanza.repeat(10));
    assert_eq!(elements(&read_all(text.as_bytes(), 333).unwrap()).len(), 10);
    let spaces = format!("{HEADER}{}<a/>", " ".repeat(100_000));
    assert_eq!(elements(&read_all(spaces.as_bytes(), 1_000).unwrap()).len(), 1);
}

#[test]
fn depth_and_count_of_elements_are_limited() {
    let nested = |depth: usize| format!("{HEADER}{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert_eq!(elements(&read_all(nested(5).as_bytes(), 64).unwrap()).len(), 1);
    assert_eq!(read_all(nested(6).as_bytes(), 64).unwrap_err(), XmlFault::TooDeep { limit: 5 });
    let wide = |count: usize| format!("{HEADER}<a>{}</a>", "<b/>".repeat(count - 1));
    assert_eq!(elements(&read_all(wide(20).as_bytes(), 64).unwrap()).len(), 1);
    assert_eq!(
        read_all(wide(21).as_bytes(), 64).unwrap_err(),
        XmlFault::TooManyElements { limit: 20 }
    );
}

#[test]
fn what_xmpp_forbids_is_malformed() {
    for text in [
        "<a></b>",
        "<a",
        "&bogus;",
        "<!-- comment -->",
        "<?target?>",
        "<!DOCTYPE a>",
        "text",
        "<a b='1' b='2'/>",
        "<x:a/>",
        "<a>&#0;</a>",
        "<a>\u{1}</a>",
    ] {
        let result = read_all(format!("{HEADER}{text}").as_bytes(), 3);
        match text {
            "<a" => assert!(result.is_ok_and(|items| elements(&items).is_empty())),
            _ => assert!(matches!(result, Err(XmlFault::Malformed(_))), "{text}"),
        }
    }
    assert!(matches!(read_all(b"\x16\x03\x01\x02\x00", 5), Err(XmlFault::Malformed(_))));
    assert!(matches!(read_all(b"HTTP/1.1 400 Bad Request\r\n", 9), Err(XmlFault::Malformed(_))));
    assert!(matches!(
        read_all(b"<m>\xff\xfe</m>", 9),
        Err(XmlFault::NotAStream(_) | XmlFault::Malformed(_))
    ));
}

#[test]
fn other_documents_are_not_streams() {
    for text in [
        "<html xmlns='http://www.w3.org/1999/xhtml'>",
        "<stream xmlns='jabber:client'>",
        "<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>",
        "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='2.0'>",
    ] {
        assert!(matches!(read_all(text.as_bytes(), 11), Err(XmlFault::NotAStream(_))), "{text}");
    }
}

#[test]
fn the_own_header_is_one_that_is_accepted() {
    let items = read_all(&header("example.org"), 10).unwrap();
    assert!(matches!(items[..], [Item::Header]));
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, and the same verdict.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), piece_len in 1..64usize) {
        let _ = read_all(&bytes, piece_len);
    }

    #[test]
    fn any_markup_is_survived(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "<a>", "</a>", "<b x='y'/>", "<", ">", "/", "'", "&amp;", "&#x41;", "&", "]]>", "<![CDATA[", "text", " ",
                "<stream:error>", "</stream:error>", "</stream:stream>", "xmlns='urn:x'", "xmlns:p='urn:p'", "<p:q ", "?>",
            ]),
            0..80,
        ),
        piece_len in 1..64usize,
    ) {
        let text = format!("{HEADER}{}", parts.concat());
        let whole = read_all(text.as_bytes(), text.len());
        let pieces = read_all(text.as_bytes(), piece_len);
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => prop_assert_eq!(elements(&whole), elements(&pieces)),
            // The words may differ: in pieces a fault may be noticed earlier.
            (whole, pieces) => prop_assert_eq!(whole.is_err(), pieces.is_err()),
        }
    }
}
