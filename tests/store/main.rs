//! Stores: what all of them do, and what becomes of every kind of failure.

#![expect(clippy::unwrap_used, reason = "a panic is how tests fail")]

mod conformance;
mod directory;
mod faults;
mod lines;
mod s3;

use holdall::context::Context;
use holdall::event::{Event, Recorder};
use holdall::store::{Access, Location, Retry, Store, StoreOptions};
use holdall::testkit::FaultStore;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Options to write, with waits short enough for tests.
fn writable() -> StoreOptions {
    StoreOptions {
        access: Access::Create,
        retry: quick(),
        ..StoreOptions::default()
    }
}

fn quick() -> Retry {
    Retry {
        first_contact: 8,
        first: Duration::from_millis(5),
        longest: Duration::from_millis(40),
        ..Retry::default()
    }
}

fn context() -> Context {
    Context::deterministic(1).unwrap()
}

/// A context, and what it is told.
fn recorded() -> (Context, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let mut context = context();
    context.observer = recorder.clone();
    (context, recorder)
}

fn retries(recorder: &Recorder) -> Vec<(String, String)> {
    recorder
        .events()
        .into_iter()
        .filter_map(|e| match e {
            Event::Retry { what, why } => Some((what, why)),
            _ => None,
        })
        .collect()
}

fn local(dir: &Path) -> Store {
    Store::open(&Location::Local(dir.into()), &writable(), &context()).unwrap()
}

fn over(faults: &FaultStore) -> Store {
    Store::over(Arc::new(faults.clone()), "faulty", &writable(), &context()).unwrap()
}
