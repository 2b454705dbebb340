//! What the process is given besides its arguments: variables, host name, directories. Read here and nowhere else.

use super::parse;
use crate::connector::postgres::connect::Surroundings;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The largest file of a secret that is read, in bytes.
const SECRET_MAX: u64 = 64 << 10;

/// A variable that is set and not empty.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The names of variables that begin like this.
pub(super) fn names(start: &str) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    names.sort_unstable();
    names
}

/// A variable as text.
///
/// # Errors
/// `Invalid` if it is not UTF-8; the message does not hold it.
pub(super) fn text(name: &'static str) -> Result<Option<String>> {
    variable(name)
        .map(|value| {
            value.into_string().map_err(|_| {
                Error::new(ErrorKind::Invalid, "an environment variable is not text").with("variable", name)
            })
        })
        .transpose()
}

/// A secret from the variable `name`, or from the file that `NAME_FILE` names.
///
/// # Errors
/// `Invalid` if both are set, or if the file cannot be read.
pub(super) fn secret(name: &'static str, file_name: &'static str) -> Result<Option<Zeroizing<String>>> {
    let direct = text(name)?;
    let Some(path) = variable(file_name) else {
        return Ok(direct.map(Zeroizing::new));
    };
    if direct.is_some() {
        return Err(
            Error::new(ErrorKind::Invalid, format!("both {name} and {file_name} are set"))
                .hint("unset one of them"),
        );
    }
    let bytes = read_secret(Path::new(&path))?;
    let text = std::str::from_utf8(without_newline(&bytes)).map_err(|_| {
        Error::new(ErrorKind::Invalid, "the file of a secret is not text").with("variable", file_name)
    })?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// The bytes of a small file that holds a secret.
///
/// # Errors
/// `Invalid` if it cannot be read or is larger than 64 KiB.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Invalid, "cannot read the file of a secret")
            .with("path", path.display())
            .because(error)
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(SECRET_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > SECRET_MAX {
        return Err(
            Error::new(ErrorKind::Invalid, "the file of a secret is larger than 64 KiB")
                .with("path", path.display()),
        );
    }
    Ok(bytes)
}

/// Without the newline that editors and `echo` put behind a secret.
pub(super) fn without_newline(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// The name of this host: `HOLDALL_HOST`, else what the kernel says.
///
/// # Errors
/// `Invalid` if the variable is not text.
pub(super) fn host() -> Result<String> {
    if let Some(host) = text("HOLDALL_HOST")? {
        return Ok(host);
    }
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    Ok(if name.is_empty() { "localhost".into() } else { name })
}

/// What libpq takes from the environment to complete a connection string.
///
/// # Errors
/// `Invalid` if a variable is not text; the message does not hold it.
pub(super) fn surroundings() -> Result<Surroundings> {
    Surroundings::gather(variable, std::env::home_dir())
}

/// Where caches are kept, if there is a place for them.
pub(super) fn cache_directory() -> Option<PathBuf> {
    if let Some(cache) = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
    {
        return Some(cache.join("holdall"));
    }
    std::env::home_dir()
        .filter(|home| home.is_absolute())
        .map(|home| home.join(".cache/holdall"))
}

/// Whether two paths lead to one directory, by links, mounts or another spelling. What is not there leads nowhere.
pub(super) fn is_same_directory(one: &Path, other: &Path) -> bool {
    let place = |path| rustix::fs::stat(path).map(|found| (found.st_dev, found.st_ino));
    match (place(one), place(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Bytes that may still be written in a directory, or in the nearest one above it that there is.
pub(super) fn free_space(directory: &Path) -> Option<u64> {
    let there = directory.ancestors().find(|path| path.is_dir())?;
    let told = rustix::fs::statvfs(there).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

/// A variable that holds a size.
///
/// # Errors
/// `Invalid` if it does not.
pub(super) fn size(name: &'static str) -> Result<Option<u64>> {
    let Some(text) = text(name)? else {
        return Ok(None);
    };
    let bytes =
        parse::bytes(&text).map_err(|why| Error::new(ErrorKind::Invalid, format!("{name}: {why}")))?;
    Ok(Some(bytes))
}

/// The directory that relative paths begin at.
///
/// # Errors
/// `Source` if it is gone.
pub(super) fn working_directory() -> Result<PathBuf> {
    std::env::current_dir()
        .map_err(|e| Error::new(ErrorKind::Source, "cannot tell the working directory").because(e))
}

/// The directories of PATH.
pub(super) fn program_directories() -> Vec<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    // A relative one would name another program from another directory.
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .collect()
}

/// The directory for temporary files.
pub(super) fn temporary_directory() -> PathBuf {
    std::env::temp_dir()
}

/// This program's file.
///
/// # Errors
/// `Source` if the system does not tell.
pub(super) fn own_program() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|e| Error::new(ErrorKind::Source, "cannot find this program's file").because(e))
}
