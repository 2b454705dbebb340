//! Connections that work side by side. One that is free is handed to the next piece of work, so no more is ever in hand than is being
//! done.

use super::session::Worker;
use crate::connector::postgres::connect::Server;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use tokio::task::JoinSet;

/// Connections, and work that runs on them. `T` is what work leaves behind.
pub(super) struct Pool<T> {
    server: Server,
    idle: Vec<Worker>,
    running: JoinSet<Result<(Worker, T)>>,
    most: usize,
}

impl<T: Send + 'static> Pool<T> {
    pub(super) fn new(server: Server, most: usize) -> Self {
        Self {
            server,
            idle: Vec::new(),
            running: JoinSet::new(),
            most,
        }
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
            None => Worker::open(context, &self.server).await?,
        };
        self.running.spawn(work(worker));
        Ok(())
    }

    /// What the next piece of work to end has left; nothing if none is running.
    pub(super) async fn next(&mut self) -> Result<Option<T>> {
        let Some(done) = self.running.join_next().await else {
            return Ok(None);
        };
        let (worker, left) = done.map_err(|panic| {
            Error::new(ErrorKind::Internal, "a writing task failed; this is a bug").because(panic)
        })??;
        if worker.usable {
            self.idle.push(worker);
        }
        Ok(Some(left))
    }
}
