use proptest::prelude::*;

use super::*;

const AT_SECONDS: i64 = 1_900_000_000;
const BODY: &str = r#"{"id":"evt_0a1b2c3d4e5f","type":"message.received","team_public_id":"team_1","data":{"sender":"bob@example.org","n":"é"}}"#;

fn attempt(body: &[u8]) -> Attempt<'_> {
    Attempt {
        event_id: "evt_0a1b2c3d4e5f",
        event_type: "message.received",
        number: 3,
        at_micros: AT_SECONDS * 1_000_000 + 999_999,
        body,
    }
}

fn secret(seed: u8) -> Secret {
    Secret::from_random(&[seed; 32]).expect("32 bytes are enough")
}

fn get<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Secret, `webhook-signature` as the Python reference library 1.1.0 makes it, and the native signature as Python's
/// own `hmac` makes it, for [`BODY`] at [`AT_SECONDS`].
const VECTORS: [(&str, &str, &str); 3] = [
    (
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "v1,U2ZkPYWZhTWRcB17v3tz0xHl1At+IJN8qlYxYTef8rU=",
        "sha256=bbaf7d7d6ca9b4ad08ddce1fb35a85712c73a343791043677d7afd2f9d26b4d2",
    ),
    (
        "whsec_yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f",
        "v1,tUthI+QS5djILT10fmC1QF+2uqmJBEOE29OiwkRpHw0=",
        "sha256=879b856b38dd1098848deba93527783b6d85b7f2aaaaacca4f037354a004aeb7",
    ),
    (
        "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw==",
        "v1,AFzT10I1BsdrBt+2Bh3PRvb/rv1e09jL63DM438KXKw=",
        "sha256=93c19d8af1f972b00465d29c9859b0b6ed55229d514d23d92a84a8f4c93d2e57",
    ),
];

#[test]
fn signatures_are_those_of_independent_implementations() {
    for (text, standard, native) in VECTORS {
        let secret = Secret::parse(text).expect("a valid secret");
        let headers = headers(&attempt(BODY.as_bytes()), &secret, &[]).expect("a valid attempt");
        assert_eq!(get(&headers, "webhook-signature"), standard);
        assert_eq!(get(&headers, "x-sendmux-signature"), native);
        assert_eq!(get(&headers, "x-sendmux-event-id"), "evt_0a1b2c3d4e5f");
        assert_eq!(get(&headers, "x-sendmux-event-type"), "message.received");
        assert_eq!(get(&headers, "x-sendmux-delivery-attempt"), "3");
        assert_eq!(get(&headers, "webhook-id"), "evt_0a1b2c3d4e5f");
        assert_eq!(get(&headers, "webhook-timestamp"), "1900000000");
        assert_eq!(headers.len(), 7);
    }
}

#[test]
fn during_a_rotation_each_secret_verifies_the_standard_signature() {
    let (current, previous, stranger) = (secret(1), secret(2), secret(3));
    let body = BODY.as_bytes();
    let headers = headers(&attempt(body), &current, std::slice::from_ref(&previous)).expect("a valid attempt");
    assert_eq!(get(&headers, "webhook-signature").split(' ').count(), 2);
    let standard = |secret| verify_standard(secret, &headers, body, AT_SECONDS, TOLERANCE_SECONDS);
    assert_eq!(standard(&current), Ok(()));
    assert_eq!(standard(&previous), Ok(()));
    assert_eq!(standard(&stranger), Err(Unverified::Signature));
    assert_eq!(verify_native(&current, &headers, body), Ok(()));
    assert_eq!(verify_native(&previous, &headers, body), Err(Unverified::Signature));
}

#[test]
fn an_attempt_is_believed_within_the_tolerance_only() {
    let secret = secret(1);
    let headers = headers(&attempt(b"{}"), &secret, &[]).expect("a valid attempt");
    let at = |now| verify_standard(&secret, &headers, b"{}", now, TOLERANCE_SECONDS);
    assert_eq!(at(AT_SECONDS + 300), Ok(()));
    assert_eq!(at(AT_SECONDS - 300), Ok(()));
    assert_eq!(at(AT_SECONDS + 301), Err(Unverified::Timestamp));
    assert_eq!(at(AT_SECONDS - 301), Err(Unverified::Timestamp));
    assert_eq!(at(i64::MIN), Err(Unverified::Timestamp));
}

