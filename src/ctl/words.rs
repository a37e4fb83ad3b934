//! The words of a line that is typed into `txn` or `watch -i`.

use crate::cli::go::unquote_prefix;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a string with valid escapes")]
pub(super) struct BadString(String);

/// Words are separated by space. One in single quotes is taken as it is, one in double quotes may have escapes.
pub(super) fn words(line: &str) -> Result<Vec<Vec<u8>>, BadString> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => quoted_len(rest),
            '\'' => rest[1..].find('\'').map(|end| end + 2),
            c if c.is_whitespace() => None,
            _ => Some(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        // A quote that nothing ends is skipped.
        let Some(len) = len else {
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let (word, after) = rest.split_at(len);
        words.push(match first {
            '"' => unquote_prefix(word).map(|(bytes, _)| bytes).ok_or_else(|| BadString(word.to_owned()))?,
            '\'' => word.as_bytes()[1..len - 1].to_vec(),
            _ => word.as_bytes().to_vec(),
        });
        rest = after;
    }
    Ok(words)
}

/// Up to the double quote that no backslash precedes.
fn quoted_len(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        for (line, expected) in [
            ("put a b", &["put", "a", "b"][..]),
            ("put  'a  b' \"c\\n\\\"d\"", &["put", "a  b", "c\n\"d"]),
            ("watch foo -- echo it's", &["watch", "foo", "--", "echo", "it's"]),
            ("'' \"\"", &["", ""]),
            ("\"open x", &["open", "x"]),
            ("", &[]),
        ] {
            let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(words(line), Ok(expected), "{line}");
        }
        assert_eq!(words("\"\\q\""), Err(BadString("\"\\q\"".to_owned())));
    }
}
