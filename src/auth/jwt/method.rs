//! What the methods of signing ask of the libraries.

use ring::{hmac, signature};

use crate::types::SignMethod;

/// What a method needs of a key.
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa {
        sign: &'static dyn signature::RsaEncoding,
        verify: &'static dyn signature::VerificationAlgorithm,
    },
    Ecdsa(Curve),
    /// The one curve that ring does not have.
    EcdsaP521,
    Ed25519,
}

#[derive(Clone, Copy)]
pub(super) struct Curve {
    pub(super) sign: &'static signature::EcdsaSigningAlgorithm,
    pub(super) verify: &'static signature::EcdsaVerificationAlgorithm,
    pub(super) scalar_bytes: usize,
}

pub(super) const P521_SCALAR_BYTES: usize = 66;

impl Algorithm {
    pub(super) fn of(method: SignMethod) -> Algorithm {
        match method {
            SignMethod::Hs256 => Algorithm::Hmac(hmac::HMAC_SHA256),
            SignMethod::Hs384 => Algorithm::Hmac(hmac::HMAC_SHA384),
            SignMethod::Hs512 => Algorithm::Hmac(hmac::HMAC_SHA512),
            SignMethod::Rs256 => rsa(&signature::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256),
            SignMethod::Rs384 => rsa(&signature::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384),
            SignMethod::Rs512 => rsa(&signature::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512),
            SignMethod::Ps256 => rsa(&signature::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256),
            SignMethod::Ps384 => rsa(&signature::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384),
            SignMethod::Ps512 => rsa(&signature::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512),
            SignMethod::Es256 => Algorithm::Ecdsa(Curve {
                sign: &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                verify: &signature::ECDSA_P256_SHA256_FIXED,
                scalar_bytes: 32,
            }),
            SignMethod::Es384 => Algorithm::Ecdsa(Curve {
                sign: &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                verify: &signature::ECDSA_P384_SHA384_FIXED,
                scalar_bytes: 48,
            }),
            SignMethod::Es512 => Algorithm::EcdsaP521,
            SignMethod::EdDsa => Algorithm::Ed25519,
        }
    }
}

fn rsa(
    sign: &'static dyn signature::RsaEncoding,
    verify: &'static dyn signature::VerificationAlgorithm,
) -> Algorithm {
    Algorithm::Rsa { sign, verify }
}
