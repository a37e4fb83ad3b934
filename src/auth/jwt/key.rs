//! Keys: the public one that checks signatures, and the private one that makes them.
//!
//! The files are what etcd takes: of RSA, PKCS #1 or PKCS #8 and a public key or a certificate; of elliptic
//! curves, SEC 1 or PKCS #8 and a public key or a certificate; of Ed25519, PKCS #8 and a public key. For an HMAC
//! the bytes of the private file are the key.

use p521::ecdsa::{
    self as es512,
    signature::{Signer as _, Verifier as _},
};
use ring::rand::SecureRandom;
use ring::{
    hmac,
    signature::{ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey},
};
use thiserror::Error;

use super::{
    der::{self, Kind, Tagged},
    method::{Algorithm, Curve, P521_SCALAR_BYTES},
    pem::{self, Pem},
};
use crate::types::SignMethod;

/// Where the random numbers of signatures come from: that of the system, but in tests.
pub(crate) type Random<'r> = &'r dyn SecureRandom;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum KeyError {
    #[error("auth: missing key data")]
    Missing,
    #[error("auth: public and private keys don't match")]
    Mismatch,
    #[error("the private key is not one for {}; make it with openssl genpkey", .0.name())]
    Private(SignMethod),
    #[error("the public key is not one for {}; make it with openssl pkey -pubout", .0.name())]
    Public(SignMethod),
    #[error("the file of the private key does not contain the public point; write it anew with openssl pkey")]
    NoPoint,
}

/// The key, or both, of one method.
pub(super) struct Key {
    method: SignMethod,
    public: Public,
    private: Option<Private>,
}

enum Public {
    Hmac(hmac::Key),
    /// What ring takes: of RSA the structure of PKCS #1, of a curve the point.
    Bytes(Vec<u8>),
    P521(Box<es512::VerifyingKey>),
}

