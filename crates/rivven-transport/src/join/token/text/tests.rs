//! Tokens as text.

use proptest::prelude::*;

use super::{
    super::{MakeTokenError, TokenId},
    *,
};

fn token(addresses: &[&str]) -> JoinToken {
    let spec = TokenSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        authority: [2; 32],
        node: 4,
        expires_s: 1_800_000_000,
        addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
    };
    JoinToken::with_secret(spec, JoinSecret(Zeroizing::new([3; 32]))).unwrap()
}

/// The layout of version 0; see `docs/formats/wire.md`.
#[test]
fn golden_vector() {
    assert_eq!(
        token(&["node1:9093"]).to_text().as_str(),
        "rivven-join-aaaqcaibaeaqcaibaeaqcaibaeaqeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqdambqgayda\
         mbqgaydambqgaydambqgaydambqgaydambqgaydamaaaaaaaaaaabaaaaaaa22j2iaacaaknzxwizjrhi4taojth236ugq"
    );
}

#[test]
fn a_token_survives_its_text_and_the_case_and_space_around_it() {
    for addresses in [&["node1:9093"][..], &["10.0.0.5:1", "[::1]:2", "c:3", "d:4"]] {
        let token = token(addresses);
        let text = token.to_text();
        assert_eq!(JoinToken::parse(&text), Ok(token.clone()));
        assert_eq!(
            JoinToken::parse(&format!(" {}\n", text.to_uppercase())),
            Ok(token)
        );
    }
    let text = format!("{:?}", token(&["a:1"]));
    assert!(
        text.contains("node: 4") && !text.contains("[3, 3") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn a_mistake_says_what_is_wrong() {
    let text = token(&["node1:9093"]).to_text().to_string();
    let check = |text: &str, expected| assert_eq!(JoinToken::parse(text), Err(expected), "{text}");
    check("", ParseTokenError::NotAToken);
    check("eyJhbGciOi", ParseTokenError::NotAToken);
    check(&text[1..], ParseTokenError::NotAToken);
    check(&"rivven-join-a".repeat(400), ParseTokenError::NotAToken);
    check("rivven-join-", ParseTokenError::Damaged);
    check(&text[..text.len() - 1], ParseTokenError::Damaged);
    check(&format!("{text}aa"), ParseTokenError::Damaged);
    check(&text.replacen("n-a", "n-1", 1), ParseTokenError::Character(13));
    check(
        &format!("{} {}", &text[..20], &text[20..]),
        ParseTokenError::Character(21),
    );
    let body = |bytes: &[u8]| {
        let check = sha256(bytes);
        encode(&[bytes, &check[..CHECK]].concat())
    };
    check(&body(&[7, 7]), ParseTokenError::Version(7));
    check(&body(&[0, 7]), ParseTokenError::Malformed("it is too short"));
}

#[test]
fn every_single_slip_is_noticed() {
    let text = token(&["node1:9093"]).to_text();
    for at in PREFIX.len()..text.len() {
        for digit in ["a", "z", "2", "7"] {
            let mut slip = text.to_string();
            slip.replace_range(at..=at, digit);
            assert!(slip == *text || JoinToken::parse(&slip).is_err(), "{at} {digit}");
        }
    }
}

#[test]
fn what_nobody_can_dial_or_be_is_no_token() {
    let spec = |node, addresses: &[&str]| TokenSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        authority: [2; 32],
        node,
        expires_s: 1,
        addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
    };
    for (wrong, code) in [
        (spec(0, &["a:1"]), MakeTokenError::NoNode),
        (spec(1, &[]), MakeTokenError::Addresses),
        (spec(1, &["a:1"; 5]), MakeTokenError::Addresses),
        (spec(1, &["0.0.0.0:1"]), MakeTokenError::Addresses),
        (spec(1, &["a:0"]), MakeTokenError::Addresses),
    ] {
        assert_eq!(JoinToken::generate(wrong), Err(code));
    }
    let one = JoinToken::generate(spec(1, &["a:1"])).unwrap();
    let two = JoinToken::generate(spec(1, &["a:1"])).unwrap();
    assert_ne!(one.id(), two.id());
}

#[test]
fn what_the_ledger_keeps_is_of_one_cluster() {
    let secret = JoinSecret(Zeroizing::new([3; 32]));
    let id = |byte| TokenId::of(ClusterId::from_bytes([byte; 16]), &secret);
    assert_ne!(id(1), id(2));
    assert_eq!(id(1).to_string().len(), 16);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = JoinToken::parse(&text);
        let _ = JoinToken::parse(&format!("{PREFIX}{text}"));
        let check = sha256(&bytes);
        let text = encode(&[&bytes[..], &check[..CHECK]].concat());
        prop_assert_eq!(&**decode(&text[PREFIX.len()..]).unwrap(), &[&bytes[..], &check[..CHECK]].concat()[..]);
        let _ = JoinToken::parse(&text);
        let mut begun = vec![VERSION];
        begun.extend(&bytes);
        let check = sha256(&begun);
        let _ = JoinToken::parse(&encode(&[&begun[..], &check[..CHECK]].concat()));
    }
}
