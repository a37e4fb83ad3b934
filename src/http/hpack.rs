//! HPACK (RFC 7541) as the receiver of requests needs it: header blocks are decoded, and header
//! fields are encoded as literals, which refer to no table.
//!
//! The decoder keeps a copy of the sender's dynamic table. Both tables stay equal only if every block of a
//! connection is decoded, in the order in which the blocks arrived.

use std::{collections::VecDeque, ops::Range, sync::LazyLock};

use super::request::{Judgement, judge};
use crate::limits;

/// The size of the dynamic table. It is HPACK's default, which the server never changes.
const TABLE_BYTES_MAX: usize = 4096;
/// Bytes that HPACK counts for each field, in addition to its name and its value.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// The block is not valid HPACK. No later block of the connection can be decoded either.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("a block of header fields is not HPACK")]
pub(super) struct Broken;

/// The decoded fields of one block. The same value is used for the next block, to save allocations.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// All names and values, concatenated.
    text: Vec<u8>,
    places: Vec<Place>,
    list_bytes: usize,
    /// The block had more fields than [`limits::HEADER_LIST_BYTES`] allows; the further fields are left out.
    pub(super) is_cut: bool,
}

#[derive(Clone, Debug)]
struct Place {
    name: Range<usize>,
    value: Range<usize>,
    judgement: Judgement,
}

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) judgement: Judgement,
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.places.clear();
        // Large blocks are rare, so the connection does not keep the memory that one needed.
        self.text.shrink_to(limits::HEADER_SCRATCH_BYTES);
        self.places.shrink_to(limits::HEADER_SCRATCH_BYTES / size_of::<Place>());
        self.list_bytes = 0;
        self.is_cut = false;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.places.iter().map(|Place { name, value, judgement }| Field {
            name: &self.text[name.clone()],
            value: &self.text[value.clone()],
            judgement: *judgement,
        })
    }

    /// The size of the fields as HTTP/2 counts it.
    pub(super) fn list_bytes(&self) -> usize {
        self.list_bytes
    }

    fn push_copy(&mut self, name: &[u8], value: &[u8], judgement: Judgement) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.push(start, name.len(), judgement);
    }

    /// Adds a field whose name and value are the bytes of `text` from `start` on.
    fn push(&mut self, start: usize, name_len: usize, judgement: Judgement) {
        let end = self.text.len();
        let list_bytes = self.list_bytes + (end - start) + FIELD_OVERHEAD_BYTES;
        if self.is_cut || list_bytes > limits::HEADER_LIST_BYTES as usize {
            self.is_cut = true;
            self.text.truncate(start);
            return;
        }
        self.list_bytes = list_bytes;
        self.places.push(Place { name: start..start + name_len, value: start + name_len..end, judgement });
    }
}

/// The receiver's copy of the sender's dynamic table.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest is first.
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    /// The name followed by the value.
    text: Box<[u8]>,
    name_len: usize,
    judgement: Judgement,
}

impl Entry {
    fn table_bytes(&self) -> usize {
        self.text.len() + FIELD_OVERHEAD_BYTES
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { entries: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX }
    }
}

impl Decoder {
    /// Appends the fields of a block to `fields`.
    pub(super) fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), Broken> {
        let mut rest = block;
        let mut is_begun = false;
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    let (name, value, judgement) = self.get(index)?;
                    fields.push_copy(name, value, judgement);
                }
                0x40.. => self.literal(&mut rest, 6, true, fields)?,
                // A change of the table's size is valid only before the first field of a block.
                0x20.. if is_begun => return Err(Broken),
                0x20.. => {
                    self.bytes_max = integer(&mut rest, 5)?;
                    if self.bytes_max > TABLE_BYTES_MAX {
                        return Err(Broken);
                    }
                    self.make_room_for(0);
                    continue;
                }
                _ => self.literal(&mut rest, 4, false, fields)?,
            }
            is_begun = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        rest: &mut &[u8],
        index_bits: u32,
        is_indexed: bool,
        fields: &mut Fields,
    ) -> Result<(), Broken> {
        let start = fields.text.len();
        match integer(rest, index_bits)? {
            0 => string(rest, &mut fields.text)?,
            index => fields.text.extend_from_slice(self.get(index)?.0),
        }
        let name_len = fields.text.len() - start;
        string(rest, &mut fields.text)?;
        let text = &fields.text[start..];
        let (name, value) = text.split_at(name_len);
        let judgement = judge(name, value);
        if is_indexed {
            self.insert(text, name_len, judgement);
        }
        fields.push(start, name_len, judgement);
        Ok(())
    }

    fn get(&self, index: usize) -> Result<(&[u8], &[u8], Judgement), Broken> {
        let index = index.checked_sub(1).ok_or(Broken)?;
        if let Some((name, value)) = STATIC_TABLE.get(index) {
            return Ok((name.as_bytes(), value.as_bytes(), STATIC_JUDGEMENTS[index]));
        }
        let Entry { text, name_len, judgement } =
            self.entries.get(index - STATIC_TABLE.len()).ok_or(Broken)?;
        let (name, value) = text.split_at(*name_len);
        Ok((name, value, *judgement))
    }

    fn insert(&mut self, text: &[u8], name_len: usize, judgement: Judgement) {
        let table_bytes = text.len() + FIELD_OVERHEAD_BYTES;
        self.make_room_for(table_bytes);
        // An entry larger than the table empties the table and is not added.
        if table_bytes <= self.bytes_max {
            self.bytes += table_bytes;
            self.entries.push_front(Entry { text: text.into(), name_len, judgement });
        }
    }

    fn make_room_for(&mut self, table_bytes: usize) {
        while self.bytes + table_bytes > self.bytes_max {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.bytes -= oldest.table_bytes();
        }
    }
}

