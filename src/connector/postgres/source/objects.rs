//! Large objects: each an entry, its bytes read when they are wanted.

use super::statements::Watched;
use super::{Found, Out, Reading};
use crate::connector::postgres::catalog::{self, LargeObject};
use crate::connector::postgres::key::{self, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Item};
use bytes::Bytes;
use std::sync::Arc;

/// Yields all large objects of the database.
pub(super) async fn send(reading: &Reading, found: &Arc<Found>, out: &mut Out) -> Result<()> {
    let mut page = catalog::large_objects(reading.session.client(), 0).await?;
    if page.is_empty() {
        return Ok(());
    }
    // A connection of their own: whoever reads an object reads at another pace than whoever lists them.
    let connection = Arc::new(reading.session.worker().await?);
    while let Some(last) = page.last().map(|object| object.oid) {
        for object in page {
            if !object.readable {
                return Err(Error::new(
                    ErrorKind::Source,
                    "there is a large object that the role cannot read",
                )
                .with("oid", object.oid)
                .hint(format!(
                    "GRANT SELECT ON LARGE OBJECT {} to the role that reads",
                    object.oid
                )));
            }
            let content = if reading.dry_run {
                Content::None
            } else {
                Content::Open(Box::new(Watched {
                    stream: catalog::large_object_content(connection.clone(), object.oid),
                    found: found.clone(),
                }))
            };
            let head = head(reading, &object)?;
            out.send(Item::Entry(Entry { head, content })).await?;
        }
        reading.session.check()?;
        page = catalog::large_objects(reading.session.client(), last).await?;
    }
    Ok(())
}

fn head(reading: &Reading, object: &LargeObject) -> Result<EntryHead> {
    let metadata = object.record.to_metadata().map_err(|error| {
        Error::new(
            ErrorKind::Unsupported,
            "a large object's access list is more than an entry can say",
        )
        .with("oid", object.oid)
        .because(error)
    })?;
    Ok(EntryHead {
        key: key::key(&reading.database, &Place::LargeObject(object.oid)),
        kind: EntryKind::LargeObject,
        metadata,
        state: Bytes::new(),
        size: None,
    })
}
