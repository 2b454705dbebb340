//! Looks at every object without a key, as the keeper of a copy can: names, headers, hashes, and what numbers say must be there.

use super::{Finding, ReadData, SurveyReport, is_chosen};
use crate::context::Context;
use crate::crypto::read_slot_kind;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::error::DecodeError;
use crate::format::header::{HEADER_LEN, Header, ObjectType, Origin, TAG_LEN, TRAILER_LEN, check_trailer};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits::OBJECT_MAX;
use crate::format::repo_config::Marker;
use crate::repository::open::no_repository;
use crate::repository::view::of_one_object;
use crate::store::{Listed, Store};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::BTreeSet;

/// No sealed object is shorter: header, one empty record, hash.
const SEALED_MIN: usize = HEADER_LEN + TAG_LEN + TRAILER_LEN;

/// Looks at every object of a repository, packs as far as `read_data` says. Nothing is opened and nothing is written: what one object
/// says of another is not known.
///
/// # Errors
/// `NoRepository`, or what the store says when it cannot be read at all; damage is a finding.
pub async fn survey_without_key(
    store: &Store,
    context: &Context,
    read_data: ReadData,
) -> Result<SurveyReport> {
    let mut report = SurveyReport::default();
    let mut objects = list(store, &mut report).await?;
    if !objects.iter().any(|(name, _)| *name == ObjectName::Marker) {
        return Err(no_repository(store));
    }
    must_be_there(&objects, &mut report);
    choose(context, &mut objects, read_data)?;
    context.emit(&Event::PhaseStarted {
        phase: "check",
        entries: None,
        bytes: Some(objects.iter().map(|(_, size)| *size).sum()),
    });
    let at_once = usize::try_from(context.budget.total() / OBJECT_MAX as u64).unwrap_or(1);
    let reads = objects.into_iter().map(|(name, _)| async move {
        let read = match store.get(&name).await {
            Ok(bytes) => context
                .cpu
                .run(move || prove(&name, &bytes))
                .await?
                .map_err(Error::from),
            Err(error) => Err(error),
        };
        Ok::<_, Error>((name, read))
    });
    let mut reads = stream::iter(reads).buffered(at_once.clamp(1, 8));
    while let Some(read) = reads.next().await {
        context.check_cancelled()?;
        match read? {
            (name, Ok(proven)) => {
                context.emit(&Event::Progress { bytes: proven.bytes });
                report.bytes_read += proven.bytes;
                report.packs_read += u64::from(matches!(name, ObjectName::Pack(_)));
                if let Some(newer) = proven.newer {
                    report.findings.push(Finding::note(name, newer));
                }
            }
            // A collector may take what it is allowed to at any time; what must stay was looked for among the names.
            (_, Err(error)) if error.kind() == ErrorKind::NotFound => {}
            (name, Err(error)) => {
                let error = of_one_object(store, error).await?;
                if let ObjectName::Pack(id) = name {
                    report.bad_packs.push(id);
                }
                report.findings.push(Finding::error(name, error));
            }
        }
    }
    drop(reads);
    context.emit(&Event::PhaseEnded { phase: "check" });
    Ok(report)
}

/// Leaves out packs that are not to be read, unless their size alone is wrong.
fn choose(context: &Context, objects: &mut Vec<(ObjectName, u64)>, read_data: ReadData) -> Result<()> {
    let mut failed = Ok(());
    let mut is_wanted = |name: &ObjectName, size: u64| match name {
        ObjectName::Pack(id) => {
            let is_chosen = is_chosen(context, id, read_data).unwrap_or_else(|error| {
                failed = Err(error);
                false
            });
            is_chosen || size < SEALED_MIN as u64 || size > OBJECT_MAX as u64
        }
        _ => true,
    };
    objects.retain(|(name, size)| is_wanted(name, *size));
    failed
}

async fn list(store: &Store, report: &mut SurveyReport) -> Result<Vec<(ObjectName, u64)>> {
    let mut objects = Vec::new();
    let mut listed = store.list(Prefix::All);
    while let Some(item) = listed.next().await {
        match item? {
            Listed::Object(info) => {
                report.objects += 1;
                report.packs += u64::from(matches!(info.name, ObjectName::Pack(_)));
                objects.push((info.name, info.size));
            }
            Listed::Foreign { name, .. } => report.findings.push(Finding::note(
                name,
                "not an object of a repository; nothing reads it",
            )),
        }
    }
    objects.sort_unstable();
    Ok(objects)
}

