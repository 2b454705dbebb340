//! From flags and variables to an open store and repository. The only place of the command line that knows how stores are opened.

use super::app::App;
use super::args::Globals;
use super::{environment, secret};
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::RepositoryId;
use crate::repository::{Cache, Repository};
use crate::store::{Location, S3Options, Secret, Store, StoreOptions};
use std::path::PathBuf;

pub(super) use crate::store::Access;

/// Where the repository is.
///
/// # Errors
/// `Invalid` if it is given twice, or not at all.
pub(super) fn location(globals: &Globals) -> Result<Location> {
    let flags = (globals.repo.clone(), globals.repository_file.clone());
    let given = match flags {
        (None, None) => (
            environment::text("HOLDALL_REPOSITORY")?,
            environment::variable("HOLDALL_REPOSITORY_FILE").map(PathBuf::from),
        ),
        flags => flags,
    };
    let text = match given {
        (Some(_), Some(_)) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the repository is given by location and by file",
            ));
        }
        (Some(text), None) => text,
        (None, Some(path)) => {
            let bytes = environment::read_secret(&path)?;
            String::from_utf8_lossy(environment::without_newline(&bytes)).into_owned()
        }
        (None, None) => {
            return Err(Error::new(ErrorKind::Invalid, "no repository is given")
                .hint("give --repo LOCATION, or set HOLDALL_REPOSITORY; a location is a directory or s3://bucket/prefix"));
        }
    };
    Location::parse(&text)
}

/// Opens the store.
///
/// # Errors
/// As [`Store::open`].
pub(super) fn store(app: &App, access: Access) -> Result<Store> {
    store_at(app, &location(&app.globals)?, &FIRST, access)
}

/// Opens the store at a location, reached as some variables say.
///
/// # Errors
/// As [`Store::open`].
pub(super) fn store_at(app: &App, location: &Location, names: &Names, access: Access) -> Result<Store> {
    let globals = &app.globals;
    let s3 = if matches!(location, Location::S3 { .. }) {
        s3_options(globals, names)?
    } else {
        S3Options::default()
    };
    let options = StoreOptions {
        access,
        s3,
        limit_upload: globals.limit_upload.map(|kib| kib.saturating_mul(1024)),
        limit_download: globals.limit_download.map(|kib| kib.saturating_mul(1024)),
        ..StoreOptions::default()
    };
    Store::open(location, &options, &app.context)
}

/// Whether the store is a directory, where space can be reserved.
///
/// # Errors
/// As [`location`].
pub(super) fn is_directory(globals: &Globals) -> Result<bool> {
    Ok(matches!(location(globals)?, Location::Local(_)))
}

