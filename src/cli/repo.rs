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
    let globals = &app.globals;
    let location = location(globals)?;
    let s3 = if matches!(location, Location::S3 { .. }) {
        s3_options(globals)?
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
    Store::open(&location, &options, &app.context)
}

/// Whether the store is a directory, where space can be reserved.
///
/// # Errors
/// As [`location`].
pub(super) fn is_directory(globals: &Globals) -> Result<bool> {
    Ok(matches!(location(globals)?, Location::Local(_)))
}

fn s3_options(globals: &Globals) -> Result<S3Options> {
    let read_secret = |name, file| {
        let found = environment::secret(name, file)?;
        Ok::<_, Error>(found.map(|text| Secret::new(text.as_str())))
    };
    let region = match environment::text("AWS_REGION")? {
        Some(region) => Some(region),
        None => environment::text("AWS_DEFAULT_REGION")?,
    };
    let access_key_id = environment::secret("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID_FILE")?;
    let ca_certificates = match &globals.cacert {
        Some(path) => Some(std::fs::read(path).map_err(|e| {
            Error::new(ErrorKind::Invalid, "cannot read certificates")
                .with("path", path.display())
                .because(e)
        })?),
        None => None,
    };
    let endpoint = environment::text("HOLDALL_S3_ENDPOINT")?;
    Ok(S3Options {
        proxy: proxy(endpoint.as_deref())?,
        endpoint,
        region,
        path_style: None,
        access_key_id: access_key_id.map(|text| text.as_str().to_owned()),
        secret_access_key: read_secret("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE")?,
        session_token: read_secret("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN_FILE")?,
        storage_class: environment::text("HOLDALL_S3_STORAGE_CLASS")?,
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
    Repository::open(store, &unlock, |id| cache(app, Some(id))).await
}

/// The cache of a repository; one in memory if it is not wanted, not possible, or the repository has no id yet.
///
/// # Errors
/// `Internal` if not even memory can be had.
pub(super) fn cache(app: &App, id: Option<RepositoryId>) -> Result<Cache> {
    let given = app.globals.cache_dir.clone();
    let given = given.or_else(|| environment::variable("HOLDALL_CACHE_DIR").map(PathBuf::from));
    let directory = given.or_else(environment::cache_directory);
    let (Some(id), Some(directory), false) = (id, directory, app.globals.no_cache) else {
        return Cache::in_memory();
    };
    Cache::open(&directory, id).or_else(|error| {
        app.note(&format!("going on without a cache on disk: {error}"));
        Cache::in_memory()
    })
}
