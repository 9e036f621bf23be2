//! DKIM, ARC, SPF and DMARC: signatures and records that anybody may have written.

use std::net::IpAddr;

use futures_util::FutureExt as _;
use mail::auth::{
    AuthRequest, AuthResult, DkimKey, DkimSigner, SignedMessage, Zone, sign_dkim, verify, verify_arc, verify_dkim,
};
use mail::header::{Block, BlockLimits};

use crate::input::{assert_text, bit, steered};

const NOW: i64 = 1_700_000_000;

/// The input is DNS records, one a line, an empty line, then the message.
pub fn run(data: &[u8]) {
    let (steer, input) = steered(data);
    let end = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let (records, raw) = (&input[..end], input.get(end + 2..).unwrap_or_default());
    let zone = zone(records);
    let request = AuthRequest {
        raw,
        peer: IpAddr::from([192, 0, 2, 7]),
        helo: "mx.a.example",
        mail_from: bit(steer, 0).then_some("ann@a.example"),
        receiver: "mx.example.org",
        now: NOW,
    };
    let results = verify(&request, &zone).now_or_never().expect("a zone answers at once");
    let field = results.authentication_results_header("mx.example.org");
    let block = Block::scan(field.as_bytes(), BlockLimits { fields_max: 9, bytes_max: 1 << 20 });
    assert_eq!(block.fields.len(), 1, "the results became more than one field: {field:?}");
    assert_text("the results", &field);
    let stored = serde_json::to_value(&results).expect("they can be written");
    assert!(stored.to_string().len() <= 256 * 1024, "results without bound");
    let message = SignedMessage::split(raw);
    let dkim = verify_dkim(&message, NOW, &zone).now_or_never().expect("a zone answers at once");
    assert!(dkim.len() <= 20, "{} signatures looked at", dkim.len());
    let _ = verify_arc(&message, NOW, &zone).now_or_never().expect("a zone answers at once");
    what_we_sign_verifies(steer, raw);
}

fn zone(records: &[u8]) -> Zone {
    let names = ["sel._domainkey.a.example", "a.example", "_dmarc.a.example", "b.example", "mx.a.example"];
    let lines = records.split(|octet| *octet == b'\n');
    let zone = names.into_iter().zip(lines).fold(Zone::new(), |zone, (name, text)| zone.with_txt(name, text));
    zone.with_address("mx.a.example", IpAddr::from([192, 0, 2, 7])).with_mx("a.example", 10, "mx.a.example")
}

/// Whatever we sign we find right, and changed by one octet of its body we find wrong.
fn what_we_sign_verifies(steer: u8, raw: &[u8]) {
    let key = DkimKey::generate_ed25519([7; 32]).expect("a seed is a key");
    let signer = DkimSigner::new("a.example", "ours", key).expect("the names are names");
    let Ok(signed) = sign_dkim(raw, &[&signer], NOW) else { return };
    let zone = Zone::new().with_txt(&signer.record_name(), signer.record());
    let verdict = |bytes: &[u8]| {
        let message = SignedMessage::split(bytes);
        let verdicts = verify_dkim(&message, NOW, &zone).now_or_never().expect("a zone answers at once");
        verdicts.first().map(|verdict| verdict.result)
    };
    assert_eq!(verdict(&signed), Some(AuthResult::Pass), "what was signed does not verify");
    let mut changed = signed;
    let last = changed.len() - 3;
    if changed[last].is_ascii_graphic() && last > changed.len() - raw.len() + head_octets(raw) {
        changed[last] = if changed[last] == b'#' { b'$' } else { b'#' };
        assert_ne!(verdict(&changed), Some(AuthResult::Pass), "a changed body verifies ({steer})");
    }
}

fn head_octets(raw: &[u8]) -> usize {
    raw.windows(4).position(|four| four == b"\r\n\r\n").map_or(raw.len(), |at| at + 4)
}
