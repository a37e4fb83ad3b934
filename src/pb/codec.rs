//! How messages become bytes on a connection, and back.
//!
//! The library begins each message with a buffer of 8 KiB, of which most messages need a few hundred bytes, and an idle
//! stream has two of them. Here a buffer begins small, and grows at once to what a message needs.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::ProstDecoder;

/// With what a buffer for a message begins.
const MESSAGE_BUFFER_BYTES: usize = 512;

/// How many bytes of encoded messages of a stream wait for another one to come before they are sent.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// Of calls whose answers are `T` and whose requests are `U`.
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

pub(crate) struct Encoder<T>(PhantomData<T>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Codec<T, U> {
        Codec(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(buffer_settings())
    }
}

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffer_settings()
    }
}

fn buffer_settings() -> BufferSettings {
    BufferSettings::new(MESSAGE_BUFFER_BYTES, SEND_BUFFER_BYTES)
}