/// An integer whose first `bits` bits are the low bits of the first byte.
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*rest.split_off_first().ok_or(Broken)?) & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*rest.split_off_first().ok_or(Broken)?);
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Broken)
}

/// A string, appended to `text`.
fn string(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Broken> {
    let is_huffman = rest.first().ok_or(Broken)? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let encoded = rest.split_off(..length).ok_or(Broken)?;
    if is_huffman {
        return HUFFMAN.decode(encoded, text);
    }
    text.extend_from_slice(encoded);
    Ok(())
}

/// Appends a field as a literal that is neither added to the table nor refers to it.
pub(super) fn write_field(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    write_string(block, name);
    write_string(block, value);
}

fn write_string(block: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(length @ ..0x7f) => block.push(length),
        _ => {
            block.push(0x7f);
            let mut left = text.len() - 0x7f;
            while left >= 0x80 {
                block.push(0x80 | (left & 0x7f) as u8);
                left >>= 7;
            }
            block.push(left as u8);
        }
    }
    block.extend_from_slice(text);
}

/// The Huffman code of strings, in the form that decoding needs. The code is canonical: a shorter code is less than
/// a longer one, and of two codes of equal length the one of the smaller byte is less.
struct Huffman {
    /// Indexed by the next eight bits of the input: the byte whose code these bits begin with, and the
    /// length of the code; 0 if the code is longer than eight bits.
    short: [(u8, u8); 256],
    /// Indexed by the length of codes: the first code, the number of codes, and the index of the first one's byte in `bytes`.
    first: [u32; CODE_BITS_MAX + 1],
    count: [u32; CODE_BITS_MAX + 1],
    start: [u32; CODE_BITS_MAX + 1],
    /// All bytes in the order of their codes.
    bytes: [u8; 256],
}

const CODE_BITS_MAX: usize = 30;

static HUFFMAN: Huffman = Huffman::new();

impl Huffman {
    const fn new() -> Huffman {
        let mut huffman = Huffman {
            short: [(0, 0); 256],
            first: [0; CODE_BITS_MAX + 1],
            count: [0; CODE_BITS_MAX + 1],
            start: [0; CODE_BITS_MAX + 1],
            bytes: [0; 256],
        };
        let (mut code, mut bytes, mut bits) = (0_u32, 0, 1);
        while bits <= CODE_BITS_MAX {
            huffman.first[bits] = code;
            huffman.start[bits] = bytes;
            let mut byte = 0;
            while byte < 256 {
                if CODE_BITS[byte] as usize == bits {
                    huffman.bytes[bytes as usize] = byte as u8;
                    if bits <= 8 {
                        let mut rest = 0;
                        while rest < 1 << (8 - bits) {
                            huffman.short[((code << (8 - bits)) | rest) as usize] = (byte as u8, bits as u8);
                            rest += 1;
                        }
                    }
                    huffman.count[bits] += 1;
                    bytes += 1;
                    code += 1;
                }
                byte += 1;
            }
            code <<= 1;
            bits += 1;
        }
        huffman
    }

    fn decode(&self, encoded: &[u8], text: &mut Vec<u8>) -> Result<(), Broken> {
        let mut input = encoded.iter();
        // The last `held` bits of `bits` are not decoded yet.
        let (mut bits, mut held) = (0_u64, 0_u32);
        loop {
            while held <= 56 {
                let Some(byte) = input.next() else { break };
                bits = (bits << 8) | u64::from(*byte);
                held += 8;
            }
            if held == 0 {
                return Ok(());
            }
            // The next bits, left-aligned and filled up with ones. A string is padded with ones too, and the
            // only code that consists of ones is longer than any padding.
            let next = ((bits << (64 - held)) | u64::MAX.checked_shr(held).unwrap_or(0)) >> 32;
            let next = next as u32;
            let (mut byte, short) = self.short[(next >> 24) as usize];
            let mut length = u32::from(short);
            if length == 0 {
                let found = (9..=CODE_BITS_MAX as u32).find_map(|length| {
                    let place = (next >> (32 - length)).checked_sub(self.first[length as usize])?;
                    let is_code = place < self.count[length as usize];
                    is_code.then(|| (self.bytes[(self.start[length as usize] + place) as usize], length))
                });
                let Some(found) = found else {
                    // Only ones are left: they are the padding, or the end-of-string code, which is not allowed.
                    return if held < 8 { Ok(()) } else { Err(Broken) };
                };
                (byte, length) = found;
            }
            if length > held {
                let is_padding = held < 8 && bits & ((1 << held) - 1) == (1 << held) - 1;
                return if is_padding { Ok(()) } else { Err(Broken) };
            }
            text.push(byte);
            held -= length;
        }
    }
}

