//! How a store is opened.

use super::secret::Secret;
use std::time::Duration;

/// What a handle may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Read and list; every write is refused before it is sent.
    #[default]
    ReadOnly,
    /// Read, write and delete.
    ReadWrite,
    /// As `ReadWrite`, and a directory that is missing is made. Buckets are never made.
    Create,
}

/// How a store is opened. `Default` is read-only, with the ordinary timeouts and no limits.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// What the handle may do.
    pub access: Access,
    /// How S3 is reached; used by S3 locations only.
    pub s3: S3Options,
    /// Bytes per second that may be sent, all uploads together; none: no limit. At least 1 KiB/s is granted.
    pub limit_upload: Option<u64>,
    /// Bytes per second that may be received, all downloads together; none: no limit. At least 1 KiB/s is granted.
    pub limit_download: Option<u64>,
    /// Uploads at once, at most; none: 2 for a directory, 8 for S3.
    pub uploads: Option<usize>,
    /// When a request counts as lost.
    pub timeouts: Timeouts,
    /// How often and when a request is sent again.
    pub retry: Retry,
}

/// How S3 is reached. Credentials are explicit: nothing is looked up in the environment, in files, or at a metadata
/// service, so that an address given by somebody else cannot make this machine's own identity act for him.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// `https://host:port` or `http://host:port`; none: AWS. Plain HTTP is used only if this says so.
    pub endpoint: Option<String>,
    /// The region; none: `us-east-1`.
    pub region: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`; none: yes if there is an endpoint.
    pub path_style: Option<bool>,
    /// The access key's id.
    pub access_key_id: Option<String>,
    /// The access key.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// The storage class of packs, as the server calls it (`STANDARD_IA`); none, and for every other object: the bucket's own.
    pub storage_class: Option<String>,
    /// Certificates (PEM) that are trusted besides those of the system.
    pub ca_certificates: Option<Vec<u8>>,
    /// A proxy for all requests, and the hosts that are reached without it (as `NO_PROXY` writes them).
    pub proxy: Option<(Secret, Option<String>)>,
}

/// When a request counts as lost. Nothing limits how long a request takes that makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For name look-up, connection and TLS handshake together.
    pub connect: Duration,
    /// Without a byte moved in either direction.
    pub stall: Duration,
    /// The slowest line, in bytes per second, on which what the system has buffered of an upload can still arrive in
    /// time: the wait for the answer is prolonged by the time this rate needs for up to 8 MiB.
    pub slowest_line: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(60),
            slowest_line: 32 << 10,
        }
    }
}

/// How often and when a request is sent again. The waits double from `first` to `longest`, each shortened by up to half
/// at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is sent before it fails; a read that moved bytes starts to count anew.
    pub attempts: u32,
    /// The same while the store has never answered: an address that is wrong should be told at once.
    pub first_contact: u32,
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 8,
            first_contact: 2,
            first: Duration::from_millis(250),
            longest: Duration::from_secs(20),
        }
    }
}
