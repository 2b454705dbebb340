//! Deleting: one object, or a thousand by one request.

use super::Store;
use super::fault::{Attempt, Class, classify, is_of_request};
use super::retry::Tries;
use crate::error::Result;
use crate::format::layout::ObjectName;
use futures::stream::{self, StreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::sync::atomic::Ordering;

impl Store {
    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// `Denied` (also on a read-only handle), `Unreachable`, `NoRepository`, `Cancelled`.
    pub async fn delete(&self, name: &ObjectName) -> Result<()> {
        self.writing(Attempt::Delete, name)?;
        let text = name.to_string();
        let path = self.path(&text);
        let mut tries = Tries::new(self, Attempt::Delete, &text);
        loop {
            match tries.interruptible(self.shared.raw.delete(&path)).await? {
                Ok(()) => {
                    tries.answered();
                    return Ok(());
                }
                Err(e) if classify(&e) == Class::Absent => return Ok(()),
                Err(e) => self.pass(&mut tries, Attempt::Delete, &text, e).await?,
            }
        }
    }

    /// Whether the store may be able to delete many objects by one request, as S3 is.
    pub fn deletes_in_bulk(&self) -> bool {
        self.shared.bulk.is_some() && !self.shared.refuses_bulk.load(Ordering::Relaxed)
    }

    /// Deletes at most a thousand objects by one request, where the store has such a request. [`Store::delete`] tells why an object is not
    /// gone. Nothing is sent again here.
    ///
    /// # Errors
    /// `Denied` on a read-only handle, `Cancelled`.
    pub async fn delete_in_bulk(&self, names: &[ObjectName]) -> Result<Bulk> {
        let Some(first) = names.first() else {
            return Ok(Bulk::Left(Vec::new()));
        };
        self.writing(Attempt::Delete, first)?;
        let Some(bulk) = self.shared.bulk.clone().filter(|_| self.deletes_in_bulk()) else {
            return Ok(Bulk::Unknown);
        };
        let paths: Vec<Path> = names.iter().map(|name| self.path(&name.to_string())).collect();
        let asked: Vec<_> = paths.into_iter().map(Ok).collect();
        // A task of its own: `object_store` panics over an answer that speaks of objects which it was not asked for.
        let request = tokio::spawn(async move {
            let answers = bulk.delete_stream(stream::iter(asked).boxed());
            answers.collect::<Vec<_>>().await
        });
        let stop = AbortOnDrop(request.abort_handle());
        let tries = Tries::new(self, Attempt::Delete, "");
        let answers = tries.interruptible(request).await?;
        drop(stop);
        let Ok(answers) = answers else {
            self.shared.refuses_bulk.store(true, Ordering::Relaxed);
            return Ok(Bulk::Unknown);
        };
        // One answer for each object, in their order; or one for all, when the request failed as a whole.
        let failed = answers.iter().filter_map(|answer| answer.as_ref().err());
        let is_whole = answers.len() == names.len() && !failed.clone().any(is_of_request);
        if !is_whole {
            if failed.map(classify).next().is_some_and(|class| !class.passes()) {
                self.shared.refuses_bulk.store(true, Ordering::Relaxed);
            }
            return Ok(Bulk::Unknown);
        }
        let answers = names.iter().zip(answers);
        let left = answers.filter(|(_, answer)| answer.is_err());
        Ok(Bulk::Left(left.map(|(name, _)| *name).collect()))
    }
}

/// What became of objects that one request asked to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bulk {
    /// The store told of each; these are not gone, in the order they were asked for.
    Left(Vec<ObjectName>),
    /// There was no such answer: of none is it known.
    Unknown,
}

/// Ends a task with the future that waits for it.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