#[test]
fn a_missing_or_malformed_header_is_named() {
    let secret = secret(1);
    let signed = headers(&attempt(b"{}"), &secret, &[]).expect("a valid attempt");
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let mut headers = signed.clone();
        headers.remove(name);
        let verified = verify_standard(&secret, &headers, b"{}", AT_SECONDS, TOLERANCE_SECONDS);
        assert_eq!(verified, Err(Unverified::Header(name)));
    }
    let with = |value| {
        let mut headers = signed.clone();
        headers.insert(X_SENDMUX_SIGNATURE, HeaderValue::from_static(value));
        verify_native(&secret, &headers, b"{}")
    };
    assert_eq!(with(""), Err(Unverified::Header("x-sendmux-signature")));
    assert_eq!(with("sha1=00"), Err(Unverified::Header("x-sendmux-signature")));
    assert_eq!(with("sha256="), Err(Unverified::Signature));
}

#[test]
fn a_secret_has_24_to_64_bytes_and_a_prefix() {
    for length in [24, 32, 64] {
        let secret = Secret::from_random(&vec![0xa5; length]).expect("an accepted length");
        let read = Secret::parse(secret.expose()).expect("what we minted");
        assert_eq!(read.expose(), secret.expose());
        assert_eq!(*read.key, *secret.key);
    }
    let refused = |text: &str| Secret::parse(text).err();
    for length in [0, 23, 65] {
        assert_eq!(Secret::from_random(&vec![1; length]).err(), Some(InvalidSecret::Length));
        assert_eq!(refused(&format!("whsec_{}", STANDARD.encode(vec![1; length]))), Some(InvalidSecret::Length));
    }
    assert_eq!(refused("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), Some(InvalidSecret::Prefix));
    assert_eq!(refused("WHSEC_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), Some(InvalidSecret::Prefix));
    assert_eq!(refused("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"), Some(InvalidSecret::Encoding));
    assert_eq!(refused("whsec_ AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), Some(InvalidSecret::Encoding));
}

#[test]
fn a_secret_never_prints_itself() {
    assert_eq!(format!("{:?}", secret(1)), "Secret(..)");
}

#[test]
fn fields_that_would_break_the_headers_or_the_signed_text_are_refused() {
    let secret = secret(1);
    let good = attempt(b"{}");
    let long = "e".repeat(129);
    for event_id in ["", "evt.1", "evt 1", "evt\r\nx: y", "évt", long.as_str()] {
        assert_eq!(headers(&Attempt { event_id, ..good }, &secret, &[]), Err(InvalidAttempt::EventId), "{event_id}");
    }
    for event_type in ["", "Message.Received", "a b", "a\nb", "a-b", long.as_str()] {
        let signed = headers(&Attempt { event_type, ..good }, &secret, &[]);
        assert_eq!(signed, Err(InvalidAttempt::EventType), "{event_type}");
    }
    assert_eq!(headers(&Attempt { at_micros: -1, ..good }, &secret, &[]), Err(InvalidAttempt::At));
}

proptest! {
    #[test]
    fn what_was_signed_verifies_and_any_flipped_bit_fails(
        key in prop::collection::vec(any::<u8>(), 24..=64),
        body in prop::collection::vec(any::<u8>(), 1..300),
        at in 0i64..4_000_000_000,
        flip in any::<prop::sample::Index>(),
    ) {
        let secret = Secret::from_random(&key).expect("an accepted length");
        let signed = Attempt { at_micros: at * 1_000_000, body: &body, ..attempt(&[]) };
        let headers = headers(&signed, &secret, &[]).expect("a valid attempt");
        prop_assert_eq!(verify_native(&secret, &headers, &body), Ok(()));
        prop_assert_eq!(verify_standard(&secret, &headers, &body, at, 0), Ok(()));

        let mut forged = body.clone();
        let bit = flip.index(forged.len() * 8);
        forged[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(verify_native(&secret, &headers, &forged), Err(Unverified::Signature));
        prop_assert_eq!(verify_standard(&secret, &headers, &forged, at, 0), Err(Unverified::Signature));

        let mut other_key = key.clone();
        let bit = flip.index(other_key.len() * 8);
        other_key[bit / 8] ^= 1 << (bit % 8);
        let other = Secret::from_random(&other_key).expect("the same length");
        prop_assert_eq!(verify_native(&other, &headers, &body), Err(Unverified::Signature));
        prop_assert_eq!(verify_standard(&other, &headers, &body, at, 0), Err(Unverified::Signature));

        for name in [X_SENDMUX_SIGNATURE, WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE] {
            let mut value = headers[&name].as_bytes().to_vec();
            let bit = flip.index(value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
            let mut headers = headers.clone();
            headers.insert(&name, value);
            let native = verify_native(&secret, &headers, &body);
            let standard = verify_standard(&secret, &headers, &body, at, u64::MAX);
            prop_assert!(native.is_err() || standard.is_err(), "{}", name);
        }
    }
}