/// What nobody may ever delete: configurations, seals, the last key.
fn must_be_there(objects: &[(ObjectName, u64)], report: &mut SurveyReport) {
    let (mut configs, mut seals, mut keys) = (BTreeSet::new(), BTreeSet::new(), 0_u64);
    for (name, _) in objects {
        match name {
            ObjectName::Config(generation) => drop(configs.insert(*generation)),
            ObjectName::Seal(round) => drop(seals.insert(*round)),
            ObjectName::Key(_) => keys += 1,
            _ => {}
        }
    }
    let mut missing = |name: ObjectName| {
        report
            .findings
            .push(Finding::error(name, "is missing, and nobody may delete it"));
    };
    if configs.is_empty() {
        missing(ObjectName::Config(0));
    }
    for (after, before) in gaps(configs.into_iter().map(u64::from), 0) {
        for generation in after..before {
            missing(ObjectName::Config(u32::try_from(generation).unwrap_or(u32::MAX)));
        }
    }
    for (after, before) in gaps(seals.into_iter(), 1) {
        for round in after..before.min(after.saturating_add(GAP_NAMED)) {
            missing(ObjectName::Seal(round));
        }
    }
    if keys == 0 {
        let what = "no key slot is there: nobody can open this repository";
        report.findings.push(Finding::error("keys/", what));
    }
}

/// Missing objects in a row that are named.
const GAP_NAMED: u64 = 100;

/// The runs of numbers that are missing from `first` on below the highest, as half-open ranges.
fn gaps(numbers: impl Iterator<Item = u64>, first: u64) -> Vec<(u64, u64)> {
    let (mut next, mut gaps) = (first, Vec::new());
    for number in numbers {
        if number > next {
            gaps.push((next, number));
        }
        next = number.saturating_add(1);
    }
    gaps
}

/// An object that is what its name and its hash say.
struct Proven {
    bytes: u64,
    /// Why more cannot be said of it, if it is of a newer format.
    newer: Option<DecodeError>,
}

fn prove(name: &ObjectName, bytes: &Bytes) -> Result<Proven, DecodeError> {
    let proven = |newer| Proven {
        bytes: bytes.len() as u64,
        newer,
    };
    let (object_type, id) = match name {
        ObjectName::Marker => {
            return match Marker::decode(bytes) {
                Ok(_) => Ok(proven(None)),
                Err(error @ DecodeError::UnknownVersion(_)) => Ok(proven(Some(error))),
                Err(error) => Err(error),
            };
        }
        // What a probe could not delete.
        ObjectName::Reserve(number) if *number >= 128 => return Ok(proven(None)),
        ObjectName::Reserve(_) => {
            check_trailer(bytes)?;
            return Ok(proven(None));
        }
        ObjectName::Key(_) => (ObjectType::KeySlot, None),
        ObjectName::Config(_) => (ObjectType::Config, None),
        ObjectName::Pack(id) => (ObjectType::Pack, Some(id)),
        ObjectName::SessionRun(_, id) | ObjectName::CollectorRun(_, id) => (ObjectType::IndexRun, Some(id)),
        ObjectName::Session(_) => (ObjectType::Session, None),
        ObjectName::Snapshot(_) => (ObjectType::Snapshot, None),
        ObjectName::Forget(_) => (ObjectType::Forget, None),
        ObjectName::Condemned(_) => (ObjectType::Condemned, None),
        ObjectName::State(_, id) => (ObjectType::State, Some(id)),
        ObjectName::Seal(_) => (ObjectType::Seal, None),
        ObjectName::Note(..) => (ObjectType::Note, None),
        ObjectName::Refs(_) => (ObjectType::Refs, None),
        ObjectName::Ledger(_) => (ObjectType::Ledger, None),
    };
    // The hash comes first: damage must not look like a newer format.
    let (_, hash) = check_trailer(bytes)?;
    if id.is_some_and(|id| *id != hash) {
        return Err(DecodeError::Invalid("object under another name"));
    }
    let header = match Header::decode(bytes, object_type) {
        Ok(header) => header,
        Err(error @ DecodeError::UnknownVersion(_)) => return Ok(proven(Some(error))),
        Err(error) => return Err(error),
    };
    if bytes.len() < SEALED_MIN {
        return Err(DecodeError::Truncated);
    }
    if object_type == ObjectType::KeySlot {
        read_slot_kind(bytes)?;
    }
    let fits = match name {
        ObjectName::SessionRun(sid, _) => header.origin == Origin::Session(*sid),
        ObjectName::CollectorRun(round, _) | ObjectName::State(round, _) => {
            header.origin == Origin::Round(*round)
        }
        _ => true,
    };
    if fits {
        Ok(proven(None))
    } else {
        Err(DecodeError::Invalid("object of another origin"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_missing_below_the_highest_number() {
        assert_eq!(gaps([].into_iter(), 1), []);
        assert_eq!(gaps([1, 2, 3].into_iter(), 1), []);
        assert_eq!(gaps([3, 4, 7].into_iter(), 1), [(1, 3), (5, 7)]);
        assert_eq!(gaps([u64::MAX].into_iter(), 1), [(1, u64::MAX)]);
    }
}
