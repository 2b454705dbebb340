//! The CPU pool: our own rayon threads, or the calling thread where work must be reproducible step by step.

use crate::error::{Error, ErrorKind, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Runs closures that burn CPU, away from the threads that wait for I/O.
#[derive(Clone)]
pub struct CpuPool {
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl CpuPool {
    /// A pool of `threads` threads, 0 for one per core.
    ///
    /// # Errors
    /// `Internal` if the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot start CPU threads").because(e))?;
        Ok(Self {
            pool: Some(Arc::new(pool)),
        })
    }

    /// No threads: closures run where they are called.
    pub fn inline() -> Self {
        Self { pool: None }
    }

    /// How many closures run at once.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |p| p.current_num_threads())
    }

    /// Starts `work` now; the future gives its result.
    ///
    /// # Errors
    /// `Internal` if `work` panics.
    pub fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let guarded = move || {
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)).map_err(drop));
        };
        match &self.pool {
            Some(pool) => pool.spawn(guarded),
            None => guarded(),
        }
        async move {
            match receiver.await {
                Ok(Ok(value)) => Ok(value),
                _ => Err(Error::new(
                    ErrorKind::Internal,
                    "a CPU task panicked; this is a bug",
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_is_an_error_not_a_hang() {
        for pool in [CpuPool::new(2).unwrap(), CpuPool::inline()] {
            let error = pool.run(|| -> () { panic!("boom") }).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert_eq!(pool.run(|| 7).await.unwrap(), 7);
        }
    }
}