enum Private {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    P521(Box<es512::SigningKey>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Key {
    /// From the content of the files. An empty file counts as none, as in etcd.
    pub(super) fn parse(
        method: SignMethod,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
        random: Random<'_>,
    ) -> Result<Key, KeyError> {
        let present = |file: Option<&'_ [u8]>| file.filter(|file| !file.is_empty()).map(<[u8]>::to_vec);
        let (public, private) = (present(public), present(private));
        if let Algorithm::Hmac(algorithm) = Algorithm::of(method) {
            let key = hmac::Key::new(algorithm, &private.ok_or(KeyError::Missing)?);
            return Ok(Key { method, public: Public::Hmac(key.clone()), private: Some(Private::Hmac(key)) });
        }
        let given = match public {
            Some(file) => Some(parse_public(method, &file).ok_or(KeyError::Public(method))?),
            None => None,
        };
        let Some(private) = private else {
            let public = given.ok_or(KeyError::Missing)?;
            let public = Public::of(method, public).ok_or(KeyError::Public(method))?;
            return Ok(Key { method, public, private: None });
        };
        let private = pem::parse(&private).ok_or(KeyError::Private(method))?;
        let (private, own) = parse_private(method, &private, random)?;
        if given.is_some_and(|given| given != own) {
            return Err(KeyError::Mismatch);
        }
        let public = Public::of(method, own).ok_or(KeyError::Private(method))?;
        Ok(Key { method, public, private: Some(private) })
    }

    pub(super) fn method(&self) -> SignMethod {
        self.method
    }

    pub(super) fn signs(&self) -> bool {
        self.private.is_some()
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let by_ring = |algorithm, key: &Vec<u8>| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match (&self.public, Algorithm::of(self.method)) {
            (Public::Hmac(key), _) => hmac::verify(key, message, signature).is_ok(),
            (Public::P521(key), _) => es512::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            (Public::Bytes(key), Algorithm::Rsa { verify, .. }) => by_ring(verify, key),
            (Public::Bytes(key), Algorithm::Ecdsa(curve)) => by_ring(curve.verify, key),
            (Public::Bytes(key), Algorithm::Ed25519) => by_ring(&ED25519, key),
            (Public::Bytes(_), Algorithm::Hmac(_) | Algorithm::EcdsaP521) => false,
        }
    }

    /// `None` without a private key, or if there are no random numbers.
    pub(super) fn sign(&self, message: &[u8], random: Random<'_>) -> Option<Vec<u8>> {
        match (self.private.as_ref()?, Algorithm::of(self.method)) {
            (Private::Hmac(key), _) => Some(hmac::sign(key, message).as_ref().to_vec()),
            (Private::Rsa(pair), Algorithm::Rsa { sign, .. }) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(sign, random, message, &mut signature).ok()?;
                Some(signature)
            }
            (Private::Rsa(_), _) => None,
            (Private::Ecdsa(pair), _) => Some(pair.sign(random, message).ok()?.as_ref().to_vec()),
            (Private::P521(key), _) => {
                let signature: es512::Signature = key.try_sign(message).ok()?;
                Some(signature.to_bytes().to_vec())
            }
            (Private::Ed25519(pair), _) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl Public {
    /// `None` if these bytes are no key of this method.
    fn of(method: SignMethod, bytes: Vec<u8>) -> Option<Public> {
        match Algorithm::of(method) {
            Algorithm::EcdsaP521 => {
                Some(Public::P521(Box::new(es512::VerifyingKey::from_sec1_bytes(&bytes).ok()?)))
            }
            // An uncompressed point: a byte, and two numbers.
            Algorithm::Ecdsa(curve) => {
                (bytes.len() == 1 + 2 * curve.scalar_bytes).then_some(Public::Bytes(bytes))
            }
            Algorithm::Rsa { .. } | Algorithm::Ed25519 => Some(Public::Bytes(bytes)),
            Algorithm::Hmac(_) => None,
        }
    }
}

/// The bytes of a public key, as they also follow from a private one.
fn parse_public(method: SignMethod, file: &[u8]) -> Option<Vec<u8>> {
    let Pem { label, der } = pem::parse(file)?;
    let wanted = kind_of(method)?;
    let Tagged { kind, key } = match label.as_str() {
        "CERTIFICATE" if wanted != Kind::Ed25519 => der::certificate(&der)?,
        "RSA PUBLIC KEY" => Tagged { kind: Kind::Rsa, key: &der },
        _ => der::public_key_info(&der)?,
    };
    (kind == wanted).then(|| key.to_vec())
}

/// The private key, and the bytes of the public one that belongs to it.
fn parse_private(method: SignMethod, pem: &Pem, random: Random<'_>) -> Result<(Private, Vec<u8>), KeyError> {
    let unfit = || KeyError::Private(method);
    let wanted = kind_of(method).ok_or_else(unfit)?;
    let Tagged { kind, key } = match pem.label.as_str() {
        "RSA PRIVATE KEY" => Tagged { kind: Kind::Rsa, key: &pem.der },
        "EC PRIVATE KEY" => Tagged { kind: Kind::Ec, key: &pem.der },
        _ => der::pkcs8(&pem.der).ok_or_else(unfit)?,
    };
    if kind != wanted {
        return Err(unfit());
    }
    match Algorithm::of(method) {
        Algorithm::Hmac(_) => Err(unfit()),
        Algorithm::Rsa { .. } => {
            let pair = RsaKeyPair::from_der(key).map_err(|_| unfit())?;
            let public = pair.public_key().as_ref().to_vec();
            Ok((Private::Rsa(Box::new(pair)), public))
        }
        Algorithm::Ed25519 => {
            let seed = der::ed25519_seed(key).ok_or_else(unfit)?;
            let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| unfit())?;
            let public = pair.public_key().as_ref().to_vec();
            Ok((Private::Ed25519(Box::new(pair)), public))
        }
        Algorithm::Ecdsa(curve) => ecdsa(curve, key, random).ok_or_else(unfit)?.ok_or(KeyError::NoPoint),
        Algorithm::EcdsaP521 => {
            let private = der::ec_private(key).ok_or_else(unfit)?;
            let scalar = padded(private.scalar, P521_SCALAR_BYTES).ok_or_else(unfit)?;
            let signing = es512::SigningKey::from_slice(&scalar).map_err(|_| unfit())?;
            let public = signing.verifying_key().to_sec1_point(false).as_bytes().to_vec();
            Ok((Private::P521(Box::new(signing)), public))
        }
    }
}

/// `None` if it is no key of this curve, and inside that if the public point is missing, which ring does not
/// compute.
fn ecdsa(curve: Curve, key: &[u8], random: Random<'_>) -> Option<Option<(Private, Vec<u8>)>> {
    let private = der::ec_private(key)?;
    let scalar = padded(private.scalar, curve.scalar_bytes)?;
    let Some(point) = private.point else { return Some(None) };
    let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.sign, &scalar, point, random).ok()?;
    Some(Some((Private::Ecdsa(Box::new(pair)), point.to_vec())))
}

fn kind_of(method: SignMethod) -> Option<Kind> {
    match Algorithm::of(method) {
        Algorithm::Hmac(_) => None,
        Algorithm::Rsa { .. } => Some(Kind::Rsa),
        Algorithm::Ecdsa(_) | Algorithm::EcdsaP521 => Some(Kind::Ec),
        Algorithm::Ed25519 => Some(Kind::Ed25519),
    }
}

/// Some programs leave out the zeroes at the front of a number.
fn padded(scalar: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let missing = bytes.checked_sub(scalar.len())?;
    Some([&vec![0; missing], scalar].concat())
}
