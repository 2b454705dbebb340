//! Streams: standard input, or the standard output of commands. `format-spec/63-streams.md` defines their entries.
//!
//! A stream is never taken over from the parent, whatever its name: there is no proof that it did not change. And nothing is
//! committed unless every command ended well, for half a dump looks like a whole one.

mod cat;
mod source;

pub use cat::write_content;
pub use source::{Input, StdioSource, StreamRequest};

use crate::snapshot::entry::Key;

/// What every key of this connector starts with.
pub const PREFIX: &str = "streams/";

/// The key of the stream `name`.
pub fn key_of(name: &str) -> Key {
    Key::new(format!("{PREFIX}{name}"))
}