/// The variables that say how S3 is reached; those of secrets each with the one that names a file.
#[derive(Debug)]
pub(super) struct Names {
    endpoint: &'static str,
    region: [&'static str; 2],
    access_key_id: [&'static str; 2],
    secret_access_key: [&'static str; 2],
    session_token: [&'static str; 2],
    storage_class: &'static str,
}

/// Of the repository.
const FIRST: Names = Names {
    endpoint: "HOLDALL_S3_ENDPOINT",
    region: ["AWS_REGION", "AWS_DEFAULT_REGION"],
    access_key_id: ["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID_FILE"],
    secret_access_key: ["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE"],
    session_token: ["AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN_FILE"],
    storage_class: "HOLDALL_S3_STORAGE_CLASS",
};

/// Of the second repository, if any of them is set.
const SECOND: Names = Names {
    endpoint: "HOLDALL_COPY_S3_ENDPOINT",
    region: ["HOLDALL_COPY_REGION", "HOLDALL_COPY_DEFAULT_REGION"],
    access_key_id: ["HOLDALL_COPY_ACCESS_KEY_ID", "HOLDALL_COPY_ACCESS_KEY_ID_FILE"],
    secret_access_key: [
        "HOLDALL_COPY_SECRET_ACCESS_KEY",
        "HOLDALL_COPY_SECRET_ACCESS_KEY_FILE",
    ],
    session_token: ["HOLDALL_COPY_SESSION_TOKEN", "HOLDALL_COPY_SESSION_TOKEN_FILE"],
    storage_class: "HOLDALL_COPY_S3_STORAGE_CLASS",
};

/// The variables for the second repository: its own if any is set, else those of the first. They are never mixed, so that no key is sent to
/// an endpoint that it was not given for.
pub(super) fn names_of_second() -> &'static Names {
    let Names {
        endpoint,
        region,
        access_key_id,
        secret_access_key,
        session_token,
        storage_class,
    } = &SECOND;
    let more = [region, access_key_id, secret_access_key, session_token];
    let is_set = |name: &&str| environment::variable(name).is_some();
    if is_set(endpoint) || is_set(storage_class) || more.into_iter().flatten().any(is_set) {
        &SECOND
    } else {
        &FIRST
    }
}

fn s3_options(globals: &Globals, names: &Names) -> Result<S3Options> {
    let read = |[name, file]: [&'static str; 2]| environment::secret(name, file);
    let read_secret = |names| Ok::<_, Error>(read(names)?.map(|text| Secret::new(text.as_str())));
    let [region, default_region] = names.region;
    let region = match environment::text(region)? {
        Some(region) => Some(region),
        None => environment::text(default_region)?,
    };
    let access_key_id = read(names.access_key_id)?;
    let ca_certificates = match &globals.cacert {
        Some(path) => Some(std::fs::read(path).map_err(|e| {
            Error::new(ErrorKind::Invalid, "cannot read certificates")
                .with("path", path.display())
                .because(e)
        })?),
        None => None,
    };
    let endpoint = environment::text(names.endpoint)?;
    Ok(S3Options {
        proxy: proxy(endpoint.as_deref())?,
        endpoint,
        region,
        path_style: None,
        access_key_id: access_key_id.map(|text| text.as_str().to_owned()),
        secret_access_key: read_secret(names.secret_access_key)?,
        session_token: read_secret(names.session_token)?,
        storage_class: environment::text(names.storage_class)?,
        ca_certificates,
    })
}

/// The proxy for an endpoint, as curl chooses it: by the scheme of the endpoint, and `HTTP_PROXY` in capitals counts for nothing, since
/// a server of CGI programs sets it from what its clients send.
fn proxy(endpoint: Option<&str>) -> Result<Option<(Secret, Option<String>)>> {
    let plain = endpoint.is_some_and(|e| e.starts_with("http://"));
    let of_scheme: &[_] = if plain {
        &["http_proxy"]
    } else {
        &["https_proxy", "HTTPS_PROXY"]
    };
    let first = |names: &[&'static str]| -> Result<Option<String>> {
        for name in names {
            if let Some(text) = environment::text(name)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    };
    let proxy = match first(of_scheme)? {
        None => first(&["all_proxy", "ALL_PROXY"])?,
        proxy => proxy,
    };
    match proxy {
        Some(proxy) => Ok(Some((Secret::new(proxy), first(&["no_proxy", "NO_PROXY"])?))),
        None => Ok(None),
    }
}

/// Opens the repository: store, secret, cache. The key is stretched here, before anything draws on the byte budget.
///
/// # Errors
/// As [`Repository::open`] and [`secret::unlock`].
pub(super) async fn open(app: &App, access: Access) -> Result<Repository> {
    let store = store(app, access)?;
    let unlock = secret::unlock(app).await?;
    let place = place(&location(&app.globals)?, &FIRST)?;
    Repository::open(store, &unlock, |id| cache(app, Some((id, &place)))).await
}

/// What tells the stores of one repository and its replicas apart.
///
/// # Errors
/// `Invalid` if the endpoint is not text.
pub(super) fn place(location: &Location, names: &Names) -> Result<String> {
    match location {
        Location::Local(path) => {
            let whole = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
            Ok(whole.as_deref().unwrap_or(path).display().to_string())
        }
        Location::S3 { .. } => {
            let endpoint = environment::text(names.endpoint)?.unwrap_or_default();
            Ok(format!("{endpoint} {location}"))
        }
        Location::Memory => Ok(location.to_string()),
    }
}

/// Whether a location of the second repository leads to the first.
///
/// # Errors
/// As [`location`] and [`place`].
pub(super) fn is_first(app: &App, second: &Location) -> Result<bool> {
    let first = location(&app.globals)?;
    Ok(match (&first, second) {
        (Location::Local(one), Location::Local(other)) => environment::is_same_directory(one, other),
        (Location::S3 { .. }, Location::S3 { .. }) => {
            let endpoint = |names: &Names| {
                let text = environment::text(names.endpoint)?.unwrap_or_default();
                // As URLs, so that a slash at the end or the letters of a host make no difference.
                Ok::<_, Error>(url::Url::parse(&text).map_or(text, String::from))
            };
            first == *second && endpoint(&FIRST)? == endpoint(names_of_second())?
        }
        _ => false,
    })
}

/// The most that is kept of content, in bytes.
const BASES_MAX: u64 = 20 << 30;

/// Has content that deltas rest on kept on this machine, if the repository is not: `given` bytes, else what the variable says, else a
/// tenth of what is free. With 0 bytes, what was kept before is removed.
///
/// # Errors
/// `Invalid` if the variable is no size.
pub(super) fn use_base_cache(app: &App, repository: &Repository, given: Option<u64>) -> Result<()> {
    let given = match given {
        None => environment::size("HOLDALL_BASE_CACHE")?,
        given => given,
    };
    let Some(directory) = cache_directory(&app.globals) else {
        return Ok(());
    };
    if is_directory(&app.globals)? {
        return Ok(());
    }
    if given == Some(0) {
        return Cache::remove_bases(&directory, repository.id()).or_else(|error| {
            app.note(&format!(
                "content that deltas rest on is still kept here: {error}"
            ));
            Ok(())
        });
    }
    let free = || {
        let free = environment::free_space(&directory).unwrap_or(0);
        (free.saturating_add(Cache::size_of_bases(&directory)) / 10).min(BASES_MAX)
    };
    match Cache::open_bases(&directory, repository.id(), given.unwrap_or_else(free)) {
        Ok(cache) => repository.use_base_cache(cache),
        Err(error) => app.note(&format!("going on without a cache of content: {error}")),
    }
    Ok(())
}

/// The cache of a repository; one in memory if it is not wanted, not possible, or the repository has no id yet.
///
/// # Errors
/// `Internal` if not even memory can be had.
pub(super) fn cache(app: &App, id: Option<(RepositoryId, &str)>) -> Result<Cache> {
    let (Some((id, place)), Some(directory)) = (id, cache_directory(&app.globals)) else {
        return Cache::in_memory();
    };
    Cache::open_of(&directory, id, place).or_else(|error| {
        app.note(&format!("going on without a cache on disk: {error}"));
        Cache::in_memory()
    })
}

/// Where caches are kept, if they are wanted and there is a place.
pub(super) fn cache_directory(globals: &Globals) -> Option<PathBuf> {
    let given = globals.cache_dir.clone();
    let given = given.or_else(|| environment::variable("HOLDALL_CACHE_DIR").map(PathBuf::from));
    given
        .or_else(environment::cache_directory)
        .filter(|_| !globals.no_cache)
}
