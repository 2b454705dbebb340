//! What runs at the server for us: ended there when nobody waits for it any more. A server does not notice that a connection is gone
//! while its statement waits for a lock or counts rows.

use crate::connector::postgres::connect::CancelToken;
use futures::future::join_all;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a server is asked to end a statement.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are kept in mind; older ones have been replaced.
const MOST: usize = 256;

/// The connections of a source, by what ends their statements.
#[derive(Default)]
pub(crate) struct RunningStatements(Mutex<Vec<CancelToken>>);

impl RunningStatements {
    pub(super) fn add(&self, token: CancelToken) {
        if let Ok(mut tokens) = self.0.lock() {
            if tokens.len() >= MOST {
                tokens.remove(0);
            }
            tokens.push(token);
        }
    }

    /// All ended well.
    pub(super) fn clear(&self) {
        drop(self.take());
    }

    fn take(&self) -> Vec<CancelToken> {
        self.0
            .lock()
            .map(|mut tokens| std::mem::take(&mut *tokens))
            .unwrap_or_default()
    }

    /// Asks the server to end whatever they still do. What cannot be reached ends by itself.
    pub(crate) async fn cancel(&self) {
        let tokens = self.take();
        let asked = tokens
            .iter()
            .map(|token| tokio::time::timeout(PATIENCE, token.cancel()));
        let _answers = join_all(asked).await;
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
