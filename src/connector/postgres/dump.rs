//! The server's own `pg_dump`: found, checked and run for the statements of a database, never for its rows.
//!
//! Its text is cut into statements, so that none of its comments, dates and meta-commands gets into a snapshot.

mod find;
mod read;

pub use find::{PgDump, Version};

use super::catalog::Filter;
use crate::connector::process::{self, Effort, Environment, Running};
use crate::context::Context;
use crate::error::Result;
use crate::snapshot::entry::ContentStream;
use bytes::Bytes;
use std::ffi::OsString;
use std::time::Duration;

/// Which statements are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What stands before the rows: `1-schema`.
    Schema,
    /// What stands after them, without what [`Section::Refresh`] gives: `5-constraints`.
    Constraints,
    /// `REFRESH MATERIALIZED VIEW`, in the order of dependence: `6-refresh`.
    Refresh,
}

/// What [`Section::Constraints`] and [`Section::Refresh`] give, of one run; empty where there are none but settings of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BehindRows {
    /// `5-constraints`.
    pub constraints: Bytes,
    /// `6-refresh`.
    pub refresh: Bytes,
}

/// What every run of one snapshot shares.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where the database is: `PG*` variables. A password is here and never in an argument.
    pub environment: Vec<(OsString, OsString)>,
    /// The exported snapshot to read in.
    pub snapshot: String,
    /// How long to wait for a lock on a table.
    pub lock_timeout: Duration,
    /// Which objects.
    pub filter: Filter,
    /// What the runs do.
    pub effort: Effort,
}

/// What libpq reads from the environment. A child gets those of [`Run::environment`] and no others: a service or a host from
/// elsewhere would lead it to another database.
const LIBPQ: [&str; 46] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGSSLNEGOTIATION",
    "PGSSLCOMPRESSION",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCERTMODE",
    "PGSSLROOTCERT",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLSNI",
    "PGSSLKEYLOGFILE",
    "PGREQUIREPEER",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
    "PGGSSENCMODE",
    "PGKRBSRVNAME",
    "PGGSSLIB",
    "PGGSSDELEGATION",
    "PGCONNECT_TIMEOUT",
    "PGCLIENTENCODING",
    "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS",
    "PGMINPROTOCOLVERSION",
    "PGMAXPROTOCOLVERSION",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
    "PGSYSCONFDIR",
    "PGLOCALEDIR",
    "PGCLUSTER",
    "PG_COLOR",
    "PG_COLORS",
];

impl PgDump {
    /// The statements of one section, each with its semicolon and a line feed; nothing if there are none but settings of the session.
    /// Returns when the first is there: what stops a dump at its beginning is told at once. The stream is at most one statement and
    /// 64 KiB in memory, and ends with an error if `pg_dump` does not end well.
    ///
    /// # Errors
    /// `Source` if it cannot be started or fails, `Cancelled`, `Unsupported` for a statement over 1 GiB.
    pub async fn statements(
        &self,
        context: &Context,
        run: &Run,
        section: Section,
    ) -> Result<Option<ContentStream>> {
        let child = self.start(context, run, section)?;
        read::statements(context, child, section).await
    }

    /// The statements behind the rows, both sections of them by one run, in memory; nothing if they are more than `most` bytes, and
    /// the run is ended then. They are cut and sorted as by [`Self::statements`].
    ///
    /// # Errors
    /// As [`Self::statements`].
    pub async fn behind_rows(&self, context: &Context, run: &Run, most: usize) -> Result<Option<BehindRows>> {
        let child = self.start(context, run, Section::Constraints)?;
        read::behind_rows(context, child, most).await
    }

    fn start(&self, context: &Context, run: &Run, section: Section) -> Result<Running> {
        let environment = Environment {
            remove: &LIBPQ,
            set: &run.environment,
        };
        let child = process::start(context, &self.argv(run, section), &environment)?;
        Ok(child.count_in(&run.effort))
    }

    fn argv(&self, run: &Run, section: Section) -> Vec<OsString> {
        let mut argv: Vec<OsString> = vec![self.path().into()];
        let mut add = |text: String| argv.push(text.into());
        add("--format=plain".into());
        add("--encoding=UTF8".into());
        add("--no-password".into());
        add("--no-sync".into());
        add("--strict-names".into());
        add(format!("--lock-wait-timeout={}", run.lock_timeout.as_millis()));
        add(format!("--snapshot={}", run.snapshot));
        let section = if section == Section::Schema {
            "pre-data"
        } else {
            "post-data"
        };
        add(format!("--section={section}"));
        // Large objects are entries of their own.
        let blobs = if self.version().major < 16 {
            "--no-blobs"
        } else {
            "--no-large-objects"
        };
        add(blobs.into());
        if self.version().major >= 18 {
            // They change with every analysis; a restore collects its own.
            add("--no-statistics".into());
        }
        argv.extend(run.filter.arguments().into_iter().map(OsString::from));
        argv
    }
}
