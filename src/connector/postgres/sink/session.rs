//! Sessions that write, and what their errors mean for a restore.

use super::refusal::Refusal;
use crate::connector::postgres::connect::{CancelToken, Connection, Server};
use crate::connector::postgres::name::literal;
use crate::connector::postgres::session::settings;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// Settings that differ from those every session begins with.
pub(super) type Settings = BTreeMap<String, String>;

/// How long the server is asked to end what it does for a restore that ends early.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// What a session that writes has besides what one that reads has. The target may have been given settings that would stop or change
/// a restore; those that a server does not know are left.
const WRITING: [(&str, &str); 8] = [
    // A restore runs the views of the snapshot: materialized ones are filled from them.
    ("restrict_nonsystem_relation_kind", ""),
    // It is durable as a whole at its end.
    ("synchronous_commit", "off"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_tablespace", ""),
    ("default_table_access_method", "heap"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
];

/// A server that works on a statement for long notices by itself when we are gone; not every system can do that. Since 14.
const NOTICE_THE_END: &str = "SELECT pg_catalog.set_config(name, '10s', false) FROM pg_catalog.pg_settings
    WHERE name OPERATOR(pg_catalog.=) 'client_connection_check_interval'";

/// How sessions of one restore are opened.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) server: Server,
    /// How long a lock is waited for: nobody else has business in the target, but several of our own sessions have.
    pub(super) lock_timeout: Duration,
}

/// Why a statement was not run.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server refused it, and goes on.
    Refused(Refusal),
    /// Nothing goes on.
    Lost(Error),
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
    pub(super) async fn open(context: &Context, opening: &Opening) -> Result<Self> {
        let connection = opening.server.connect(context).await?;
        let lock_timeout = u64::try_from(opening.lock_timeout.as_millis()).unwrap_or(u64::MAX);
        settings::pin(connection.client(), lock_timeout.min(i32::MAX as u64)).await?;
        let worker = Self {
            connection,
            settings: Settings::new(),
            usable: true,
        };
        let pairs: Vec<String> = WRITING
            .iter()
            .map(|(name, value)| format!("('{name}', '{value}')"))
            .collect();
        let sql = format!(
            "SELECT pg_catalog.count(pg_catalog.set_config(name, v, false)) FROM (VALUES {}) w(n, v)
             JOIN pg_catalog.pg_settings ON name OPERATOR(pg_catalog.=) n
             WHERE setting OPERATOR(pg_catalog.<>) v",
            pairs.join(", ")
        );
        worker.ask(&sql, "cannot set up a session to write with").await?;
        match worker.run(context, NOTICE_THE_END).await {
            Ok(()) | Err(Trouble::Refused(_)) => Ok(worker),
            Err(Trouble::Lost(error)) => Err(error),
        }
    }

    pub(super) fn client(&self) -> &Client {
        self.connection.client()
    }

    /// What ends the statement that it runs, from anywhere.
    pub(super) fn cancel_token(&self) -> CancelToken {
        self.connection.cancel_token()
    }

    /// Runs statements, all of them or none.
    pub(super) async fn run(&self, context: &Context, sql: &str) -> Result<(), Trouble> {
        let done = unless_cancelled(context, self.client().batch_execute(sql)).await?;
        done.map_err(|error| trouble(error, sql))
    }

    /// Ends a transaction of which a `COPY` was refused. Notes whether the connection can be used on: a `COPY` that is refused before its
    /// server has read anything is answered twice, and what looks like the answer to this is the second then, or the client library
    /// has given the connection up.
    pub(super) async fn roll_back(&mut self, context: &Context) -> Result<(), Trouble> {
        let answer = unless_cancelled(context, self.client().simple_query("ROLLBACK")).await?;
        let ended = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::CommandComplete(_));
        self.usable = answer.is_ok_and(|messages| messages.iter().any(ended));
        Ok(())
    }

    /// Makes the session have these settings and the rest as it began.
    pub(super) async fn settle(&mut self, context: &Context, wanted: &Settings) -> Result<(), Trouble> {
        let mut sql = String::new();
        for name in self.settings.keys().filter(|name| !wanted.contains_key(*name)) {
            let mut begun = WRITING.iter().chain(&settings::TEXT);
            match begun.find(|(known, _)| known == name) {
                Some((_, value)) => set(&mut sql, name, value),
                None => {
                    let _ = write!(sql, "RESET {name}; ");
                }
            }
        }
        for (name, value) in wanted {
            if self.settings.get(name) != Some(value) {
                set(&mut sql, name, value);
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
        Ok(rows(answer))
    }

    /// The rows of a statement that the server may refuse.
    pub(super) async fn rows(&self, context: &Context, sql: &str) -> Result<Vec<SimpleQueryRow>, Trouble> {
        let answer = unless_cancelled(context, self.client().simple_query(sql)).await?;
        answer.map(rows).map_err(|error| trouble(error, sql))
    }
}

/// What the error of a statement means.
pub(super) fn trouble(error: tokio_postgres::Error, sql: &str) -> Trouble {
    trouble_as(error, |said| Refusal::of_statement(said, sql))
}

/// What an error means; `refusal` puts what the server refused into words.
pub(super) fn trouble_as(error: tokio_postgres::Error, refusal: impl FnOnce(&DbError) -> Refusal) -> Trouble {
    let Some(said) = error.as_db_error() else {
        return Trouble::Lost(lost(error));
    };
    // What a function raises never ends a session, whatever code it has.
    if matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
        return Trouble::Lost(lost(error));
    }
    if *said.code() == SqlState::DISK_FULL {
        let what = "the disk of the target's server is full";
        let full = Error::new(ErrorKind::StoreFull, what).with("the server said", refusal(said));
        return Trouble::Lost(full.hint("make room, and restore into a new, empty database"));
    }
    Trouble::Refused(refusal(said))
}

/// Waits for an answer, unless the restore is interrupted; what the server does then goes on until it is told to end.
pub(super) async fn unless_cancelled<T>(
    context: &Context,
    answer: impl Future<Output = T>,
) -> Result<T, Trouble> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => {
            let error = Error::new(ErrorKind::Cancelled, "interrupted");
            Err(Trouble::Lost(error.hint("restore into a new, empty database")))
        }
        answer = answer => Ok(answer),
    }
}

/// Has the server end what sessions do that nobody waits for any more. It may be gone itself: then there is nothing to end.
pub(super) async fn end_all(tokens: Vec<CancelToken>) {
    let all = futures::future::join_all(tokens.iter().map(CancelToken::cancel));
    let _in_time = tokio::time::timeout(CANCEL_PATIENCE, all).await;
}

fn set(sql: &mut String, name: &str, value: &str) {
    let (name, value) = (literal(name), literal(value));
    let _ = write!(sql, "SELECT pg_catalog.set_config({name}, {value}, false); ");
}

fn rows(answer: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.collect()
}

fn lost(error: tokio_postgres::Error) -> Error {
    Error::new(ErrorKind::Source, "the connection to the target was lost")
        .because(error)
        .hint("the target holds a part of the snapshot; restore into a new, empty database")
}
