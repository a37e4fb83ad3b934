//! The frames that a connection sends, as far as its socket has to know them.
//!
//! Our HTTP/2 library cannot be told to end a connection with a reason of ours. The socket therefore writes that
//! GOAWAY frame itself, which it may do only between two frames of the library. The socket also has to
//! know whether a client was answered, because only unanswered pings count as a flood.

const FRAME_HEADER_LEN: usize = 9;
const TYPE_DATA: u8 = 0;
const TYPE_HEADERS: u8 = 1;
const TYPE_GOAWAY: u8 = 7;

/// Follows what one connection sends.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// The part of a frame's header that was sent, while the rest of the header was not.
    header: [u8; FRAME_HEADER_LEN],
    header_len: usize,
    /// Bytes of the current frame's payload that were not sent yet.
    payload_left: usize,
    /// HEADERS and DATA frames since [`Outbound::take_answers`] was last called.
    answers: u32,
}

impl Outbound {
    /// Follows bytes that were sent.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(bytes.len());
                self.payload_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (FRAME_HEADER_LEN - self.header_len).min(bytes.len());
            let (part, rest) = bytes.split_at(taken);
            self.header[self.header_len..self.header_len + taken].copy_from_slice(part);
            self.header_len += taken;
            bytes = rest;
            if self.header_len == FRAME_HEADER_LEN {
                let [high, middle, low, kind, ..] = self.header;
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.header_len = 0;
                self.answers += u32::from(matches!(kind, TYPE_DATA | TYPE_HEADERS));
            }
        }
    }

    /// Whether every frame that was begun was sent to its end.
    pub(super) fn is_between_frames(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0
    }

    /// Bytes that may be sent before this has to be asked again, while a frame is not sent to its end.
    pub(super) fn left_of_frame(&self) -> usize {
        match self.header_len {
            0 => self.payload_left,
            length => FRAME_HEADER_LEN - length,
        }
    }

    /// HEADERS and DATA frames that were sent since this was last called.
    pub(super) fn take_answers(&mut self) -> u32 {
        std::mem::take(&mut self.answers)
    }
}

/// The frame that ends a connection.
pub(super) fn goaway(last_stream_id: u32, error_code: u32, debug_data: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (8 + debug_data.len() as u32).to_be_bytes();
    let mut frame = length.to_vec();
    frame.extend([TYPE_GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(last_stream_id.to_be_bytes());
    frame.extend(error_code.to_be_bytes());
    frame.extend(debug_data);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(vec![0xff; payload]);
        frame
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let frames = [frame(4, 0), frame(TYPE_HEADERS, 30), frame(TYPE_DATA, 300), frame(6, 8)];
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        let bytes = frames.concat();
        for cut in 1..60 {
            let mut outbound = Outbound::default();
            let mut sent = 0;
            for piece in bytes.chunks(cut) {
                outbound.sent(piece);
                sent += piece.len();
                assert_eq!(outbound.is_between_frames(), ends.contains(&sent), "{sent} in pieces of {cut}");
                let within = outbound.left_of_frame();
                assert!(ends.iter().all(|end| *end <= sent || *end >= sent + within), "{sent}, {within}");
            }
            assert_eq!(outbound.take_answers(), 2, "in pieces of {cut}");
        }
    }

    #[test]
    fn a_goaway_is_one_whole_frame() {
        let frame = goaway(5, 11, b"too_many_pings");
        assert_eq!(&frame[..9], [0, 0, 22, 7, 0, 0, 0, 0, 0]);
        assert_eq!(&frame[9..17], [0, 0, 0, 5, 0, 0, 0, 11]);
        let mut outbound = Outbound::default();
        outbound.sent(&frame);
        assert!(outbound.is_between_frames());
    }
}
