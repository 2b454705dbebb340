//! Connections that read in the exported snapshot: as many as were asked for, replaced when lost.

use super::seats::{Seat, Seats};
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::name;
use crate::connector::postgres::session::{Attached, Busy, Session, explain, failed, in_time, is_full};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use futures::FutureExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How often a piece of work is begun anew when its connection is lost.
const TRIES: u32 = 5;

/// How long a server that has no connection left is not asked for another.
const REFUSED: Duration = Duration::from_secs(10);

/// The connections of one snapshot. Each piece of work has a transaction of its own on one of them: what it locks, indexes too, is
/// free again when it is done.
pub(super) struct Workers {
    session: Arc<Session>,
    number: usize,
    seats: Seats,
    /// When the server last had no connection left.
    refused: Mutex<Option<Instant>>,
}

/// Whose connection does a piece of work.
pub(super) enum Hands {
    Worker(Box<WorkerHands>),
    /// Someone waits for an exclusive lock: whoever asks for the table now waits behind them, and they wait for the coordinator. It
    /// has its lock already, so it does the work. It also does if the server has no connection left.
    Coordinator(Arc<Session>),
}

pub(super) struct WorkerHands {
    worker: Attached,
}

impl Workers {
    pub(super) fn new(session: Arc<Session>, jobs: usize) -> Self {
        Self {
            session,
            number: jobs.max(1),
            seats: Seats::new(jobs),
            refused: Mutex::default(),
        }
    }

    /// Connections that may read at once.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Waits for a connection to be free. Whoever gets one without there being any has the coordinator's.
    ///
    /// # Errors
    /// As [`Session::check`].
    pub(super) async fn seat(&self) -> Result<Seat> {
        self.session.check()?;
        Ok(self.seats.seat().await)
    }

    /// The right to use one, if it is free now.
    pub(super) fn try_seat(&self) -> Option<Seat> {
        self.seats.try_seat()
    }

    /// Takes note that the server has no connection left: from now on one less reads at once, and one at least.
    fn refuse(&self) {
        if let Ok(mut refused) = self.refused.lock() {
            *refused = Some(Instant::now());
        }
        if let Some(left) = self.seats.take_away() {
            let text = format!("the server has no connection left: {left} read at once");
            self.session.context().emit(&Event::Note { text });
        }
    }

    fn is_refused(&self) -> bool {
        let refused = self.refused.lock();
        refused.is_ok_and(|refused| refused.is_some_and(|when| when.elapsed() < REFUSED))
    }

    /// A connection that sees the snapshot, and has locked `table`. Whoever calls has a seat.
    ///
    /// # Errors
    /// `Source` if the snapshot is gone or the table cannot be locked.
    pub(super) async fn hands(&self, table: Option<&Table>) -> Result<Hands> {
        let worker = match self.session.idle() {
            Some(worker) => worker,
            None if self.is_refused() => return Ok(Hands::Coordinator(self.session.clone())),
            None => match self.session.worker().await {
                Ok(worker) => worker,
                Err(error) if is_full(&error) => {
                    self.refuse();
                    return Ok(Hands::Coordinator(self.session.clone()));
                }
                Err(error) => return Err(error),
            },
        };
        let join = self.session.join();
        let statement = match table {
            Some(table) => {
                let name = name::qualified(&table.name)?;
                format!("{join}; LOCK TABLE ONLY {name} IN ACCESS SHARE MODE NOWAIT")
            }
            None => join,
        };
        // Nothing of this waits for anybody but the server's own session.
        let begun = async { Ok(worker.client().batch_execute(&statement).await) };
        let begun = in_time(self.session.options().silence, begun).await?;
        let hands = Hands::Worker(Box::new(WorkerHands { worker }));
        match (begun, table) {
            (Ok(()), _) => Ok(hands),
            (Err(error), _) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                self.give_back(hands);
                Ok(Hands::Coordinator(self.session.clone()))
            }
            (Err(error), Some(table)) => Err(explain(table, "cannot lock a table", error)),
            (Err(error), None) => Err(failed("a worker cannot join the snapshot", error)),
        }
    }

    /// Waits for an answer that takes little work. The coordinator may have other statements before it, and is looked after as long as
    /// it is not busy.
    ///
    /// # Errors
    /// `Source` if it does not come in time; those of the answer.
    pub(super) async fn answer<T>(
        &self,
        hands: &Hands,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match hands {
            Hands::Worker(_) => in_time(self.session.options().silence, answer).await,
            Hands::Coordinator(_) => answer.await,
        }
    }

    /// Gives a connection back after good work, and ends its transaction. Nobody waits for that: a connection that is lost is found to
    /// be by whoever has it next.
    pub(super) fn give_back(&self, hands: Hands) {
        let Hands::Worker(hands) = hands else { return };
        let worker = hands.worker;
        let _sent = worker.client().batch_execute("ROLLBACK").now_or_never();
        self.session.keep(worker);
    }

    /// Gives a connection up in the middle of its work, and has the server end that.
    pub(super) async fn give_up(&self, hands: Hands) {
        drop(hands);
        self.session.running().cancel_left().await;
    }

    /// After a failure: whether it came with the loss of a connection, so that the work may be begun anew. Otherwise the failure is
    /// what counts.
    ///
    /// # Errors
    /// The failure, or that the snapshot itself is lost.
    pub(super) async fn recover(
        &self,
        context: &Context,
        hands: Option<Hands>,
        tries: u32,
        failure: Error,
    ) -> Result<()> {
        let lost = match hands {
            Some(hands @ Hands::Worker(_)) => {
                let lost = !alive(hands.client(), self.session.patience()).await;
                self.give_up(hands).await;
                lost
            }
            // Its failed transaction takes the snapshot along.
            Some(Hands::Coordinator(_)) => return Err(failure),
            // No connection could be had, or it was lost before it was used: another time perhaps.
            None => failure
                .context("sqlstate")
                .is_none_or(|code| code.starts_with("57P") || code.starts_with("08")),
        };
        self.session.ping().await?;
        if !lost || tries >= TRIES || failure.kind() != ErrorKind::Source {
            return Err(failure);
        }
        context.emit(&Event::Retry {
            what: format!("a connection to {}", self.session.server_name()),
            why: failure
                .causes()
                .first()
                .cloned()
                .unwrap_or_else(|| failure.to_string()),
        });
        tokio::time::sleep(Duration::from_millis(200) * 2u32.saturating_pow(tries)).await;
        Ok(())
    }
}

/// Whether a connection still answers, if only that its transaction has failed.
async fn alive(client: &Client, patience: Duration) -> bool {
    match tokio::time::timeout(patience, client.simple_query("SELECT 1")).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.code().is_some_and(|code| !code.code().starts_with("57P")),
        Err(_) => false,
    }
}

impl Hands {
    /// The connection that they are.
    pub(super) fn connection(&self) -> &Connection {
        match self {
            Self::Worker(hands) => hands.worker.connection(),
            Self::Coordinator(session) => session.coordinator(),
        }
    }

    /// Its client.
    pub(super) fn client(&self) -> &Client {
        self.connection().client()
    }

    /// The server's process.
    pub(super) fn backend(&self) -> u32 {
        self.connection().backend()
    }

    /// Says that the coordinator may not answer until this is dropped, if it is whose connection this is.
    pub(super) fn busy(&self) -> Option<Busy> {
        match self {
            Self::Worker(_) => None,
            Self::Coordinator(session) => Some(session.busy()),
        }
    }
}