/// The length in bits of each byte's code.
#[rustfmt::skip]
const CODE_BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

static STATIC_JUDGEMENTS: LazyLock<[Judgement; STATIC_TABLE.len()]> =
    LazyLock::new(|| STATIC_TABLE.map(|(name, value)| judge(name.as_bytes(), value.as_bytes())));

/// The static table of HPACK.
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
        digits.chunks(2).map(|pair| byte(pair).expect("two digits")).collect()
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Broken> {
        let mut fields = Fields::default();
        decoder.decode(block, &mut fields)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(fields.iter().map(|field| (text(field.name), text(field.value))).collect())
    }

    /// The examples of RFC 7541, appendix C.4: three requests, and what they leave in the table.
    #[test]
    fn the_examples_of_the_standard_are_decoded() {
        let mut decoder = Decoder::default();
        let mut expect = |block: &str, fields: &[(&str, &str)], table_bytes: usize| {
            let decoded = decode(&mut decoder, &hex(block)).expect("an example is sound");
            let decoded: Vec<_> =
                decoded.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(decoded, fields);
            assert_eq!(decoder.bytes, table_bytes);
        };
        let request = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let authority = (":authority", "www.example.com");
        let first = [&request[..], &[authority]].concat();
        expect("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &first, 57);
        let second = [&first[..], &[("cache-control", "no-cache")]].concat();
        expect("8286 84be 5886 a8eb 1064 9cbf", &second, 110);
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            authority,
            ("custom-key", "custom-value"),
        ];
        expect("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &third, 164);
    }

    #[test]
    fn what_is_not_hpack_is_found() {
        for block in [
            "80",                // the index 0
            "be",                // an entry that there is not
            "41",                // a value that there is not
            "41 05 61",          // one that is too short
            "7f ff ff ff ff 01", // an index without end
            "82 20",             // a resize behind a field
            "3f e2 1f",          // a table of 4097 bytes
            "41 81 fe",          // padding that is not ones
            "41 82 1f ff",       // more padding than fits into a byte
            "41 84 ff ff ff ff", // the code that ends a string
        ] {
            assert_eq!(decode(&mut Decoder::default(), &hex(block)), Err(Broken), "{block}");
        }
        assert_eq!(decode(&mut Decoder::default(), &hex("3f e1 1f 82")).map(|fields| fields.len()), Ok(1));
    }

    /// As an encoder writes it that knows nothing but the lengths of the codes.
    fn huffman(text: &[u8]) -> Vec<u8> {
        let mut order: Vec<u8> = (0..=255).collect();
        order.sort_by_key(|byte| (CODE_BITS[usize::from(*byte)], *byte));
        let (mut code, mut last, mut codes) = (0_u32, 0, [0; 256]);
        for byte in order {
            let bits = CODE_BITS[usize::from(byte)];
            code <<= bits - last;
            codes[usize::from(byte)] = code;
            (code, last) = (code + 1, bits);
        }
        let mut bits: Vec<bool> = Vec::new();
        for byte in text {
            let length = CODE_BITS[usize::from(*byte)];
            bits.extend((0..length).rev().map(|bit| codes[usize::from(*byte)] >> bit & 1 == 1));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push(true);
        }
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    proptest! {
        #[test]
        fn every_string_comes_through_its_code(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoded = Vec::new();
            prop_assert_eq!(HUFFMAN.decode(&huffman(&text), &mut decoded), Ok(()));
            prop_assert_eq!(decoded, text);
        }

        #[test]
        fn what_is_written_is_read_again(
            name in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..20_000),
        ) {
            let mut block = Vec::new();
            write_field(&mut block, &name, &value);
            let mut fields = Fields::default();
            prop_assert_eq!(Decoder::default().decode(&block, &mut fields), Ok(()));
            let field = fields.iter().next().expect("a field");
            prop_assert_eq!((field.name, field.value), (&name[..], &value[..]));
        }

        #[test]
        fn no_block_does_harm(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Decoder::default().decode(&block, &mut Fields::default());
        }
    }
}
