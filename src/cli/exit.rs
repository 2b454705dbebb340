//! How a command ends: one table from kinds of error to exit codes, with what to do next where the error does not say it.

use crate::error::{Error, ErrorKind};
use std::io;

/// Done.
pub(super) const DONE: u8 = 0;
/// Done, but something is missing.
pub(super) const INCOMPLETE: u8 = 3;
/// A project is overdue, or something needs to be looked after.
pub(super) const OVERDUE: u8 = 4;
/// Data differs from what it is compared with.
pub(super) const DIFFERS: u8 = 5;
/// The repository is damaged.
pub(super) const DAMAGED: u8 = 13;
/// Wrong usage.
pub(super) const USAGE: u8 = 2;

/// Why a command ended without a report of its own.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be shown.
    Error(Error),
    /// Whoever read standard output has enough: not a failure at all.
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// An error of writing to standard output: what was to be told is lost.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Error(Error::new(ErrorKind::Source, "cannot write to standard output").because(error))
    }
}

impl Failure {
    /// An error of writing content to standard output, whose reader may have enough.
    pub(super) fn of_content(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        error.into()
    }
}

/// The exit code of a command whose outcome is `code` however its report fares: a reader that is gone does not change what was found.
///
/// # Errors
/// Another error of writing, if the command had nothing but success to tell.
pub(super) fn reported(code: u8, told: io::Result<()>) -> Ended {
    match told {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe && code == DONE => Err(error.into()),
        _ => Ok(code),
    }
}

/// The exit code of a command that ran.
pub(super) type Ended = Result<u8, Failure>;

/// The exit code for a kind, and what to do next unless the error says it.
pub(super) fn code_and_hint(kind: ErrorKind) -> (u8, Option<&'static str>) {
    match kind {
        ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Source => (1, None),
        ErrorKind::Invalid => (2, Some("`holdall help COMMAND` shows what a command takes")),
        ErrorKind::Incomplete => (3, None),
        ErrorKind::Differs => (5, None),
        ErrorKind::NoRepository => (
            10,
            Some("check the address, or make a repository with `holdall init`"),
        ),
        ErrorKind::Busy => (
            11,
            Some("wait until the other process has ended, and run the command again"),
        ),
        ErrorKind::WrongKey => (
            12,
            Some("try another password, a key file (--key-file) or the recovery phrase"),
        ),
        ErrorKind::Damaged => (13, Some("run `holdall check --read-data` to see what is hit")),
        ErrorKind::Refused => (14, None),
        ErrorKind::Unreachable => (
            15,
            Some("check the address, the network and whether the server runs; nothing was changed"),
        ),
        ErrorKind::Unreadable => (
            15,
            Some(
                "the disk fails, or its file system does: see what the system's log says of it; nothing was changed",
            ),
        ),
        ErrorKind::StoreFull => (
            16,
            Some("make room and run the command again: what was stored is not stored twice"),
        ),
        ErrorKind::Denied => (
            17,
            Some("check who may write there; list, ls, cat, restore and check need reading only"),
        ),
        ErrorKind::Unsupported => (1, Some("a newer holdall may be able to")),
        ErrorKind::Conflict => (1, Some("run the command again")),
        ErrorKind::Cancelled => (130, None),
        ErrorKind::Internal => (1, Some("this is a bug; please report it with what led to it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_code_that_its_documentation_names() {
        let source = include_str!("../error.rs");
        let (_, variants) = source.split_once("pub enum ErrorKind {").unwrap();
        let (variants, _) = variants.split_once("\n}").unwrap();
        let mut documented = Vec::new();
        let mut code = None;
        for line in variants.lines().map(str::trim) {
            if let Some((_, rest)) = line.split_once("(exit ") {
                code = rest.split(')').next().and_then(|n| n.parse::<u8>().ok());
            } else if let Some(name) = line.strip_suffix(',').filter(|l| !l.starts_with("///")) {
                documented.push((name.to_owned(), code.take().unwrap()));
            }
        }
        let kinds = [
            ErrorKind::Invalid,
            ErrorKind::NotFound,
            ErrorKind::Exists,
            ErrorKind::NoRepository,
            ErrorKind::Busy,
            ErrorKind::WrongKey,
            ErrorKind::Damaged,
            ErrorKind::Refused,
            ErrorKind::Unreachable,
            ErrorKind::Unreadable,
            ErrorKind::StoreFull,
            ErrorKind::Denied,
            ErrorKind::Incomplete,
            ErrorKind::Differs,
            ErrorKind::Unsupported,
            ErrorKind::Source,
            ErrorKind::Conflict,
            ErrorKind::Cancelled,
            ErrorKind::Internal,
        ];
        let table: Vec<_> = kinds
            .iter()
            .map(|k| (format!("{k:?}"), code_and_hint(*k).0))
            .collect();
        assert_eq!(table, documented);
    }
}
