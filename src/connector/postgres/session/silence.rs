//! How long a server may show nothing.
//!
//! A line that is dead is found by the system: connections are kept alive and limited (`keepalives`, `tcp_user_timeout`), two minutes
//! at most. What it cannot find is a process of the server that stands still, or something in between that lost the other half and
//! keeps ours. A statement that has little to do, as a look at a catalog, a lock that is not waited for, a few MiB of a table, shows
//! that by its silence alone. One that may go over a whole table before its first row is no worse for being silent: of that, another
//! connection asks the server.

use super::{Session, is_full, one, text};
use crate::connector::postgres::name::literal;
use crate::error::{Error, ErrorKind, Result};
use std::time::Duration;
use tokio_postgres::Client;

/// How often in a row a program must be found standing still to be held for stuck, one silence of the server apart; and how often if
/// no session of it is seen.
const STANDING: u32 = 2;
const UNSEEN: u32 = 4;

/// How long what the server says it sent may be on its way.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// Waits for an answer that takes the server little work.
///
/// # Errors
/// `Source` if it does not come in time; those of the answer.
pub(crate) async fn in_time<T>(silence: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(silence, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(silent(silence)),
    }
}

fn silent(silence: Duration) -> Error {
    Error::new(ErrorKind::Source, "a session of the server does not answer")
        .with("seconds", silence.as_secs())
        .hint("look at what sessions of holdall wait for in pg_stat_activity, and at what lies between it and here; then run again")
}

impl Session {
    /// Waits for something from `backend` for as long as it works on it, however long that is.
    ///
    /// # Errors
    /// `Source` if the server says that it does not, or not any more; those of the answer.
    pub(crate) async fn while_it_works<T>(
        &self,
        backend: u32,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let silence = self.options.silence;
        let mut answer = std::pin::pin!(answer);
        loop {
            if let Ok(answer) = tokio::time::timeout(silence, answer.as_mut()).await {
                return answer;
            }
            if !self.works(backend).await? {
                // It may have begun to send just now.
                let late = tokio::time::timeout(UNDER_WAY.min(silence), answer.as_mut()).await;
                return late.unwrap_or_else(|_| Err(silent(silence)));
            }
        }
    }

    /// Waits for something from a program whose sessions have this `application_name`, as long as they work on statements or end some. A
    /// program may be busy by itself between two statements: for as long as the server's silence may be, and longer where the server
    /// shows no session of it, as behind a pooler that keeps names to itself.
    ///
    /// # Errors
    /// `Source` if nothing moves; those of the answer.
    pub(crate) async fn while_program_works<T>(
        &self,
        name: &str,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let silence = self.options.silence;
        let mut answer = std::pin::pin!(answer);
        let (mut last, mut looks) = (None, 0);
        loop {
            if let Ok(answer) = tokio::time::timeout(silence, answer.as_mut()).await {
                return answer;
            }
            let now = match self.bystander().await {
                Ok(bystander) => {
                    let standing = in_time(silence, standing(bystander.client(), name)).await?;
                    self.keep(bystander);
                    standing
                }
                // Where nobody can be asked, the greatest age of the snapshot ends it.
                Err(error) if is_full(&error) => None,
                Err(error) => return Err(error),
            };
            looks = if now.is_some() && now == last {
                looks + 1
            } else {
                1
            };
            let most = match &now {
                Some(standing) if standing.sessions => STANDING,
                _ => UNSEEN,
            };
            if now.is_some() && looks >= most {
                return Err(hangs(name, silence * looks));
            }
            last = now;
        }
    }

    /// Whether a session of ours works on its statement, as the server sees it: it neither has ended it nor waits for this side. Where
    /// nobody can be asked it is taken to; the greatest age of the snapshot ends that.
    async fn works(&self, backend: u32) -> Result<bool> {
        let silence = self.options.silence;
        if backend != self.backend() && !self.is_busy() {
            return in_time(silence, works(self.client(), backend)).await;
        }
        match self.bystander().await {
            Ok(bystander) => {
                let works = in_time(silence, works(bystander.client(), backend)).await?;
                self.keep(bystander);
                Ok(works)
            }
            Err(error) if is_full(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

async fn works(client: &Client, backend: u32) -> Result<bool> {
    let what = "cannot look at a session of the server";
    // What sessions do is looked at once in a transaction, unless that is forgotten.
    one(client, "SELECT pg_catalog.pg_stat_clear_snapshot()", what).await?;
    let sql = format!(
        "SELECT pg_catalog.bool_or(COALESCE(state LIKE 'idle%' OR wait_event_type = 'Client', false))
         FROM pg_catalog.pg_stat_activity WHERE pid = {backend}"
    );
    let row = one(client, &sql, what).await?;
    // No row: the session is gone.
    Ok(row.get(0) == Some("f"))
}

fn hangs(name: &str, silence: Duration) -> Error {
    Error::new(
        ErrorKind::Source,
        "pg_dump writes nothing, and the server does nothing for it",
    )
    .with("seconds", silence.as_secs())
    .with("application_name", name)
    .hint("look for that application_name in pg_stat_activity, and at what lies between it and here; then run again")
}

/// Sessions of which none works.
#[derive(PartialEq, Eq)]
struct Standing {
    /// Whether there are any.
    sessions: bool,
    /// How many, and when the last of them began or ended a statement.
    mark: String,
}

/// How the sessions of this name stand; nothing if one of them works.
async fn standing(client: &Client, name: &str) -> Result<Option<Standing>> {
    let sql = format!(
        "SELECT pg_catalog.bool_or(NOT COALESCE(state LIKE 'idle%' OR wait_event_type = 'Client', false)),
            pg_catalog.count(*) > 0, pg_catalog.concat_ws(' ', pg_catalog.count(*), pg_catalog.max(state_change))
         FROM pg_catalog.pg_stat_activity WHERE application_name = {}",
        literal(name)
    );
    let row = one(client, &sql, "cannot look at a session of the server").await?;
    let standing = || Standing {
        sessions: row.get(1) == Some("t"),
        mark: text(&row, 2),
    };
    Ok((row.get(0) != Some("t")).then(standing))
}
