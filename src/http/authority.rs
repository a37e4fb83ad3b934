//! An `:authority` that is none.
//!
//! etcd's clients before 3.5 call a member by its URL when they ask for its status, its hash or a
//! defragmentation, and put all of `http://host:port` where the name of a host belongs. etcd does
//! not look at it. Our HTTP/2 is strict and would reset the stream, and nobody needs the name: so it
//! is blotted out on its way in.
//!
//! Such a client makes a connection for each call, so only the first request of a connection is
//! looked at; and it sends that in one piece, so what comes in pieces is left as it is. The bytes
//! change in place and keep their number. The blot is never longer than what it covers, therefore
//! both sides' header tables agree on what they hold for as long as the client can refer to it.

const FRAME_HEADER_LEN: usize = 9;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TYPE_HEADERS: u8 = 1;
const FLAG_END_HEADERS: u8 = 0x4;
const FLAGS_PADDED_OR_PRIORITY: u8 = 0x8 | 0x20;
/// Of `:authority`, in the table that every HPACK begins with.
const AUTHORITY_INDEX: usize = 1;

/// Looks for the first request in what a connection receives.
#[derive(Debug, Default)]
pub(super) enum FirstRequest {
    #[default]
    Preface,
    /// Between frames, but for so many bytes that belong to the last one.
    Frames { to_skip: usize },
    /// It has come, or cannot be found.
    Past,
}

impl FirstRequest {
    /// Takes the next bytes, and mends them if they hold it.
    pub(super) fn received(&mut self, mut bytes: &mut [u8]) {
        if matches!(self, FirstRequest::Preface) && !bytes.is_empty() {
            *self = match bytes.split_off_mut(..PREFACE.len()) {
                Some(preface) if preface == PREFACE => FirstRequest::Frames { to_skip: 0 },
                _ => FirstRequest::Past,
            };
        }
        let FirstRequest::Frames { mut to_skip } = *self else { return };
        loop {
            let skipped = to_skip.min(bytes.len());
            bytes = &mut bytes[skipped..];
            to_skip -= skipped;
            if bytes.is_empty() {
                *self = FirstRequest::Frames { to_skip };
                return;
            }
            let Some(&mut [high, middle, low, kind, flags, ..]) = bytes.split_off_mut(..FRAME_HEADER_LEN)
            else {
                break;
            };
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind != TYPE_HEADERS {
                to_skip = length;
                continue;
            }
            if flags & FLAG_END_HEADERS != 0
                && flags & FLAGS_PADDED_OR_PRIORITY == 0
                && let Some(block) = bytes.get_mut(..length)
            {
                mend(block);
            }
            break;
        }
        *self = FirstRequest::Past;
    }
}

/// Blots out the authority of a block of headers if it is a URL. `None` if there is none, or the
/// block cannot be read.
fn mend(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        // What kind of field it is, and how many bits of its first byte hold an index.
        let (bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (index, mut next) = integer(block, at, bits)?;
        if is_literal && index == 0 {
            let (length, name) = integer(block, next, 7)?;
            next = name.checked_add(length)?;
        }
        if is_literal {
            let (length, value) = integer(block, next, 7)?;
            let end = value.checked_add(length)?;
            if index == AUTHORITY_INDEX {
                let is_huffman = block.get(next)? & 0x80 != 0;
                let text = block.get_mut(value..end)?;
                if is_url(text, is_huffman) {
                    text.fill(b'x');
                    block[next] &= 0x7f;
                }
                return Some(());
            }
            next = end;
        }
        at = next;
    }
}

/// Whether a text begins with `http://`.
fn is_url(text: &[u8], is_huffman: bool) -> bool {
    if !is_huffman {
        return text.starts_with(b"http://");
    }
    // Its code is 41 bits long: five bytes and one bit.
    let Some((start, [next, ..])) = text.split_at_checked(5) else { return false };
    start == [0x9d, 0x29, 0xae, 0xe3, 0x0c] && next & 0x80 == 0
}

/// An integer of HPACK whose first byte is at `at`, and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut next = at + 1;
    if value < most {
        return Some((value, next));
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(next)?);
        value += (byte & 0x7f) << shift;
        next += 1;
        if byte & 0x80 == 0 {
            return Some((value, next));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers of a Status call, with an authority as given: POST, http, the path, and so on.
    fn request(authority: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x45, 0x04];
        block.extend(b"/a/B");
        block.extend([0x41]);
        block.extend(authority);
        // A field with a name of its own, and one whose index takes two bytes.
        block.extend([0x40, 2, b't', b'e', 8]);
        block.extend(b"trailers");
        block.extend([0xff, 0x00]);
        block
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    /// What is made of a connection that begins so, cut at `cut`.
    fn received(bytes: &[u8], cut: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut first_request = FirstRequest::default();
        let (before, after) = bytes.split_at_mut(cut);
        first_request.received(before);
        first_request.received(after);
        bytes
    }

    const RAW_URL: &[u8] = b"\x12http://127.0.0.1:1";
    /// As etcdctl 3.4 sends `http://127.0.0.1:41999`.
    const HUFFMAN_URL: &[u8] = b"\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x34\x17\xdf\x7f";
    /// `127.0.0.1:41999`.
    const HUFFMAN_HOST: &[u8] = b"\x8b\x08\x9d\x5c\x0b\x81\x70\xdc\x68\x2f\xbe\xff";

    #[test]
    fn a_url_is_blotted_out_and_a_host_is_not() {
        let blot = |url: &[u8]| [&[url.len() as u8 - 1], &vec![b'x'; url.len() - 1][..]].concat();
        for (authority, expected) in [
            (RAW_URL, blot(RAW_URL)),
            (HUFFMAN_URL, blot(HUFFMAN_URL)),
            (HUFFMAN_HOST, HUFFMAN_HOST.to_vec()),
            (b"\x09localhost", b"\x09localhost".to_vec()),
        ] {
            let connection = |authority: &[u8]| {
                let headers = frame(TYPE_HEADERS, FLAG_END_HEADERS, &request(authority));
                [PREFACE, &frame(4, 0, &[7; 6]), &frame(4, 1, &[]), &headers, &frame(0, 1, b"data")].concat()
            };
            let sent = connection(authority);
            // At the end of the preface, and within the settings.
            for cut in [0, PREFACE.len(), PREFACE.len() + FRAME_HEADER_LEN + 2] {
                assert_eq!(received(&sent, cut), connection(&expected), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_is() {
        let block = request(HUFFMAN_URL);
        let whole = [PREFACE, &frame(TYPE_HEADERS, FLAG_END_HEADERS, &block)].concat();
        for sent in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            whole[..whole.len() - 3].to_vec(),
            [PREFACE, &frame(TYPE_HEADERS, 0, &block)].concat(),
            [PREFACE, &frame(TYPE_HEADERS, FLAG_END_HEADERS | 0x20, &block)].concat(),
            [PREFACE, &frame(TYPE_HEADERS, FLAG_END_HEADERS, &block[..12])].concat(),
            [PREFACE, &frame(TYPE_HEADERS, FLAG_END_HEADERS, &[0xff; 20])].concat(),
        ] {
            assert_eq!(received(&sent, 0), sent);
        }
        // Only the first request is looked at.
        let two = [&whole[..], &frame(TYPE_HEADERS, FLAG_END_HEADERS, &block)].concat();
        assert_eq!(received(&two, 0)[whole.len()..], two[whole.len()..]);
    }
}
