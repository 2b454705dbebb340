//! Connections that work side by side. One that is free is handed to the next piece of work, so no more is ever in hand than is being
//! done.

use super::session::{Opening, Worker, end_all};
use crate::connector::postgres::connect::CancelToken;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::collections::HashMap;
use tokio::task::{Id, JoinSet};

/// Connections, and work that runs on them. `T` is what work leaves behind.
pub(super) struct Pool<T> {
    opening: Opening,
    idle: Vec<Worker>,
    running: JoinSet<Result<(Worker, T)>>,
    /// What ends the statements of the work that runs.
    tokens: HashMap<Id, CancelToken>,
    most: usize,
}

impl<T: Send + 'static> Pool<T> {
    pub(super) fn new(opening: Opening, most: usize) -> Self {
        Self {
            opening,
            idle: Vec::new(),
            running: JoinSet::new(),
            tokens: HashMap::new(),
            most,
        }
    }

    /// How many pieces of work run at once, at most.
    pub(super) fn jobs(&self) -> usize {
        self.most
    }

    /// Whether more work can begin at once.
    pub(super) fn has_room(&self) -> bool {
        self.running.len() < self.most
    }

    /// Begins a piece of work; the caller has made sure that there is room.
    pub(super) async fn start<W, F>(&mut self, context: &Context, work: W) -> Result<()>
    where
        W: FnOnce(Worker) -> F,
        F: Future<Output = Result<(Worker, T)>> + Send + 'static,
    {
        let worker = match self.idle.pop() {
            Some(worker) => worker,
            None => Worker::open(context, &self.opening).await?,
        };
        let token = worker.cancel_token();
        let task = self.running.spawn(work(worker));
        self.tokens.insert(task.id(), token);
        Ok(())
    }

    /// What the next piece of work to end has left; nothing if none is running.
    pub(super) async fn next(&mut self) -> Result<Option<T>> {
        let Some(done) = self.running.join_next_with_id().await else {
            return Ok(None);
        };
        let (id, left) = done.map_err(|panic| {
            Error::new(ErrorKind::Internal, "a writing task failed; this is a bug").because(panic)
        })?;
        // After an error its server may be at work still: the token stays, for the end.
        let (worker, left) = left?;
        self.tokens.remove(&id);
        if worker.usable {
            self.idle.push(worker);
        }
        Ok(Some(left))
    }

    /// Closes the connections that nothing runs on: the next ones begin with what the database says by then.
    pub(super) fn close_idle(&mut self) {
        self.idle.clear();
    }

    /// Gives up all work, on the server too.
    pub(super) async fn abandon(&mut self) {
        end_all(self.tokens.drain().map(|(_, token)| token).collect()).await;
        self.running.shutdown().await;
    }
}
