//! A collector's round, references of subtrees, and the ledger (`format-spec/90-collection.md`).

use super::cbor::{Decoder, Encoder};
use super::error::DecodeError;
use super::id::{BlobId, ObjectId, SessionId};
use super::index::BlobKind;
use super::limits;
use super::records::{UNKNOWN_FIELD, ascending, must, put_time, read_map, rows, time};
use crate::context::Time;

/// `gc/<n>/condemned`: packs that a round intends to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CondemnedRecord {
    /// The round.
    pub round: u64,
    /// The collector.
    pub collector: [u8; 16],
    /// Random.
    pub nonce: [u8; 16],
    /// Ascending; at most 300,000.
    pub packs: Vec<ObjectId>,
}

/// A collector's index run, as a state names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunRow {
    /// The round that wrote it.
    pub round: u64,
    /// Its id.
    pub id: ObjectId,
    /// How many entries it has.
    pub entries: u64,
    /// The order-independent hash of its entries.
    pub hash: [u8; 32],
}

/// `gc/<n>/state/<id>`: below the floor this is the whole truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// The round.
    pub round: u64,
    /// Sessions of a lower epoch are void unless they are in `live`.
    pub floor: u64,
    /// Committed, unforgotten sessions below the floor; ascending.
    pub live: Vec<SessionId>,
    /// All valid collector runs; ascending.
    pub runs: Vec<RunRow>,
    /// Packs that this round kills; ascending.
    pub dead: Vec<ObjectId>,
    /// Random.
    pub nonce: [u8; 16],
}

/// `gc/<n>/seal`: a round is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealRecord {
    /// The round.
    pub round: u64,
    /// Whether it swept; else it was aborted and its state is that of the seal before.
    pub swept: bool,
    /// The collector.
    pub collector: [u8; 16],
    /// The state that holds from now on: the round whose folder it is in, and its id. Nothing for the state before all rounds,
    /// which is no object: where the first rounds were aborted.
    pub state: Option<(u64, ObjectId)>,
    /// Random.
    pub nonce: [u8; 16],
}

/// `refs/<node id>`: what a subtree references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefsRecord {
    /// The node.
    pub node: BlobId,
    /// Blobs of kind and id; ascending. What nodes and lists among them refer to stands here too, or in `open`.
    pub blobs: Vec<(BlobKind, BlobId)>,
    /// Nodes and lists whose own references do not stand here; ascending, none of them in `blobs`.
    pub open: Vec<(BlobKind, BlobId)>,
}

/// `ledger/<n>`: packs that were read whole and found right, and packs that must not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRecord {
    /// Its number.
    pub number: u32,
    /// When it was put.
    pub time: Time,
    /// Random.
    pub nonce: [u8; 16],
    /// Pack and second of its verification; ascending by pack.
    pub verified: Vec<(ObjectId, i64)>,
    /// Ascending.
    pub quarantined: Vec<ObjectId>,
}

/// Rounds are numbered from 1.
fn read_round(d: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    match d.uint()? {
        0 => Err(DecodeError::Invalid("round 0")),
        round => Ok(round),
    }
}

fn pack_ids(ids: &[ObjectId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.0).collect()
}

fn read_ids(d: &mut Decoder<'_>, max: usize) -> Result<Vec<ObjectId>, DecodeError> {
    let ids: Vec<_> = rows::<32>(d, max)?.into_iter().map(ObjectId).collect();
    ascending(&ids)?;
    Ok(ids)
}

impl CondemnedRecord {
    /// Fields: 0 round, 1 collector, 2 nonce, 3 packs (32 bytes each).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.map(4)
            .uint(0)
            .uint(self.round)
            .uint(1)
            .bytes(&self.collector)
            .uint(2)
            .bytes(&self.nonce);
        out.uint(3).bytes(&pack_ids(&self.packs));
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut round, mut collector, mut nonce, mut packs) = (None, None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => round = Some(read_round(d)?),
                1 => collector = Some(d.fixed()?),
                2 => nonce = Some(d.fixed()?),
                3 => packs = Some(read_ids(d, limits::ROUND_PACKS_MAX)?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        Ok(Self {
            round: must(round)?,
            collector: must(collector)?,
            nonce: must(nonce)?,
            packs: must(packs)?,
        })
    }
}

