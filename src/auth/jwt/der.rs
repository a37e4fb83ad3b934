//! Where the keys are in the structures that files of keys and certificates contain.
//!
//! Only the way to the key is read; what a library for signatures takes is found there and is checked by it.

/// A tag of ASN.1.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0]` and `[1]`, explicit.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    Ec,
    Ed25519,
}

/// A key, and for what kind of signature it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tagged<'d> {
    pub(super) kind: Kind,
    pub(super) key: &'d [u8],
}

/// The private number of an elliptic curve and the public point, which most files also have.
pub(super) struct EcPrivate<'d> {
    pub(super) scalar: &'d [u8],
    pub(super) point: Option<&'d [u8]>,
}

/// `PRIVATE KEY` (PKCS #8): the inner structure of a private key.
pub(super) fn pkcs8(der: &[u8]) -> Option<Tagged<'_>> {
    let mut info = Der::sequence(der)?;
    info.expect(INTEGER)?;
    let kind = kind(info.expect(SEQUENCE)?)?;
    Some(Tagged { kind, key: info.expect(OCTET_STRING)? })
}

/// `PUBLIC KEY` (SubjectPublicKeyInfo): the inner structure of a public key.
pub(super) fn public_key_info(der: &[u8]) -> Option<Tagged<'_>> {
    let mut info = Der::sequence(der)?;
    let kind = kind(info.expect(SEQUENCE)?)?;
    let (unused_bits, key) = info.expect(BIT_STRING)?.split_first()?;
    (*unused_bits == 0).then_some(Tagged { kind, key })
}

/// `CERTIFICATE`: the public key that it certifies.
pub(super) fn certificate(der: &[u8]) -> Option<Tagged<'_>> {
    let mut certificate = Der::sequence(der)?;
    let mut signed = Der(certificate.expect(SEQUENCE)?);
    if signed.peek() == Some(CONTEXT_0) {
        signed.expect(CONTEXT_0)?;
    }
    signed.expect(INTEGER)?;
    // The algorithm, the issuer, the validity, the subject.
    for _ in 0..4 {
        signed.expect(SEQUENCE)?;
    }
    public_key_info(signed.0)
}

/// `EC PRIVATE KEY` (RFC 5915).
pub(super) fn ec_private(der: &[u8]) -> Option<EcPrivate<'_>> {
    let mut key = Der::sequence(der)?;
    key.expect(INTEGER)?;
    let scalar = key.expect(OCTET_STRING)?;
    if key.peek() == Some(CONTEXT_0) {
        key.expect(CONTEXT_0)?;
    }
    let point = match key.peek() {
        Some(CONTEXT_1) => {
            let (unused_bits, point) = Der(key.expect(CONTEXT_1)?).expect(BIT_STRING)?.split_first()?;
            (*unused_bits == 0).then_some(point)
        }
        _ => None,
    };
    Some(EcPrivate { scalar, point })
}

/// The seed in the inner structure of an Ed25519 private key (RFC 8410).
pub(super) fn ed25519_seed(inner: &[u8]) -> Option<&[u8]> {
    Der(inner).expect(OCTET_STRING)
}

fn kind(algorithm: &[u8]) -> Option<Kind> {
    match Der(algorithm).expect(OBJECT_ID)? {
        RSA => Some(Kind::Rsa),
        EC => Some(Kind::Ec),
        ED25519 => Some(Kind::Ed25519),
        _ => None,
    }
}

/// What is left to be read of a structure.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    fn sequence(der: &'d [u8]) -> Option<Der<'d>> {
        Der(der).expect(SEQUENCE).map(Der)
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ ..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == tag).then_some(content)
    }
}
