//! Tokens of every method that needs no RSA key, and tokens that nobody should accept. Keys of RSA cannot be
//! made here; `tests/api/jwt.rs` has openssl make them, and compares with a real etcd.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    },
};

use super::{token::Unfit, *};
use crate::types::SignMethod;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const TTL: Duration = Duration::from_secs(300);

fn claims() -> Claims {
    Claims { user: "anna".to_owned(), auth_rev: 7 }
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der)).into_bytes()
}

fn private_key(method: SignMethod) -> Vec<u8> {
    let random = SystemRandom::new();
    match method {
        SignMethod::Es256 => {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            pem("PRIVATE KEY", pkcs8.expect("random numbers").as_ref())
        }
        SignMethod::Es384 => {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random);
            pem("PRIVATE KEY", pkcs8.expect("random numbers").as_ref())
        }
        SignMethod::Es512 => {
            // SEC 1: a version and the number.
            let key = [&[0x30, 0x47, 0x02, 0x01, 0x01, 0x04, 0x42, 0x00][..], &[0x5a; 65]].concat();
            pem("EC PRIVATE KEY", &key)
        }
        SignMethod::EdDsa => {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).expect("random numbers");
            pem("PRIVATE KEY", pkcs8.as_ref())
        }
        _ => b"a secret of thirty-two bytes....".to_vec(),
    }
}

fn jwt(method: SignMethod) -> Jwt {
    Jwt::new(method, TTL, None, Some(&private_key(method)), &SystemRandom::new()).expect("a key")
}

fn issue(jwt: &Jwt, now: Duration) -> String {
    jwt.issue(&claims(), now, &SystemRandom::new()).expect("a private key")
}

fn claims_of(jwt: &Jwt, token: &str, now: Duration) -> Result<Claims, Unfit> {
    jwt.verify(token, now).map(|verified| verified.claims)
}

const METHODS: [SignMethod; 7] = [
    SignMethod::Hs256,
    SignMethod::Hs384,
    SignMethod::Hs512,
    SignMethod::Es256,
    SignMethod::Es384,
    SignMethod::Es512,
    SignMethod::EdDsa,
];

#[test]
fn a_token_says_what_it_was_issued_for_until_it_ends() {
    for method in METHODS {
        let jwt = jwt(method);
        let token = issue(&jwt, NOW);
        assert_eq!(claims_of(&jwt, &token, NOW), Ok(claims()), "{method:?}");
        assert_eq!(claims_of(&jwt, &token, NOW + TTL - Duration::from_millis(1)), Ok(claims()), "{method:?}");
        assert_eq!(claims_of(&jwt, &token, NOW + TTL), Err(Unfit::Expired), "{method:?}");
    }
}

#[test]
fn a_token_of_another_key_or_method_or_with_a_changed_bit_is_not_accepted() {
    for method in METHODS {
        let own = jwt(method);
        let token = issue(&own, NOW);
        if !matches!(method, SignMethod::Hs256 | SignMethod::Hs384 | SignMethod::Hs512 | SignMethod::Es512) {
            assert_eq!(claims_of(&jwt(method), &token, NOW), Err(Unfit::Signature), "{method:?}");
        }
        let other = METHODS.into_iter().find(|other| *other != method).expect("another");
        assert_eq!(claims_of(&jwt(other), &token, NOW), Err(Unfit::OtherMethod), "{method:?}");
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            // P-521 is slow without optimisation.
            if method != SignMethod::Es512 || at % 40 == 0 {
                assert!(claims_of(&own, &changed, NOW).is_err(), "{method:?}: byte {at}");
            }
        }
    }
}

/// A token with any header and claims, signed with the right key.
fn forged(header: &str, body: &str) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(body));
    let key =
        key::Key::parse(SignMethod::Hs256, None, Some(&private_key(SignMethod::Hs256)), &SystemRandom::new());
    let signature = key.expect("a key").sign(signed.as_bytes(), &SystemRandom::new()).expect("it signs");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// etcd 3.5.8: a token without a user or a revision ended the server.
