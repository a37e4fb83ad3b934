//! The text form of keys: base64 between a line that says what it is, and a last line (RFC 7468).

use base64::{Engine as _, prelude::BASE64_STANDARD};

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// What a file has between its first such lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pem {
    pub(super) label: String,
    pub(super) der: Vec<u8>,
}

/// The first block of the file, as etcd takes it. `openssl ecparam -genkey` writes the name of the curve in a
/// block of its own before the key: that one is passed over, which etcd does not.
pub(super) fn parse(file: &[u8]) -> Option<Pem> {
    let mut rest = str::from_utf8(file).ok()?;
    loop {
        let (label, after) = rest[rest.find(BEGIN)? + BEGIN.len()..].split_once(DASHES)?;
        let (body, after) = after.split_once(&format!("-----END {label}-----"))?;
        rest = after;
        if label == "EC PARAMETERS" {
            continue;
        }
        let body: String = body.split_ascii_whitespace().collect();
        return Some(Pem { label: label.to_owned(), der: BASE64_STANDARD.decode(body).ok()? });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_counts_and_parameters_do_not() {
        let text = "a comment\n-----BEGIN EC PARAMETERS-----\nBggq\n-----END EC PARAMETERS-----\n\
                    -----BEGIN KEY-----\r\naGVs\r\nbG8=\r\n-----END KEY-----\n-----BEGIN KEY-----\n";
        assert_eq!(parse(text.as_bytes()), Some(Pem { label: "KEY".to_owned(), der: b"hello".to_vec() }));
        for broken in [
            "",
            "hello",
            "-----BEGIN KEY-----",
            "-----BEGIN KEY-----\naGVsbG8=\n-----END KEX-----",
            "-----BEGIN KEY-----\nno base64!\n-----END KEY-----",
            "-----BEGIN KEY-----\nProc-Type: 4,ENCRYPTED\naGVsbG8=\n-----END KEY-----",
        ] {
            assert_eq!(parse(broken.as_bytes()), None, "{broken}");
        }
        assert_eq!(parse(b"-----BEGIN \xff-----"), None);
    }
}
