//! Ranges of keys, as the flags `--prefix` and `--from-key` and a second argument describe them.

use crate::cli::Failure;

/// The end of a range that has none.
pub(super) const OPEN_END: &[u8] = b"\0";

/// The first key behind all keys with the prefix.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    OPEN_END.to_vec()
}

/// The key and the end of the range that a command is about.
pub(super) fn range(args: &[Vec<u8>], prefix: bool, from_key: bool) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let key = args.first().cloned().unwrap_or_default();
    match args.get(1) {
        Some(_) if prefix || from_key => Err(Failure::bad_args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        )),
        Some(end) => Ok((key, end.clone())),
        None if !prefix && !from_key => Ok((key, Vec::new())),
        None if key.is_empty() => Ok((b"\0".to_vec(), OPEN_END.to_vec())),
        None if prefix => Ok((key.clone(), prefix_end(&key))),
        None => Ok((key, OPEN_END.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_before_the_next_key() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), OPEN_END);
    }
}
