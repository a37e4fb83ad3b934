//! A password or a token.

use std::fmt;

/// A text that must not get into a log, an error or a debug value. It can only be read where that is asked
/// for by name.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Secret {
        Secret(text)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_value_does_not_show_it() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{:?} {:#?}", Some(&secret), secret), "Some(***) ***");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
