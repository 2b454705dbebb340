//! What runs at the server for us: ended there when nobody waits for it any more. A server does not notice that a connection is gone
//! while its statement waits for a lock or counts rows.

use crate::connector::postgres::connect::{CancelToken, Connection};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_postgres::Client;

/// How long a server is asked to end a statement.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that were given up and are kept in mind; what the oldest did has ended.
const MOST_LEFT: usize = 256;

/// The connections of a source, by what ends their statements.
#[derive(Default)]
pub(crate) struct RunningStatements(Mutex<Tokens>);

#[derive(Default)]
struct Tokens {
    next: u64,
    /// Connections that are used.
    used: BTreeMap<u64, CancelToken>,
    /// Connections that were given up in the middle of something.
    left: Vec<CancelToken>,
}

/// A connection's place among those whose statements can be ended.
pub(crate) struct Registered {
    running: Arc<RunningStatements>,
    number: u64,
    idle: bool,
}

/// A connection of a session, whose statement can be ended from elsewhere.
pub(crate) struct Attached {
    connection: Connection,
    registered: Registered,
}

impl RunningStatements {
    pub(super) fn add(self: &Arc<Self>, token: CancelToken) -> Registered {
        let mut number = 0;
        if let Ok(mut tokens) = self.0.lock() {
            number = tokens.next;
            tokens.next += 1;
            tokens.used.insert(number, token);
        }
        Registered {
            running: self.clone(),
            number,
            idle: false,
        }
    }

    /// All ended well.
    pub(super) fn clear(&self) {
        drop(self.take(|tokens| {
            tokens.used.clear();
            std::mem::take(&mut tokens.left)
        }));
    }

    fn take(&self, which: impl FnOnce(&mut Tokens) -> Vec<CancelToken>) -> Vec<CancelToken> {
        self.0
            .lock()
            .map(|mut tokens| which(&mut tokens))
            .unwrap_or_default()
    }

    /// Asks the server to end what connections did that were given up.
    pub(crate) async fn cancel_left(&self) {
        end(self.take(|tokens| std::mem::take(&mut tokens.left))).await;
    }

    /// Asks the server to end whatever any of them still does. What cannot be reached ends by itself.
    pub(crate) async fn cancel(&self) {
        let all = self.take(|tokens| {
            let mut all = std::mem::take(&mut tokens.left);
            all.extend(std::mem::take(&mut tokens.used).into_values());
            all
        });
        end(all).await;
    }
}

async fn end(tokens: Vec<CancelToken>) {
    let asked = tokens
        .iter()
        .map(|token| tokio::time::timeout(PATIENCE, token.cancel()));
    let _answers = join_all(asked).await;
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Ok(mut tokens) = self.running.0.lock()
            && let Some(token) = tokens.used.remove(&self.number)
            && !self.idle
        {
            if tokens.left.len() >= MOST_LEFT {
                tokens.left.remove(0);
            }
            tokens.left.push(token);
        }
    }
}

impl Attached {
    pub(super) fn new(connection: Connection, running: &Arc<RunningStatements>) -> Self {
        let registered = running.add(connection.cancel_token());
        Self {
            connection,
            registered,
        }
    }

    /// The connection.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Its client.
    pub(crate) fn client(&self) -> &Client {
        self.connection.client()
    }

    /// Says whether there is nothing to end if it is dropped now.
    pub(crate) fn set_idle(&mut self, idle: bool) {
        self.registered.idle = idle;
    }
}

/// A statement that keeps the coordinator from answering.
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Busy {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
