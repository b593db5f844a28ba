//! The bytes of a message: a length of four bytes, a kind of two (both in network order), and the
//! message's fields as [postcard](https://postcard.jamesmunns.com/wire-format) writes them.
//!
//! The length counts what follows it and is at most [`MAX_FRAME`]. Decoding reads from a slice that
//! is there already, and allocates no more than a small multiple of it.

use serde::{Deserialize, Serialize};

use super::message::Message;

/// The most bytes of a frame after its length.
pub const MAX_FRAME: usize = 64 * 1024;

/// The bytes of a frame's length.
pub const LENGTH: usize = 4;

const KIND: usize = 2;

const HELLO: u16 = 1;
const ALIVE: u16 = 2;
const CONFIG: u16 = 3;
const ROLES: u16 = 4;
const HEALTH: u16 = 5;
const TAKE_OVER: u16 = 6;
const TAKEN_OVER: u16 = 7;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A frame that nobody would send.
    #[error("a frame of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// A frame without a kind.
    #[error("a frame of {0} bytes, which is too short for any message")]
    TooShort(usize),
    /// The fields are not those of the kind.
    #[error("a message of kind {kind} that does not read: {source}")]
    Malformed {
        /// The kind.
        kind: u16,
        /// What is wrong.
        source: postcard::Error,
    },
}

/// The bytes of `message`, its length included.
///
/// # Errors
///
/// It is longer than a frame may be.
pub fn encode(message: &Message) -> Result<Vec<u8>, CodecError> {
    match message {
        Message::Hello(fields) => frame(HELLO, fields),
        Message::Alive(fields) => frame(ALIVE, fields),
        Message::Config(fields) => frame(CONFIG, fields),
        Message::Roles(fields) => frame(ROLES, fields),
        Message::Health(fields) => frame(HEALTH, fields),
        Message::TakeOver(fields) => frame(TAKE_OVER, fields),
        Message::TakenOver(fields) => frame(TAKEN_OVER, fields),
    }
}

/// How many bytes follow a frame's length.
///
/// # Errors
///
/// More than a frame may have, or too few for a kind.
pub fn frame_length(length: [u8; LENGTH]) -> Result<usize, CodecError> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    match length {
        0..KIND => Err(CodecError::TooShort(length)),
        KIND..=MAX_FRAME => Ok(length),
        _ => Err(CodecError::TooLong(length)),
    }
}

/// The message in the bytes that follow a frame's length; none where its kind is not known.
///
/// # Errors
///
/// The bytes are not what the kind says.
pub fn decode(frame: &[u8]) -> Result<Option<Message>, CodecError> {
    if frame.len() > MAX_FRAME {
        return Err(CodecError::TooLong(frame.len()));
    }
    let Some((kind, fields)) = frame.split_first_chunk::<KIND>() else {
        return Err(CodecError::TooShort(frame.len()));
    };
    let kind = u16::from_be_bytes(*kind);
    Ok(Some(match kind {
        HELLO => Message::Hello(read(kind, fields)?),
        ALIVE => Message::Alive(read(kind, fields)?),
        CONFIG => Message::Config(read(kind, fields)?),
        ROLES => Message::Roles(read(kind, fields)?),
        HEALTH => Message::Health(read(kind, fields)?),
        TAKE_OVER => Message::TakeOver(read(kind, fields)?),
        TAKEN_OVER => Message::TakenOver(read(kind, fields)?),
        _ => return Ok(None),
    }))
}

fn frame(kind: u16, fields: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![0; LENGTH];
    bytes.extend(kind.to_be_bytes());
    let mut bytes = postcard::to_extend(fields, bytes).map_err(malformed(kind))?;
    let length = bytes.len() - LENGTH;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_FRAME => {
            for (to, from) in bytes.iter_mut().zip(prefix.to_be_bytes()) {
                *to = from;
            }
            Ok(bytes)
        }
        _ => Err(CodecError::TooLong(length)),
    }
}

/// Texts are read where they lie, so that a claimed length allocates nothing.
fn read<'a, T: Deserialize<'a>>(kind: u16, fields: &'a [u8]) -> Result<T, CodecError> {
    postcard::take_from_bytes(fields)
        .map(|(fields, _)| fields)
        .map_err(malformed(kind))
}

fn malformed(kind: u16) -> impl Fn(postcard::Error) -> CodecError {
    move |source| CodecError::Malformed { kind, source }
}
