//! Ctrl-C and termination: the first ends the work in good order, the second at once.

use super::render::note;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Which signal came first; its exit code, or 0.
#[derive(Clone, Default)]
pub(super) struct Interrupted(Arc<AtomicU8>);

impl Interrupted {
    /// The exit code of a run that was cancelled.
    pub(super) fn code(&self) -> u8 {
        match self.0.load(Ordering::Relaxed) {
            0 => 130,
            code => code,
        }
    }
}

/// Listens for the rest of the process's life.
///
/// # Errors
/// `Internal` if the system refuses.
pub(super) fn listen(context: &Context, quiet: bool) -> Result<Interrupted> {
    let failed = |e| Error::new(ErrorKind::Internal, "cannot listen for signals").because(e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let interrupted = Interrupted::default();
    let (seen, cancel) = (interrupted.clone(), context.cancel.clone());
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                Some(()) = interrupt.recv() => 130,
                Some(()) = terminate.recv() => 143,
            };
            if cancel.is_cancelled() {
                now(code);
            }
            seen.0.store(code, Ordering::Relaxed);
            if !quiet {
                note("interrupted: what is under way is finished in good order; once more ends it at once");
            }
            cancel.cancel();
        }
    });
    Ok(interrupted)
}

#[expect(
    clippy::exit,
    reason = "a second Ctrl-C means now; stores and targets stay whole after any end"
)]
fn now(code: u8) {
    std::process::exit(i32::from(code));
}
