//! Large objects: small ones read together and ahead, long ones piece by piece; on whatever connections are free, and once more if one
//! is lost.

use super::statements::Watched;
use super::worker::Hands;
use super::{Out, Reading};
use crate::connector::postgres::catalog::{self, LargeObject};
use crate::connector::postgres::key::{self, Place};
use crate::connector::postgres::session::in_time;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, ContentStream, Entry, EntryHead, EntryKind, Item, Piece};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Objects that one statement reads the beginnings of.
const AT_ONCE: usize = 16;
/// Bytes of a beginning; an object that is shorter is whole.
const HEAD: u32 = 64 << 10;
/// Bytes of a longer object that one statement reads.
const PIECE: u32 = 1 << 20;
/// Pieces of one object that are read at once.
const PIECES: usize = 4;

/// What one statement reads.
enum Ask {
    Heads(Vec<u32>),
    Piece(u32, u64),
}

/// Yields all large objects of the database.
pub(super) async fn send(reading: &Arc<Reading>, out: &mut Out) -> Result<()> {
    let mut behind = 0;
    loop {
        reading.session.check()?;
        let page = catalog::large_objects(reading.session.coordinator(), behind).await?;
        let Some(last) = page.last() else { return Ok(()) };
        behind = last.oid;
        if let Some(object) = page.iter().find(|object| !object.readable) {
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
        let batches: Vec<Vec<LargeObject>> = page.chunks(AT_ONCE).map(<[LargeObject]>::to_vec).collect();
        let mut read = stream::iter(batches)
            .map(|batch| heads(reading.clone(), batch))
            .buffered(reading.workers.number());
        while let Some(batch) = read.try_next().await? {
            for (object, beginning) in batch {
                out.send(Item::Entry(entry(reading, &object, beginning)?)).await?;
            }
        }
    }
}

/// The beginnings of some objects.
async fn heads(reading: Arc<Reading>, batch: Vec<LargeObject>) -> Result<Vec<(LargeObject, Bytes)>> {
    if reading.dry_run {
        return Ok(batch.into_iter().map(|object| (object, Bytes::new())).collect());
    }
    let oids = batch.iter().map(|object| object.oid).collect();
    let heads = asked(reading, Ask::Heads(oids)).await?;
    if heads.len() != batch.len() {
        let what = "the server did not give as many large objects as it was asked for";
        return Err(Error::new(ErrorKind::Source, what));
    }
    Ok(batch.into_iter().zip(heads).collect())
}

/// Asks in a task of its own, which ends with whoever waits for it.
async fn asked(reading: Arc<Reading>, ask: Ask) -> Result<Vec<Bytes>> {
    let task = AbortOnDropHandle::new(tokio::spawn(async move { answer(&reading, &ask).await }));
    task.await
        .map_err(|error| Error::new(ErrorKind::Internal, "a reading task ended by itself").because(error))?
}

/// Asks on a free connection, once more if it is lost: the snapshot gives the same bytes.
async fn answer(reading: &Reading, ask: &Ask) -> Result<Vec<Bytes>> {
    let _seat = reading.workers.seat().await?;
    let mut tries = 0;
    loop {
        reading.session.check()?;
        let (hands, failure) = match reading.workers.hands(None).await {
            Ok(hands) => match attempt(reading, &hands, ask).await {
                Ok(bytes) => {
                    reading.workers.give_back(hands);
                    return Ok(bytes);
                }
                Err(failure) => (Some(hands), failure),
            },
            Err(failure) => (None, failure),
        };
        tries += 1;
        let recovered = reading.workers.recover(&reading.context, hands, tries, failure);
        recovered.await?;
    }
}

async fn attempt(reading: &Reading, hands: &Hands, ask: &Ask) -> Result<Vec<Bytes>> {
    let asked = async {
        match ask {
            Ask::Heads(oids) => catalog::large_object_heads(hands.client(), oids, HEAD).await,
            Ask::Piece(oid, offset) => {
                let piece = catalog::large_object_piece(hands.client(), *oid, *offset, PIECE).await?;
                Ok(vec![piece])
            }
        }
    };
    in_time(reading.session.options().silence, asked).await
}

fn entry(reading: &Arc<Reading>, object: &LargeObject, beginning: Bytes) -> Result<Entry> {
    let metadata = object.record.to_metadata().map_err(|error| {
        Error::new(
            ErrorKind::Unsupported,
            "a large object's access list is more than an entry can say",
        )
        .with("oid", object.oid)
        .because(error)
    })?;
    let whole = beginning.len() < HEAD as usize;
    let size = (whole && !reading.dry_run).then_some(beginning.len() as u64);
    let content = if reading.dry_run {
        Content::None
    } else if whole {
        Content::Bytes(beginning)
    } else {
        Content::Open(Box::new(Watched {
            stream: pieces(reading.clone(), object.oid, beginning),
            found: reading.found.clone(),
        }))
    };
    let head = EntryHead {
        key: key::key(&reading.database, &Place::LargeObject(object.oid)),
        kind: EntryKind::LargeObject,
        metadata,
        state: Bytes::new(),
        size,
    };
    Ok(Entry { head, content })
}

/// An object's bytes from its beginning on. The snapshot stays until they are read.
fn pieces(reading: Arc<Reading>, oid: u32, beginning: Bytes) -> ContentStream {
    let stays = reading.contents.token();
    let start = beginning.len() as u64;
    let offsets = stream::iter(0..).map(move |number: u64| start + number * u64::from(PIECE));
    let rest = offsets
        .map(move |offset| asked(reading.clone(), Ask::Piece(oid, offset)))
        .buffered(PIECES);
    // A piece that is not full is the last.
    let rest = rest.try_filter_map(|pieces| async move { Ok(pieces.into_iter().next()) });
    let until_end = stream::try_unfold(
        (rest.boxed(), false, stays),
        |(mut rest, ended, stays)| async move {
            if ended {
                return Ok(None);
            }
            let piece: Option<Bytes> = rest.try_next().await?;
            let Some(piece) = piece.filter(|piece| !piece.is_empty()) else {
                return Ok(None);
            };
            let ended = piece.len() < PIECE as usize;
            Ok(Some((Piece::Data(piece), (rest, ended, stays))))
        },
    );
    stream::iter([Ok(Piece::Data(beginning))])
        .chain(until_end)
        .boxed()
}
