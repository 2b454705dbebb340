//! From a location and options to a store.

use super::fault::{Attempt, Place};
use super::limit::{Gate, Limiter};
use super::local::LocalDir;
use super::location::Location;
use super::options::{Access, S3Options, StoreOptions};
use super::secret::{Redactor, Secret};
use super::wire::Wire;
use super::{Shared, Store};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use object_store::aws::{AmazonS3Builder, AwsCredential, S3ConditionalPut};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

const UPLOADS_LOCAL: usize = 2;
const UPLOADS_REMOTE: usize = 8;

pub(super) fn open(location: &Location, options: &StoreOptions, context: &Context) -> Result<Store> {
    let label = location.to_string();
    match location {
        Location::Memory => over(
            Arc::new(InMemory::new()),
            (&label, Path::default()),
            options,
            context,
        ),
        Location::Local(path) => {
            let create = options.access == Access::Create;
            let raw = LocalDir::open(path, create, Limiter::new(options.limit_upload)).map_err(|e| {
                let place = Place {
                    attempt: Attempt::Read,
                    object: "",
                    store: &label,
                    redactor: &Redactor::default(),
                };
                place.error(&e)
            })?;
            let mut shared = shared(Arc::new(raw), (&label, Path::default()), options, context)?;
            shared.directory = true;
            Ok(shared.store(options))
        }
        Location::S3 { bucket, prefix } => {
            let root = Path::parse(prefix)
                .map_err(|e| Error::new(ErrorKind::Invalid, "not a prefix for objects").because(e))?;
            let wire = Wire::new(&options.s3, options.timeouts, Limiter::new(options.limit_upload))?;
            let mut shared = shared(
                s3(bucket, options, &wire, false)?,
                (&label, root),
                options,
                context,
            )?;
            shared.bulk = Some(s3(bucket, options, &wire, true)?);
            Ok(shared.store(options))
        }
    }
}

pub(super) fn over(
    raw: Arc<dyn ObjectStore>,
    (label, root): (&str, Path),
    options: &StoreOptions,
    context: &Context,
) -> Result<Store> {
    Ok(shared(raw, (label, root), options, context)?.store(options))
}

fn shared(
    raw: Arc<dyn ObjectStore>,
    (label, root): (&str, Path),
    options: &StoreOptions,
    context: &Context,
) -> Result<Shared> {
    let uploads = options.uploads.unwrap_or(if label.starts_with("s3://") {
        UPLOADS_REMOTE
    } else {
        UPLOADS_LOCAL
    });
    Ok(Shared {
        raw,
        bulk: None,
        refuses_bulk: AtomicBool::new(false),
        directory: false,
        root,
        label: label.to_owned(),
        redactor: Redactor::new(secrets(&options.s3)),
        storage_class: options.s3.storage_class.clone().map(Into::into),
        retry: options.retry,
        download: Limiter::new(options.limit_download),
        uploads: Gate::new(uploads),
        observer: context.observer.clone(),
        cancel: context.cancel.clone(),
        answered: AtomicBool::new(false),
        jitter: AtomicU64::new(u64::from_le_bytes(context.random.bytes()?)),
    })
}

impl Shared {
    fn store(self, options: &StoreOptions) -> Store {
        Store {
            shared: Arc::new(self),
            writable: options.access != Access::ReadOnly,
        }
    }
}

fn secrets(s3: &S3Options) -> impl Iterator<Item = Secret> {
    let proxy = s3.proxy.as_ref().map(|(url, _)| url);
    [s3.secret_access_key.as_ref(), s3.session_token.as_ref(), proxy]
        .into_iter()
        .flatten()
        .cloned()
        .collect::<Vec<_>>()
        .into_iter()
}

/// `bulk` deletes many objects by one request; the other handle deletes one, and tells why it could not.
fn s3(bucket: &str, options: &StoreOptions, wire: &Wire, bulk: bool) -> Result<Arc<dyn ObjectStore>> {
    let s3 = &options.s3;
    fits(s3.storage_class.as_deref())?;
    let path_style = s3.path_style.unwrap_or(s3.endpoint.is_some());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(s3.region.as_deref().unwrap_or("us-east-1"))
        .with_virtual_hosted_style_request(!path_style)
        // Given outright, so that the builder never asks a metadata service for an identity.
        .with_credentials(Arc::new(StaticCredentialProvider::new(credentials(s3)?)))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_bulk_delete(!bulk)
        .with_http_connector(wire.clone())
        .with_client_options(ClientOptions::new().with_timeout_disabled())
        // Retries are ours: the library's would hide that an earlier try of a put may have got through.
        .with_retry(RetryConfig {
            max_retries: 0,
            retry_timeout: Duration::ZERO,
            ..RetryConfig::default()
        });
    if let Some(endpoint) = &s3.endpoint {
        let (endpoint, plain) = endpoint_of(endpoint, bucket, path_style)?;
        builder = builder.with_endpoint(endpoint).with_allow_http(plain);
    }
    let store = builder
        .build()
        .map_err(|e| Error::new(ErrorKind::Invalid, "the S3 options do not fit").because(e.to_string()))?;
    Ok(Arc::new(store))
}

