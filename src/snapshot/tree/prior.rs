//! The parent snapshot's tree, as sources see it.

use super::TreeReader;
use crate::context::Time;
use crate::error::Result;
use crate::snapshot::entry::{Key, Prior, PriorEntry};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};

/// A parent snapshot. Each stream reads each leaf under its prefix once, in order.
pub struct TreePrior {
    reader: TreeReader,
    started: Time,
}

impl TreePrior {
    /// The snapshot that was begun at `started` and whose tree `reader` reads.
    pub fn new(reader: TreeReader, started: Time) -> Self {
        Self { reader, started }
    }
}

impl Prior for TreePrior {
    fn started(&self) -> Option<Time> {
        Some(self.started)
    }

    fn entries(&self, prefix: Key) -> BoxStream<'static, Result<PriorEntry>> {
        self.reader.under(prefix).map_ok(PriorEntry::new).boxed()
    }
}