#[test]
fn claims_that_are_missing_or_of_another_type_are_refused() {
    let jwt = jwt(SignMethod::Hs256);
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let claims = |user: &str, auth_rev| Ok(Claims { user: user.to_owned(), auth_rev });
    for (body, expected) in [
        (r#"{"username":"anna","revision":7}"#, claims("anna", 7)),
        (r#"{"username":"","revision":0,"exp":0,"nbf":0}"#, claims("", 0)),
        (r#"{"username":"anna","revision":7.9,"more":[1]}"#, claims("anna", 7)),
        (r#"{"username":"anna","revision":1e300}"#, claims("anna", u64::MAX)),
        (r#"{"username":"anna","revision":7,"exp":1800000001}"#, claims("anna", 7)),
        (r#"{"username":"anna","revision":7,"exp":1800000000}"#, Err(Unfit::Expired)),
        (r#"{"username":"anna","revision":7,"exp":-1}"#, Err(Unfit::Expired)),
        (r#"{"username":"anna","revision":7,"exp":"never"}"#, Err(Unfit::Malformed)),
        (r#"{"username":"anna","revision":7,"nbf":1800000001}"#, Err(Unfit::NotYet)),
        (r#"{"username":"anna","revision":-1}"#, Err(Unfit::NoRevision)),
        (r#"{"username":"anna","revision":"7"}"#, Err(Unfit::NoRevision)),
        (r#"{"username":"anna"}"#, Err(Unfit::NoRevision)),
        (r#"{"username":7,"revision":7}"#, Err(Unfit::NoUser)),
        (r#"{"revision":7}"#, Err(Unfit::NoUser)),
        ("{}", Err(Unfit::NoUser)),
        ("[]", Err(Unfit::Malformed)),
        ("", Err(Unfit::Malformed)),
    ] {
        assert_eq!(claims_of(&jwt, &forged(header, body), NOW), expected, "{body}");
    }
}

#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    let jwt = jwt(SignMethod::Hs256);
    let body = r#"{"username":"root","revision":7}"#;
    for (header, expected) in [
        (r#"{"alg":"none"}"#, Unfit::OtherMethod),
        (r#"{"alg":"HS512"}"#, Unfit::OtherMethod),
        (r#"{"alg":"hs256"}"#, Unfit::OtherMethod),
        (r#"{"alg":["HS256"]}"#, Unfit::OtherMethod),
        (r#"{"typ":"JWT"}"#, Unfit::OtherMethod),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, Unfit::Malformed),
        ("HS256", Unfit::Malformed),
    ] {
        assert_eq!(claims_of(&jwt, &forged(header, body), NOW), Err(expected), "{header}");
    }
    let unsigned = forged(r#"{"alg":"none"}"#, body);
    let unsigned = &unsigned[..=unsigned.rfind('.').expect("a dot")];
    assert_eq!(claims_of(&jwt, unsigned, NOW), Err(Unfit::OtherMethod));
    for broken in ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "\u{e4}.\u{e4}.\u{e4}"] {
        assert_eq!(claims_of(&jwt, broken, NOW), Err(Unfit::Malformed), "{broken}");
    }
}

#[test]
fn without_a_private_key_tokens_are_only_checked() {
    // SubjectPublicKeyInfo of Ed25519.
    const HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random numbers");
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
    let public_of = |pair: &Ed25519KeyPair| {
        pem("PUBLIC KEY", &[&HEAD, ring::signature::KeyPair::public_key(pair).as_ref()].concat())
    };
    let (public, private) = (public_of(&pair), pem("PRIVATE KEY", pkcs8.as_ref()));
    let new = |public: Option<&[u8]>, private: Option<&[u8]>| {
        Jwt::new(SignMethod::EdDsa, TTL, public, private, &SystemRandom::new())
    };
    let both = new(Some(&public), Some(&private)).expect("they belong together");
    let checking = new(Some(&public), Some(b"")).expect("an empty file is none");
    assert_eq!(claims_of(&checking, &issue(&both, NOW), NOW), Ok(claims()));
    assert_eq!(checking.issue(&claims(), NOW, &SystemRandom::new()), Err(IssueError::VerifyOnly));

    let error = |public, private| new(public, private).err();
    assert_eq!(error(None, None), Some(KeyError::Missing));
    let other = private_key(SignMethod::EdDsa);
    assert_eq!(error(Some(&public), Some(&other)), Some(KeyError::Mismatch));
    assert_eq!(error(Some(&private), None), Some(KeyError::Public(SignMethod::EdDsa)));
    assert_eq!(error(None, Some(&public)), Some(KeyError::Private(SignMethod::EdDsa)));
    let of_curve = private_key(SignMethod::Es256);
    assert_eq!(error(None, Some(&of_curve)), Some(KeyError::Private(SignMethod::EdDsa)));
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let random = SystemRandom::new();
    for method in [SignMethod::Es256, SignMethod::Es384, SignMethod::EdDsa] {
        let whole = pem::parse(&private_key(method)).expect("a block");
        for length in 0..whole.der.len() {
            let cut = pem(&whole.label, &whole.der[..length]);
            assert!(Jwt::new(method, TTL, None, Some(&cut), &random).is_err(), "{method:?} {length}");
            assert!(Jwt::new(method, TTL, Some(&cut), None, &random).is_err(), "{method:?} {length}");
        }
    }
}