/// Refuses a storage class from which nothing can be read at once: the next snapshot, a check and the collector all read packs.
fn fits(class: Option<&str>) -> Result<()> {
    let Some(class) = class else { return Ok(()) };
    let wrong = |why| Err(Error::new(ErrorKind::Invalid, why).with("storage class", class.escape_debug()));
    let known = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if class.is_empty() || class.len() > 64 || !class.chars().all(known) {
        return wrong("not the name of a storage class");
    }
    if matches!(class, "GLACIER" | "DEEP_ARCHIVE") {
        return wrong("objects of this storage class cannot be read before they are thawed").map_err(|e| {
            e.hint("take one that is read at once: STANDARD_IA, INTELLIGENT_TIERING, GLACIER_IR")
        });
    }
    Ok(())
}

/// The endpoint as the library wants it (with the bucket in the host unless path style), and whether it is plain HTTP.
fn endpoint_of(text: &str, bucket: &str, path_style: bool) -> Result<(String, bool)> {
    let wrong = |why: &str| {
        // The text is not shown: it may hold a password.
        Error::new(ErrorKind::Invalid, format!("the S3 endpoint is not valid: {why}"))
            .hint("write https://host or https://host:port")
    };
    let mut url = url::Url::parse(text).map_err(|_| wrong("it is not a URL"))?;
    let plain = match url.scheme() {
        "https" => false,
        "http" => true,
        _ => return Err(wrong("it begins with neither https:// nor http://")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("credentials do not belong in a URL"));
    }
    if url.query().is_some() || url.fragment().is_some() || url.path() != "/" {
        return Err(wrong("it must be a host without path or query"));
    }
    if !path_style {
        let host = format!(
            "{bucket}.{}",
            url.host_str().ok_or_else(|| wrong("it has no host"))?
        );
        url.set_host(Some(&host))
            .map_err(|_| wrong("the bucket cannot be part of its host; ask for path style"))?;
    }
    Ok((url.as_str().trim_end_matches('/').to_owned(), plain))
}

fn credentials(s3: &S3Options) -> Result<AwsCredential> {
    match (&s3.access_key_id, &s3.secret_access_key) {
        (Some(id), Some(secret)) => Ok(AwsCredential {
            key_id: id.clone(),
            secret_key: secret.reveal().to_owned(),
            token: s3.session_token.as_ref().map(|t| t.reveal().to_owned()),
        }),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            "an S3 store needs an access key and its secret key",
        )
        .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; no other place is searched")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_say_themselves_whether_they_are_plain() {
        assert_eq!(
            endpoint_of("http://localhost:9000/", "b", true).unwrap(),
            ("http://localhost:9000".into(), true)
        );
        assert_eq!(
            endpoint_of("https://s3.example.com", "b", false).unwrap(),
            ("https://b.s3.example.com".into(), false)
        );
        for wrong in [
            "localhost:9000",
            "ftp://x",
            "https://k:topsecret@x",
            "https://x/y",
            "https://x?y",
        ] {
            let error = endpoint_of(wrong, "b", true).unwrap_err();
            assert!(!format!("{error:?}").contains("topsecret"));
        }
    }

    #[test]
    fn only_storage_classes_that_are_read_at_once_are_taken() {
        for good in [None, Some("STANDARD_IA"), Some("GLACIER_IR")] {
            fits(good).unwrap();
        }
        for wrong in [
            "",
            "standard",
            "A\r\nx-amz-acl: public-read",
            "DEEP_ARCHIVE",
            "GLACIER",
        ] {
            assert_eq!(
                fits(Some(wrong)).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{wrong}"
            );
        }
        let hint = fits(Some("GLACIER")).unwrap_err();
        assert!(hint.advice().unwrap().contains("GLACIER_IR"));
    }

    #[test]
    fn without_explicit_credentials_nothing_is_opened() {
        let context = Context::deterministic(1).unwrap();
        let location = Location::parse("s3://bucket/x").unwrap();
        let error = Store::open(&location, &StoreOptions::default(), &context).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.advice().unwrap().contains("AWS_ACCESS_KEY_ID"));
    }
}
