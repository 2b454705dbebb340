//! Files and directories of this machine. `format-spec/62-files.md` defines keys, metadata and state.
//!
//! The source walks all roots in key order with one descriptor for each of the lowest directories, proves files unchanged by
//! their state, and reads the others ahead. The sink takes the same order and writes below one directory and nowhere else.

mod key;
mod ladder;
mod listing;
mod owner;
mod read;
mod record;
mod roots;
mod select;
mod sink;
mod source;
mod stat;
mod walk;
mod xattrs;

pub use key::{PREFIX, key_of, path_of};
pub use record::Attributes;
pub use roots::{absolute, parse_files_from};
pub use select::{Excludes, Select};
pub use sink::{FilesSink, Overwrite, RestoreRequest};
pub use source::{FilesRequest, FilesSource};
