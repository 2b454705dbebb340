//! Finding a `pg_dump` that fits a server.

use crate::connector::process::{self, Environment};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

/// Where packages put the programs of each major version, the version in place of `*`.
const PLACES: [&str; 6] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];
/// Where packages of the client alone put theirs.
const CLIENTS: [&str; 3] = [
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/libpq/bin",
    "/home/linuxbrew/.linuxbrew/opt/libpq/bin",
];
/// First minor versions that a hostile server cannot attack by known ways (CVE-2026-6477, CVE-2025-8714), by major version.
const PATCHED: [(u32, u32); 5] = [(14, 23), (15, 18), (16, 14), (17, 10), (18, 4)];
/// What `pg_dump --version` may say at most, in bytes.
const VERSION_MAX: u64 = 4096;

/// A version of `pg_dump`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 17 of 17.10.
    pub major: u32,
    /// 10 of 17.10; 0 of a version before its release.
    pub minor: u32,
    /// As it says itself: `17.10`.
    pub text: String,
}

/// A `pg_dump` that fits the server it was found for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgDump {
    path: PathBuf,
    version: Version,
}

impl PgDump {
    /// Finds one for a server: the one `named`, else of all in the directories `search` and where packages put them the one of the
    /// server's own major version, else the oldest that is newer. An older one refuses to dump the server.
    ///
    /// # Errors
    /// `Unsupported` if none fits, with the command that installs one; `Invalid` if the named one does not; `Cancelled`.
    pub async fn find(
        context: &Context,
        named: Option<&Path>,
        search: &[PathBuf],
        server_version_num: u32,
    ) -> Result<Self> {
        let major = server_version_num / 10_000;
        let found = match named {
            Some(path) => Self::named(context, path, major).await?,
            None => Self::best(context, search, major).await?,
        };
        let Version { major, minor, text } = &found.version;
        if PATCHED.iter().any(|(m, first)| m == major && minor < first) || *major < PATCHED[0].0 {
            let text = format!("pg_dump {text} has known holes against a hostile server; update it");
            context.emit(&Event::Note { text });
        }
        Ok(found)
    }

    /// Tells the programs apart that [`Self::find`] chooses from, without running them: their paths, and of each file its number, size
    /// and time. Another one, or a new version of one, gives another number.
    pub fn choice(named: Option<&Path>, search: &[PathBuf]) -> [u8; 32] {
        let mut all = blake3::Hasher::new();
        let candidates = named.map(Path::to_path_buf).into_iter().chain(candidates(search));
        for (path, data) in candidates.filter_map(|path| Some((path.clone(), std::fs::metadata(&path).ok()?)))
        {
            let name = path.as_os_str().as_encoded_bytes();
            all.update(&(name.len() as u64).to_le_bytes()).update(name);
            let (seconds, nanos) = (data.mtime(), data.mtime_nsec());
            for number in [
                data.ino(),
                data.len(),
                seconds.cast_unsigned(),
                nanos.cast_unsigned(),
            ] {
                all.update(&number.to_le_bytes());
            }
        }
        all.update(&[named.is_some().into()]);
        *all.finalize().as_bytes()
    }

    async fn named(context: &Context, path: &Path, major: u32) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Invalid, what).with("path", path.display());
        let Some(version) = version(context, path).await? else {
            return Err(wrong("this is not pg_dump, or does not run").hint(format!(
                "--pg-dump names the program itself, of version {major} or newer"
            )));
        };
        if version.major < major {
            return Err(wrong("this pg_dump is older than the server")
                .with("its version", version.text)
                .with("the server's", major)
                .hint(install(major)));
        }
        Ok(Self {
            path: path.to_owned(),
            version,
        })
    }

    async fn best(context: &Context, search: &[PathBuf], major: u32) -> Result<Self> {
        let mut found: Vec<Self> = Vec::new();
        for path in candidates(search) {
            // Debian's wrapper chooses a version anew each time it runs; the versions themselves are among the places.
            let wrapper = path
                .canonicalize()
                .is_ok_and(|real| real.file_name().is_some_and(|name| name == "pg_wrapper"));
            if wrapper || !path.is_file() || found.iter().any(|known| known.path == path) {
                continue;
            }
            if let Some(version) = version(context, &path).await? {
                found.push(Self { path, version });
            }
        }
        let mut seen: Vec<String> = found.iter().map(|f| f.version.text.clone()).collect();
        seen.sort();
        seen.dedup();
        choose(found, major).ok_or_else(|| {
            let error = Error::new(ErrorKind::Unsupported, "there is no pg_dump that fits the server")
                .with("the server's version", major)
                .hint(install(major));
            match seen.as_slice() {
                [] => error,
                seen => error.with("found only", seen.join(", ")),
            }
        })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.version
    }
}

