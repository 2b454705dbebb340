//! Connection service files: `~/.pg_service.conf`, or the one of the system.

use super::parameters::{Parameters, Surroundings};
use crate::error::{Error, ErrorKind, Result};
use std::io::{ErrorKind as IoErrorKind, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
const SIZE_MAX: u64 = 1 << 20;
/// Where the file of the system is: Debian's place, Red Hat's, and that of a build from source.
const SYSTEM: [&str; 3] = [
    "/etc/postgresql-common",
    "/etc/sysconfig/pgsql",
    "/usr/local/pgsql/etc",
];

/// The parameters of a service, from the user's file or else from the system's.
///
/// # Errors
/// `NotFound` if no file has it, `Invalid` if a file cannot be read.
pub(super) fn read(name: &str, file: Option<&str>, surroundings: &Surroundings) -> Result<Parameters> {
    let variable = |name: &str| {
        surroundings
            .variables
            .get(name)
            .map(|value| value.as_str())
            .filter(|value| !value.is_empty())
    };
    let own = file
        .or(variable("PGSERVICEFILE"))
        .map(PathBuf::from)
        .or_else(|| Some(surroundings.home.as_ref()?.join(".pg_service.conf")));
    let system = match variable("PGSYSCONFDIR") {
        Some(dir) => vec![dir],
        None => SYSTEM.to_vec(),
    };
    let system = system
        .into_iter()
        .map(|dir| Path::new(dir).join("pg_service.conf"));
    for path in own.into_iter().chain(system) {
        if let Some(text) = content(&path)?
            && let Some(found) = section(&text, name).map_err(|error| error.with("path", path.display()))?
        {
            return Ok(found);
        }
    }
    Err(
        Error::new(ErrorKind::NotFound, "no service file defines this service")
            .with("service", name)
            .hint("services are defined in ~/.pg_service.conf, or in the file that PGSERVICEFILE names"),
    )
}

fn content(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Invalid, "cannot read the service file")
            .with("path", path.display())
            .because(error)
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let read = file
        .take(SIZE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if read as u64 > SIZE_MAX {
        return Err(failed(std::io::Error::other("it is larger than 1 MiB")));
    }
    Ok(Some(text))
}

/// The parameters below `[name]`, up to the next section.
fn section(text: &str, name: &str) -> Result<Option<Parameters>> {
    let mut found: Option<Parameters> = None;
    for (number, line) in (1_u64..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if title.split(']').next() == Some(name) {
                found = Some(Parameters::default());
            }
            continue;
        }
        let Some(parameters) = &mut found else { continue };
        let wrong = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("the service file is wrong: {why}")).with("line", number)
        };
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("this line is not NAME=VALUE"))?;
        if matches!(key, "service" | "servicefile") {
            return Err(wrong("a service cannot lead to another one"));
        }
        // As in libpq, the first value of a parameter holds.
        if parameters.get(key).is_none() {
            parameters
                .set(key, Zeroizing::new(value.to_owned()))
                .map_err(|error| error.with("line", number))?;
        }
    }
    Ok(found)
}
