//! JSON on standard output: one value on one line.

use serde::Serialize;
use std::io::{self, BufWriter, Write};

/// Prints one value.
///
/// # Errors
/// What writing says.
pub(in crate::cli) fn line(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A buffered writer of many lines; [`Write::flush`] it at the end.
pub(in crate::cli) fn lines() -> BufWriter<io::Stdout> {
    BufWriter::with_capacity(64 << 10, io::stdout())
}
