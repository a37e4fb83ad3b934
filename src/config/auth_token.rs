//! The kind of token that `--auth-token` asks for.

use std::{path::PathBuf, time::Duration};

use super::value::parse_duration;
use crate::types::SignMethod;

/// What a client gets for its password, and proves with each request who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthToken {
    /// `--auth-token ""`: no client gets a token, and none is accepted.
    Off,
    /// A random text, which every member remembers for the time of `--auth-token-ttl`.
    Simple,
    /// A signed text, which needs not be remembered: a JSON web token.
    Jwt(JwtOptions),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwtOptions {
    pub(crate) sign_method: SignMethod,
    /// The files of the keys.
    pub(crate) public_key: Option<PathBuf>,
    pub(crate) private_key: Option<PathBuf>,
    pub(crate) ttl: Duration,
}

const TTL_DEFAULT: Duration = Duration::from_secs(300);

impl AuthToken {
    /// As etcd, the kind, and after it options as `name=value`, all separated by commas.
    pub(crate) fn parse(text: &str) -> Result<AuthToken, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options: Vec<(&str, &str)> = Vec::new();
        for part in parts {
            let option = part.split_once('=').filter(|(_, value)| !value.contains('='));
            let Some((name, value)) = option else {
                return Err(format!("auth: invalid auth options: {part:?} is not of the form name=value"));
            };
            if options.iter().any(|(other, _)| *other == name) {
                return Err(format!("auth: invalid auth options: {name:?} is given twice"));
            }
            options.push((name, value));
        }
        match kind {
            "" => Ok(AuthToken::Off),
            "simple" => Ok(AuthToken::Simple),
            "jwt" => JwtOptions::parse(&options).map(AuthToken::Jwt),
            other => Err(format!("auth: invalid auth options: unknown kind of token {other:?}")),
        }
    }
}

impl JwtOptions {
    /// As etcd, an empty value is none. An option that etcd does not know is refused, because it is a word that was
    /// typed wrong; etcd warns of it.
    fn parse(options: &[(&str, &str)]) -> Result<JwtOptions, String> {
        let (mut sign_method, mut public_key, mut private_key, mut ttl) = (None, None, None, TTL_DEFAULT);
        for (name, value) in options.iter().filter(|(_, value)| !value.is_empty()) {
            match *name {
                "sign-method" => sign_method = Some(*value),
                "pub-key" => public_key = Some(PathBuf::from(value)),
                "priv-key" => private_key = Some(PathBuf::from(value)),
                "ttl" => {
                    ttl = parse_duration(value)
                        .map_err(|error| format!("auth: invalid auth options: ttl {value:?} {error}"))?;
                }
                other => {
                    return Err(format!(
                        "auth: invalid auth options: unknown option {other:?}, want sign-method, pub-key, priv-key or ttl"
                    ));
                }
            }
        }
        let named = sign_method.unwrap_or_default();
        let sign_method = SignMethod::of(named).ok_or_else(|| {
            let names = SignMethod::names();
            format!("auth: invalid auth options: sign-method is {named:?}, want one of {names}")
        })?;
        Ok(JwtOptions { sign_method, public_key, private_key, ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_options() {
        assert_eq!(AuthToken::parse(""), Ok(AuthToken::Off));
        assert_eq!(AuthToken::parse("simple"), Ok(AuthToken::Simple));
        assert_eq!(AuthToken::parse("simple,anything=1"), Ok(AuthToken::Simple));
        let options = |public: Option<&str>, private: Option<&str>, secs| {
            let [public_key, private_key] = [public, private].map(|path| path.map(PathBuf::from));
            let (sign_method, ttl) = (SignMethod::Es512, Duration::from_secs(secs));
            Ok(AuthToken::Jwt(JwtOptions { sign_method, public_key, private_key, ttl }))
        };
        for (text, expected) in [
            ("jwt,sign-method=ES512,pub-key=/p,priv-key=q,ttl=1h", options(Some("/p"), Some("q"), 3600)),
            ("jwt,pub-key=/p,priv-key=,ttl=,sign-method=ES512", options(Some("/p"), None, 300)),
        ] {
            assert_eq!(AuthToken::parse(text), expected, "{text}");
        }
        for wrong in [
            "simple,a",
            "simple,a=b=c",
            "simple,a=1,a=2",
            "Simple",
            "opaque",
            "jwt",
            "jwt,sign-method=",
            "jwt,sign-method=es512",
            "jwt,sign-method=ES512,ttl=soon",
            "jwt,sign-method=ES512,public-key=p",
        ] {
            let refusal = AuthToken::parse(wrong).expect_err(wrong);
            assert!(refusal.starts_with("auth: invalid auth options: "), "{refusal}");
        }
    }
}