impl StateRecord {
    /// Fields: 0 round, 1 floor, 2 live (24 bytes each), 3 runs (round 8 BE, id 32, entries 8 BE, hash 32), 4 dead (32 each), 5 nonce.
    pub fn encode(&self) -> Vec<u8> {
        let live: Vec<u8> = self.live.iter().flat_map(|sid| sid.to_bytes()).collect();
        let mut runs = Vec::with_capacity(self.runs.len() * 80);
        for run in &self.runs {
            runs.extend_from_slice(&run.round.to_be_bytes());
            runs.extend_from_slice(&run.id.0);
            runs.extend_from_slice(&run.entries.to_be_bytes());
            runs.extend_from_slice(&run.hash);
        }
        let mut out = Encoder::new();
        out.map(6)
            .uint(0)
            .uint(self.round)
            .uint(1)
            .uint(self.floor)
            .uint(2)
            .bytes(&live)
            .uint(3)
            .bytes(&runs);
        out.uint(4)
            .bytes(&pack_ids(&self.dead))
            .uint(5)
            .bytes(&self.nonce);
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut round, mut floor, mut live, mut runs, mut dead, mut nonce) =
            (None, None, None, None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => round = Some(read_round(d)?),
                1 => floor = Some(d.uint()?),
                2 => {
                    live = Some(
                        rows::<24>(d, limits::LIVE_MAX)?
                            .into_iter()
                            .map(SessionId::from_bytes)
                            .collect::<Result<Vec<_>, _>>()?,
                    );
                }
                3 => {
                    runs = Some(
                        rows::<80>(d, limits::RUNS_MAX)?
                            .iter()
                            .map(run_row)
                            .collect::<Result<Vec<_>, _>>()?,
                    );
                }
                4 => dead = Some(read_ids(d, limits::ROUND_PACKS_MAX)?),
                5 => nonce = Some(d.fixed()?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        let state = Self {
            round: must(round)?,
            floor: must(floor)?,
            live: must(live)?,
            runs: must(runs)?,
            dead: must(dead)?,
            nonce: must(nonce)?,
        };
        state.check()?;
        Ok(state)
    }

    fn check(&self) -> Result<(), DecodeError> {
        ascending(&self.live)?;
        if !self.runs.is_sorted_by(|a, b| (a.round, a.id) < (b.round, b.id)) {
            return Err(DecodeError::NotCanonical("rows do not ascend"));
        }
        // The floor is a round that was sealed before this one.
        if self.floor >= self.round {
            return Err(DecodeError::Invalid("floor of a state"));
        }
        if self.live.iter().any(|sid| sid.epoch >= self.floor) {
            return Err(DecodeError::Invalid("live session above the floor"));
        }
        if self
            .runs
            .iter()
            .any(|run| run.round == 0 || run.round > self.round)
        {
            return Err(DecodeError::Invalid("run of a later round"));
        }
        Ok(())
    }
}

fn run_row(row: &[u8; 80]) -> Result<RunRow, DecodeError> {
    let mut rest = row.as_slice();
    Ok(RunRow {
        round: u64::from_be_bytes(super::header::array(&mut rest)?),
        id: ObjectId(super::header::array(&mut rest)?),
        entries: u64::from_be_bytes(super::header::array(&mut rest)?),
        hash: super::header::array(&mut rest)?,
    })
}

impl SealRecord {
    /// Fields: 0 round, 1 swept, 2 collector, 3 state as [round, id] or null, 4 nonce.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.map(5)
            .uint(0)
            .uint(self.round)
            .uint(1)
            .bool(self.swept)
            .uint(2)
            .bytes(&self.collector);
        match &self.state {
            Some((round, id)) => out.uint(3).array(2).uint(*round).bytes(&id.0),
            None => out.uint(3).null(),
        };
        out.uint(4).bytes(&self.nonce);
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut round, mut swept, mut collector, mut state, mut nonce) = (None, None, None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => round = Some(read_round(d)?),
                1 => swept = Some(d.bool()?),
                2 => collector = Some(d.fixed()?),
                3 if d.null() => state = Some(None),
                3 => {
                    d.array_of(2)?;
                    state = Some(Some((read_round(d)?, ObjectId(d.fixed()?))));
                }
                4 => nonce = Some(d.fixed()?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        let seal = Self {
            round: must(round)?,
            swept: must(swept)?,
            collector: must(collector)?,
            state: must(state)?,
            nonce: must(nonce)?,
        };
        // A round that swept has a state of its own, an aborted one that of an earlier round.
        let of = seal.state.map_or(0, |(round, _)| round);
        if if seal.swept {
            of == seal.round
        } else {
            of < seal.round
        } {
            Ok(seal)
        } else {
            Err(DecodeError::Invalid("state of a seal"))
        }
    }
}

impl RefsRecord {
    /// Fields: 0 node, 1 blobs (kind 1, id 32), 2 open (the same), absent if there are none.
    pub fn encode(&self) -> Vec<u8> {
        let rows = |blobs: &[(BlobKind, BlobId)]| -> Vec<u8> {
            let rows = blobs.iter();
            rows.flat_map(|(kind, id)| std::iter::once(*kind as u8).chain(id.0))
                .collect()
        };
        let mut out = Encoder::new();
        let has_open = !self.open.is_empty();
        out.map(2 + usize::from(has_open)).uint(0).bytes(&self.node.0);
        out.uint(1).bytes(&rows(&self.blobs));
        if has_open {
            out.uint(2).bytes(&rows(&self.open));
        }
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut node, mut blobs, mut open) = (None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => node = Some(BlobId(d.fixed()?)),
                1 => blobs = Some(blob_rows(d)?),
                2 => open = Some(blob_rows(d)?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        if open.as_ref().is_some_and(Vec::is_empty) {
            return Err(DecodeError::NotCanonical("no open ends are not told of"));
        }
        let record = Self {
            node: must(node)?,
            blobs: must(blobs)?,
            open: open.unwrap_or_default(),
        };
        ascending(&record.blobs)?;
        ascending(&record.open)?;
        let mut all = record.blobs.iter().chain(&record.open);
        if record.node == BlobId::HOLE || all.any(|(_, id)| *id == BlobId::HOLE) {
            return Err(DecodeError::Invalid("the hole is not a blob"));
        }
        let is_end = |(kind, _): &&(BlobKind, BlobId)| *kind != BlobKind::Data;
        let is_told = |end: &(BlobKind, BlobId)| record.blobs.binary_search(end).is_ok();
        if !record.open.iter().all(|end| is_end(&end) && !is_told(end)) {
            return Err(DecodeError::Invalid("an open end"));
        }
        Ok(record)
    }
}

fn blob_rows(d: &mut Decoder<'_>) -> Result<Vec<(BlobKind, BlobId)>, DecodeError> {
    let rows = rows::<33>(d, limits::REFS_MAX)?;
    rows.iter().map(blob_row).collect()
}

fn blob_row(row: &[u8; 33]) -> Result<(BlobKind, BlobId), DecodeError> {
    let mut rest = row.as_slice();
    let [kind] = super::header::array(&mut rest)?;
    Ok((
        BlobKind::from_number(kind)?,
        BlobId(super::header::array(&mut rest)?),
    ))
}

impl LedgerRecord {
    /// Fields: 0 number, 1 time, 2 nonce, 3 verified (id 32, seconds 8 BE), 4 quarantined (id 32).
    pub fn encode(&self) -> Vec<u8> {
        let verified: Vec<u8> = self
            .verified
            .iter()
            .flat_map(|(id, at)| id.0.into_iter().chain(at.to_be_bytes()))
            .collect();
        let mut out = Encoder::new();
        out.map(5).uint(0).uint(u64::from(self.number)).uint(1);
        put_time(&mut out, self.time);
        out.uint(2)
            .bytes(&self.nonce)
            .uint(3)
            .bytes(&verified)
            .uint(4)
            .bytes(&pack_ids(&self.quarantined));
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut number, mut when, mut nonce, mut verified, mut quarantined) = (None, None, None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => number = Some(d.uint32()?),
                1 => when = Some(time(d)?),
                2 => nonce = Some(d.fixed()?),
                3 => {
                    verified = Some(
                        rows::<40>(d, limits::LEDGER_VERIFIED_MAX)?
                            .iter()
                            .map(verified_row)
                            .collect::<Result<Vec<_>, _>>()?,
                    );
                }
                4 => quarantined = Some(read_ids(d, limits::LEDGER_QUARANTINED_MAX)?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        let record = Self {
            number: must(number)?,
            time: must(when)?,
            nonce: must(nonce)?,
            verified: must(verified)?,
            quarantined: must(quarantined)?,
        };
        if !record.verified.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(DecodeError::NotCanonical("rows do not ascend"));
        }
        Ok(record)
    }
}

fn verified_row(row: &[u8; 40]) -> Result<(ObjectId, i64), DecodeError> {
    let mut rest = row.as_slice();
    Ok((
        ObjectId(super::header::array(&mut rest)?),
        i64::from_be_bytes(super::header::array(&mut rest)?),
    ))
}
