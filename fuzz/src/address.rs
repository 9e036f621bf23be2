//! Addresses, paths, patterns and names: what is read is written so that it reads the same.

use mail::address::{Address, ForwardPath, ReversePath, SenderPattern, normalise_domain};
use mail::header::{Parameterised, addresses, decode_words, message_ids};
use mail::message::{decode_base64, decode_quoted_printable, sanitize_filename};
use mail::smtp::Command;

use crate::input::{assert_line, assert_text};

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(address) = Address::parse(&text) {
        assert_address(&address);
    }
    if let Ok(path) = ReversePath::parse(&text) {
        path.address().inspect(|address| assert_address(address));
    }
    if let Ok(path) = ForwardPath::parse(&text) {
        path.address().inspect(|address| assert_address(address));
    }
    if let Ok(pattern) = SenderPattern::parse(&text) {
        assert_eq!(SenderPattern::parse(pattern.as_str()).expect("it reads back"), pattern);
    }
    if let Ok(domain) = normalise_domain(&text) {
        assert_eq!(normalise_domain(&domain).expect("it reads back"), domain);
    }
    let (people, _) = addresses(&text, 20);
    assert!(people.len() <= 20);
    for person in &people {
        assert_line("an address", &person.email);
    }
    assert_text("decoded words", &decode_words(&text));
    let parameterised = Parameterised::parse(&text);
    assert_text("a value", &parameterised.value);
    if let Some(name) = sanitize_filename(&text) {
        assert_line("a file name", &name);
        assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
        assert_eq!(sanitize_filename(&name).as_deref(), Some(name.as_str()), "a clean name is clean");
    }
    assert!(decode_base64(data).len() <= data.len() && decode_quoted_printable(data).len() <= data.len() + 2);
    for id in message_ids(data) {
        assert_line("an id", &id);
    }
    if let Err(refused) = Command::parse(data) {
        assert!((500..=555).contains(&refused.reply().code()));
    }
}

fn assert_address(address: &Address) {
    let text = address.as_str();
    assert_line("an address", text);
    assert!(text.len() <= 640 && !text.contains(' ') || text.contains('"'), "{text:?}");
    let again = Address::parse(text).expect("it reads back");
    assert_eq!(&again, address);
    assert_eq!(again.canonical(), address.canonical());
    let canonical = Address::parse(&address.canonical()).expect("the canonical form is an address");
    assert_eq!(canonical.canonical(), address.canonical(), "the canonical form is canonical");
    if let Some(bare) = address.without_tag() {
        assert_eq!(bare.tag(), None, "{text:?}");
    }
}
