//! How long a server may show nothing.
//!
//! A line that is dead is found by the system: connections are kept alive and limited (`keepalives`, `tcp_user_timeout`), two minutes
//! at most. What it cannot find is a process of the server that stands still, or something in between that lost the other half and
//! keeps ours. A statement that has little to do, as a look at a catalog, a lock that is not waited for, a few MiB of a table, shows
//! that by its silence alone. One that may go over a whole table before its first row is no worse for being silent: of that, another
//! connection asks the server.

use super::{Session, is_full, one, text};
use crate::connector::postgres::name::literal;
use crate::connector::process::Effort;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use std::time::Duration;
use tokio_postgres::Client;

/// How often in a row a program must be found standing still to be held for stuck, one silence of the server apart.
const STANDING: u32 = 2;

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

    /// Waits for something from a program whose sessions have this `application_name`, as long as they work on statements or end some, or
    /// the program is seen to compute or write by itself. Where that cannot be seen it may take as long as the server's silence may be.
    /// Where the server does not tell what it does for the program, that is said, and the greatest age of the snapshot ends it.
    ///
    /// # Errors
    /// `Source` if nothing moves; those of the answer.
    pub(crate) async fn while_program_works<T>(
        &self,
        (name, effort): (&str, &Effort),
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let silence = self.options.silence;
        let mut answer = std::pin::pin!(answer);
        let (mut last, mut looks, mut told) = (None, 0, false);
        let mut tell = |why: &str| {
            if !std::mem::replace(&mut told, true) {
                let text = format!("pg_dump has written nothing for long, and is waited for: {why}");
                self.context.emit(&Event::Note { text });
            }
        };
        loop {
            if let Ok(answer) = tokio::time::timeout(silence, answer.as_mut()).await {
                return answer;
            }
            let now = self.program(name).await?;
            if let Program::Unknown(why) = &now {
                tell(why);
            }
            let Program::Stands(mark) = now else {
                (last, looks) = (None, 0);
                continue;
            };
            let done = effort.done();
            looks = match &last {
                Some((then, _)) if *then != mark => 1,
                Some((_, before)) if done.is_work_since(before, silence) => {
                    tell("it asks the server nothing, and computes");
                    1
                }
                Some(_) => looks + 1,
                None => 1,
            };
            if looks >= STANDING {
                // It may have gone on just now.
                if let Ok(late) = tokio::time::timeout(UNDER_WAY.min(silence), answer.as_mut()).await {
                    return late;
                }
                let still = matches!(self.program(name).await?, Program::Stands(now) if now == mark);
                if still && !effort.done().is_work_since(&done, UNDER_WAY.min(silence)) {
                    return Err(hangs(name, silence * looks));
                }
            }
            last = Some((mark, done));
        }
    }

    /// What the server does for a program. Only the end of the work is an error.
    async fn program(&self, name: &str) -> Result<Program> {
        let asked = async {
            let bystander = self.bystander().await?;
            let program = in_time(self.options.silence, program(bystander.client(), name)).await?;
            self.keep(bystander);
            Ok::<_, Error>(program)
        };
        match asked.await {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            Err(error) => Ok(Program::Unknown(format!(
                "the server cannot be asked what it does for it: {error}"
            ))),
            told => told,
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

/// What a server does for a program.
enum Program {
    /// A session of its works on a statement.
    Works,
    /// None does: how many there are, and when the last of them began or ended a statement.
    Stands(String),
    /// The server does not tell, and why.
    Unknown(String),
}

/// What the sessions of this name do.
async fn program(client: &Client, name: &str) -> Result<Program> {
    // Where track_activities is off, nothing tells one statement from the next.
    let sql = format!(
        "SELECT pg_catalog.bool_or(NOT COALESCE(state LIKE 'idle%' OR wait_event_type = 'Client', false)),
            pg_catalog.count(*) > 0, pg_catalog.bool_and(state <> 'disabled' AND state_change IS NOT NULL),
            pg_catalog.concat_ws(' ', pg_catalog.count(*), pg_catalog.max(state_change))
         FROM pg_catalog.pg_stat_activity WHERE application_name = {}",
        literal(name)
    );
    let row = one(client, &sql, "cannot look at a session of the server").await?;
    let says = |index| row.get(index) == Some("t");
    Ok(if says(0) {
        Program::Works
    } else if !says(1) {
        Program::Unknown("the server shows no session of it".to_owned())
    } else if says(2) {
        Program::Stands(text(&row, 3))
    } else {
        Program::Unknown("the server does not show what it does for it (track_activities)".to_owned())
    })
}
