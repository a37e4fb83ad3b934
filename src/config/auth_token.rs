//! The kind of token that `--auth-token` asks for.

/// What a client gets for its password, and proves with each request who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthToken {
    /// `--auth-token ""`: no client gets a token, and none is accepted.
    Off,
    /// A random text, which every member remembers for the time of `--auth-token-ttl`.
    Simple,
}

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
            "jwt" => Err("JSON web tokens are not supported yet".to_owned()),
            other => Err(format!("auth: invalid auth options: unknown kind of token {other:?}")),
        }
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
        for wrong in ["simple,a", "simple,a=b=c", "simple,a=1,a=2", "Simple", "opaque"] {
            let refusal = AuthToken::parse(wrong).expect_err(wrong);
            assert!(refusal.starts_with("auth: invalid auth options: "), "{refusal}");
        }
    }
}