/// Where one may be.
fn candidates(search: &[PathBuf]) -> impl Iterator<Item = PathBuf> + '_ {
    let directories = search.iter().cloned().chain(places());
    directories.map(|directory| directory.join("pg_dump"))
}

/// The first of the server's own version, else the first of the oldest that is newer.
fn choose(found: Vec<PgDump>, major: u32) -> Option<PgDump> {
    let fitting = found.into_iter().filter(|dump| dump.version.major >= major);
    fitting.min_by_key(|dump| dump.version.major)
}

/// What to do where none fits.
fn install(major: u32) -> String {
    format!(
        "apt-get install postgresql-client-{major} (for versions that the system does not have, first \
         /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh of the package postgresql-common; on macOS: brew install \
         postgresql@{major}), or name one with --pg-dump PATH"
    )
}

/// Directories of the packages' places that are there, the newest version first.
fn places() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in PLACES {
        let Some((before, behind)) = place.split_once('*') else {
            continue;
        };
        let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
            if let Some(number) = number {
                found.push((number, PathBuf::from(format!("{before}{number}{behind}"))));
            }
        }
    }
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let versions = found.into_iter().map(|(_, path)| path);
    versions.chain(CLIENTS.map(PathBuf::from)).collect()
}

/// What a program says of its version; nothing if it does not run or is something else.
async fn version(context: &Context, path: &Path) -> Result<Option<Version>> {
    context.check_cancelled()?;
    let argv = [path.into(), "--version".into()];
    let Ok(mut child) = process::start(context, &argv, &Environment::default()) else {
        return Ok(None);
    };
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout() {
        let read = async { stdout.take(VERSION_MAX).read_to_end(&mut said).await };
        let patience = std::time::Duration::from_secs(10);
        if !matches!(tokio::time::timeout(patience, read).await, Ok(Ok(_))) {
            return Ok(None);
        }
    }
    if child.wait().await.is_err() {
        return Ok(None);
    }
    Ok(parse(&String::from_utf8_lossy(&said)))
}

/// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse(said: &str) -> Option<Version> {
    let text = said
        .strip_prefix("pg_dump (PostgreSQL) ")?
        .split_whitespace()
        .next()?;
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse::<u32>().ok()
    };
    let major = number(text)?;
    let minor = text.split_once('.').and_then(|(_, minor)| number(minor));
    Some(Version {
        major,
        minor: minor.unwrap_or(0),
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_said() {
        let of = |said| parse(said).map(|v| (v.major, v.minor, v.text));
        let debian = "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(of(debian), Some((15, 18, "15.18".into())));
        assert_eq!(
            of("pg_dump (PostgreSQL) 19beta1\n"),
            Some((19, 0, "19beta1".into()))
        );
        assert_eq!(of("pg_dumpall (PostgreSQL) 15.18"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn the_servers_own_version_is_preferred_and_then_the_oldest_newer_one() {
        let dump = |major: u32, path: &str| PgDump {
            path: path.into(),
            version: Version {
                major,
                minor: 1,
                text: format!("{major}.1"),
            },
        };
        let all = || vec![dump(14, "a"), dump(18, "b"), dump(17, "c"), dump(17, "d")];
        let chosen = |major| choose(all(), major).map(|dump| dump.path);
        assert_eq!(chosen(17), Some("c".into()));
        assert_eq!(chosen(15), Some("c".into()));
        assert_eq!(chosen(12), Some("a".into()));
        assert_eq!(chosen(19), None);
    }
}
