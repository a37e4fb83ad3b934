//! Paths and parameters, read as Go reads them, and refused in its words.

/// `None` if an escape is none.
pub(super) fn decode_path(path: &str) -> Option<String> {
    unescape(path, false).ok()
}

/// As the multiplexer of Go's HTTP server: a path without empty components and dots, that ends with a slash if
/// it did before.
pub(super) fn clean(path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    let slash = if path.ends_with('/') && !components.is_empty() { "/" } else { "" };
    format!("/{}{slash}", components.join("/"))
}

/// The parameters of a request: of its body, and behind them those of its URL.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// With the text of etcd's refusal.
    pub(super) fn parse(body: Option<&str>, query: &str) -> Result<Form, String> {
        let mut form = Form::default();
        let in_body = body.map_or(Ok(()), |body| form.add(body));
        let in_query = form.add(query);
        in_body.and(in_query).map(|()| form)
    }

    /// The first value of a parameter.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let mut first_error = Ok(());
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let parsed = parse_pair(pair).map(|pair| self.0.push(pair));
            first_error = first_error.and(parsed);
        }
        first_error
    }
}

fn parse_pair(pair: &str) -> Result<(String, String), String> {
    if pair.contains(';') {
        return Err("invalid semicolon separator in query".to_owned());
    }
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    Ok((unescape(name, true)?, unescape(value, true)?))
}

/// Bytes that are not UTF-8 become replacement characters, one for each byte, as in Go's JSON.
fn unescape(text: &str, plus_is_space: bool) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).and_then(|digits| {
                    let digits = str::from_utf8(digits).ok()?;
                    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(digits)
                });
                let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]).into_owned();
                    return Err(format!("invalid URL escape {shown:?}"));
                };
                out.push(byte);
                at += 3;
            }
            b'+' if plus_is_space => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(lossy(&out))
}

/// As Go converts bytes to JSON.
pub(super) fn lossy(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(std::iter::repeat_n('\u{fffd}', chunk.invalid().len()));
    }
    out
}

/// Whether a body of this type is a form. An error is the text of Go's parser.
pub(super) fn is_form(content_type: &str) -> Result<bool, String> {
    let mut parts = content_type.split(';');
    let media_type = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type.is_empty() {
        let text = if content_type.is_empty() { return Ok(false) } else { "mime: no media type" };
        return Err(text.to_owned());
    }
    let mut parameters: Vec<&str> = parts.map(str::trim).collect();
    if parameters.last().is_some_and(|last| last.is_empty()) {
        parameters.pop();
    }
    if parameters.iter().any(|parameter| !parameter.contains('=')) {
        return Err("mime: invalid media parameter".to_owned());
    }
    Ok(media_type == "application/x-www-form-urlencoded")
}

/// As Go's `ParseBool`.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// As Go's `ParseUint`: digits alone.
pub(super) fn parse_uint(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_go_reads_them() {
        let form = Form::parse(Some("a=1&b=x+y%26"), "a=2&c&=d&&%6a=z").expect("sound");
        let first = |name| form.first(name);
        assert_eq!(
            [first("a"), first("b"), first("c"), first(""), first("j"), first("no")],
            [Some("1"), Some("x y&"), Some(""), Some("d"), Some("z"), None]
        );
        for (text, refusal) in [
            ("a=%zz", "invalid URL escape \"%zz\""),
            ("a=%2", "invalid URL escape \"%2\""),
            ("a;b", "invalid semicolon separator in query"),
        ] {
            assert_eq!(Form::parse(None, text).expect_err("malformed"), refusal);
        }
        assert_eq!(Form::parse(None, "a=%ff%fe").expect("sound").first("a"), Some("\u{fffd}\u{fffd}"));
    }

    #[test]
    fn paths_are_cleaned_as_the_multiplexer_does() {
        for (path, cleaned) in
            [("/v2/keys/", "/v2/keys/"), ("/v2//keys", "/v2/keys"), ("/v2/keys/a/../b/", "/v2/keys/b/")]
        {
            assert_eq!(clean(path), cleaned);
        }
    }

    #[test]
    fn types_of_bodies() {
        assert_eq!(is_form("Application/x-www-form-urlencoded; charset=utf-8"), Ok(true));
        assert_eq!(is_form("text"), Ok(false));
        assert_eq!(is_form(""), Ok(false));
        assert_eq!(is_form(";;"), Err("mime: no media type".to_owned()));
        assert_eq!(is_form("a/b; c"), Err("mime: invalid media parameter".to_owned()));
    }
}
