//! What of `holdall snapshot` is about databases.

use crate::cli::{environment, parse};
use crate::connector::postgres::catalog::Filter;
use crate::connector::postgres::connect::Server;
use crate::connector::postgres::source::{Contents, JOBS};
use crate::connector::postgres::{PostgresRequest, SessionOptions};
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most connections that read at once.
const JOBS_MAX: u64 = 64;

/// What of a database is kept.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Type {
    /// Statements without rows
    Schema,
    /// Rows, large objects and values of sequences without statements
    Data,
    /// Everything
    #[default]
    Database,
}

/// Flags for databases.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Databases")]
pub(super) struct DatabaseArgs {
    /// Keep a database; without URL the one that HOLDALL_DB_URL or else SUPABASE_DB_URL names, which is also kept if nothing is given
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    database: Option<String>,
    /// Keep every database of the server
    #[arg(long)]
    all_databases: bool,
    /// Keep only schemas that match, by the rules of pg_dump
    #[arg(long, value_name = "PATTERN")]
    schema: Vec<String>,
    /// Leave out schemas that match
    #[arg(long, value_name = "PATTERN")]
    exclude_schema: Vec<String>,
    /// Keep only tables that match
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,
    /// Leave out tables that match
    #[arg(long, value_name = "PATTERN")]
    exclude_table: Vec<String>,
    /// Leave out the schemas that the platform of a Supabase project manages
    #[arg(long)]
    user_schemas_only: bool,
    /// What of the database is kept
    #[arg(long = "type", value_enum, default_value_t, value_name = "TYPE")]
    kind: Type,
    /// Connections that read at once
    #[arg(long, value_name = "N", default_value_t = JOBS as u64, value_parser = clap::value_parser!(u64).range(1..=JOBS_MAX))]
    jobs: u64,
    /// The pg_dump to run for statements [default: the one that fits the server]
    #[arg(long, value_name = "FILE")]
    pg_dump: Option<PathBuf>,
    /// How long a lock on a table is waited for
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = parse::seconds)]
    lock_timeout: u64,
    /// Give up when the snapshot of the database, which keeps the server from cleaning up, is older
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = parse::seconds)]
    max_snapshot_age: u64,
    /// Have the server make a checkpoint for each database, so that its WAL summaries (summarize_wal, PostgreSQL 17 and later) show at
    /// once what did not change in large tables; the role needs pg_checkpoint
    #[arg(long)]
    checkpoint: bool,
}

/// The databases that are asked for, and what people should know of how they were named.
pub(super) struct Databases {
    pub(super) requests: Vec<PostgresRequest>,
    pub(super) warnings: Vec<String>,
}

/// Whether a path of the command line is the address of a database.
pub(super) fn is_address(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|text| text.starts_with("postgres://") || text.starts_with("postgresql://"))
}

impl DatabaseArgs {
    /// What to read from `addresses`, from --database, or, if nothing else is given, from what the environment names.
    pub(super) fn requests(
        &self,
        addresses: &[PathBuf],
        nothing_else: bool,
        dry_run: bool,
    ) -> Result<Databases> {
        let mut given: Vec<String> = addresses
            .iter()
            .map(|address| address.to_string_lossy().into_owned())
            .collect();
        given.extend(self.database.iter().filter(|url| !url.is_empty()).cloned());
        let mut warnings = Vec::new();
        let typed = given.len();
        let asked = self.database.as_ref().is_some_and(String::is_empty);
        if asked || (nothing_else && given.is_empty()) {
            match environment_url()? {
                Some(url) => given.push(url),
                None if asked => {
                    return Err(Error::new(ErrorKind::Invalid, "--database names no database")
                        .hint("write --database=URL, or set HOLDALL_DB_URL or SUPABASE_DB_URL"));
                }
                None => {}
            }
        }
        if given.len() > 1 {
            return Err(
                Error::new(ErrorKind::Invalid, "a snapshot holds one server's databases")
                    .hint("take a snapshot of each, or of all databases of a server by --all-databases"),
            );
        }
        let mut requests = Vec::new();
        for (position, url) in given.iter().enumerate() {
            let request = self.request(url, dry_run)?;
            if position < typed && request.server.has_password_in_text() {
                warnings.push(
                    "a password on the command line is seen by everyone on this machine: give the address in HOLDALL_DB_URL, or the \
                     password in ~/.pgpass"
                        .to_owned(),
                );
            }
            warnings.extend_from_slice(request.server.notes());
            requests.push(request);
        }
        Ok(Databases { requests, warnings })
    }

    fn request(&self, url: &str, dry_run: bool) -> Result<PostgresRequest> {
        Ok(PostgresRequest {
            server: Server::parse(url, &environment::surroundings()?)?,
            jobs: usize::try_from(self.jobs).unwrap_or(JOBS),
            filter: Filter {
                schemas: self.schema.clone(),
                exclude_schemas: self.exclude_schema.clone(),
                tables: self.table.clone(),
                exclude_tables: self.exclude_table.clone(),
                user_schemas_only: self.user_schemas_only,
            },
            contents: match self.kind {
                Type::Schema => Contents::Schema,
                Type::Data => Contents::Data,
                Type::Database => Contents::Database,
            },
            all_databases: self.all_databases,
            pg_dump: self.pg_dump.clone(),
            search: environment::program_directories(),
            session: SessionOptions {
                lock_timeout: Duration::from_secs(self.lock_timeout),
                max_age: Duration::from_secs(self.max_snapshot_age),
                checkpoint: self.checkpoint,
                ..SessionOptions::default()
            },
            dry_run,
        })
    }
}

/// The address that the environment names.
///
/// # Errors
/// `Invalid` if it is named twice, or cannot be read.
pub(in crate::cli) fn environment_url() -> Result<Option<String>> {
    if let Some(url) = environment::secret("HOLDALL_DB_URL", "HOLDALL_DB_URL_FILE")? {
        return Ok(Some(url.to_string()));
    }
    environment::text("SUPABASE_DB_URL")
}
