//! How JSON web tokens are signed: the names of RFC 7518 and RFC 8037, all those that etcd knows.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignMethod {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

const METHODS: [(&str, SignMethod); 13] = [
    ("HS256", SignMethod::Hs256),
    ("HS384", SignMethod::Hs384),
    ("HS512", SignMethod::Hs512),
    ("RS256", SignMethod::Rs256),
    ("RS384", SignMethod::Rs384),
    ("RS512", SignMethod::Rs512),
    ("PS256", SignMethod::Ps256),
    ("PS384", SignMethod::Ps384),
    ("PS512", SignMethod::Ps512),
    ("ES256", SignMethod::Es256),
    ("ES384", SignMethod::Es384),
    ("ES512", SignMethod::Es512),
    ("EdDSA", SignMethod::EdDsa),
];

impl SignMethod {
    pub(crate) fn of(name: &str) -> Option<SignMethod> {
        METHODS.iter().find(|(known, _)| *known == name).map(|(_, method)| *method)
    }

    pub(crate) fn name(self) -> &'static str {
        let row = METHODS.iter().find(|(_, method)| *method == self);
        row.expect("every method has a name").0
    }

    /// All of them, for messages.
    pub(crate) fn names() -> String {
        METHODS.map(|(name, _)| name).join(", ")
    }
}
