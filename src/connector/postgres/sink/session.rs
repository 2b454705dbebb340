//! Sessions that write, and what their errors mean for a restore.

use crate::connector::postgres::connect::{Connection, Server};
use crate::connector::postgres::name::literal;
use crate::connector::postgres::session::settings;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// Settings that differ from those every session begins with.
pub(super) type Settings = BTreeMap<String, String>;

/// How long a lock is waited for, in milliseconds: nobody else has business in the target.
const LOCK_TIMEOUT_MS: u64 = 60_000;

/// Why a statement was not run.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server refused it, and goes on.
    Refused(Refusal),
    /// Nothing goes on.
    Lost(Error),
}

/// What the server said.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Refusal {
    /// A statement that cannot even be sent.
    pub(super) fn own(message: &str) -> Self {
        Self {
            code: "holdall".into(),
            message: message.into(),
        }
    }
}

/// A connection that does one thing after the other.
pub(super) struct Worker {
    connection: Connection,
    settings: Settings,
    /// Whether its answers can still be told apart: the client library loses count when a `COPY` is refused before its first row.
    pub(super) usable: bool,
}

impl Worker {
    /// Opens one, set up as sessions that read are.
    pub(super) async fn open(context: &Context, server: &Server) -> Result<Self> {
        let connection = server.connect(context).await?;
        settings::pin(connection.client(), LOCK_TIMEOUT_MS).await?;
        // A restore runs the views of the snapshot: materialized ones are filled from them. It is durable as a whole at its end.
        let free = "SELECT pg_catalog.count(pg_catalog.set_config(name, v, false)) FROM (VALUES
            ('restrict_nonsystem_relation_kind', ''), ('synchronous_commit', 'off')) w(n, v)
            JOIN pg_catalog.pg_settings ON name OPERATOR(pg_catalog.=) n";
        let worker = Self {
            connection,
            settings: Settings::new(),
            usable: true,
        };
        worker.ask(free, "cannot set up a session to write with").await?;
        Ok(worker)
    }

    pub(super) fn client(&self) -> &Client {
        self.connection.client()
    }

    /// Runs statements, all of them or none.
    pub(super) async fn run(&self, context: &Context, sql: &str) -> Result<(), Trouble> {
        let done = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(Trouble::Lost(cancelled())),
            done = self.client().batch_execute(sql) => done,
        };
        done.map_err(|error| self.trouble(error))
    }

    /// Makes the session have these settings and the rest as it began.
    pub(super) async fn settle(&mut self, context: &Context, wanted: &Settings) -> Result<(), Trouble> {
        let mut sql = String::new();
        for name in self.settings.keys().filter(|name| !wanted.contains_key(*name)) {
            let _ = write!(sql, "RESET {name}; ");
        }
        for (name, value) in wanted {
            if self.settings.get(name) != Some(value) {
                let value = literal(value);
                let _ = write!(
                    sql,
                    "SELECT pg_catalog.set_config({}, {value}, false); ",
                    literal(name)
                );
            }
        }
        if !sql.is_empty() {
            self.run(context, &sql).await?;
            self.settings.clone_from(wanted);
        }
        Ok(())
    }

    /// The rows of a question about the target.
    pub(super) async fn ask(&self, sql: &str, failed: &str) -> Result<Vec<SimpleQueryRow>> {
        let answer = self.client().simple_query(sql).await;
        let answer = answer.map_err(|error| Error::new(ErrorKind::Source, failed).because(error))?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// What an error means.
    pub(super) fn trouble(&self, error: tokio_postgres::Error) -> Trouble {
        let Some(said) = error.as_db_error() else {
            return Trouble::Lost(lost(error));
        };
        let code = said.code();
        if *code == SqlState::DISK_FULL {
            let full =
                Error::new(ErrorKind::StoreFull, "the disk of the target's server is full").because(error);
            return Trouble::Lost(full.hint("make room, and restore into a new, empty database"));
        }
        let ends = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::DATABASE_DROPPED,
        ];
        if ends.contains(code) || self.client().is_closed() {
            return Trouble::Lost(lost(error));
        }
        let mut message = said.message().to_owned();
        for more in [said.detail(), said.where_()].into_iter().flatten() {
            message.push_str("; ");
            message.push_str(more.lines().next().unwrap_or_default());
        }
        Trouble::Refused(Refusal {
            code: code.code().to_owned(),
            message,
        })
    }
}

pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "interrupted").hint("restore into a new, empty database")
}

fn lost(error: tokio_postgres::Error) -> Error {
    Error::new(ErrorKind::Source, "the connection to the target was lost")
        .because(error)
        .hint("the target holds a part of the snapshot; restore into a new, empty database")
}
