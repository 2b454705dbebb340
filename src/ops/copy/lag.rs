//! How far a copy is behind.

use super::{Known, made, origin_of};
use crate::context::{Context, Time};
use crate::error::Result;
use crate::format::id::SessionId;
use crate::ops::list::{ListedSnapshot, list};
use crate::repository::Repository;
use crate::snapshot::SnapshotFilter;
use std::collections::BTreeSet;

/// How far the target is behind the source, whatever was asked for.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    /// Snapshots of the source that the target does not have, oldest first; those that were let go there are not missed.
    pub missing: Vec<SessionId>,
    /// When the newest snapshot was made that both have.
    pub newest_there: Option<Time>,
    /// Its age in seconds.
    pub age: Option<f64>,
    /// How much older it is than the newest one of the source, in seconds.
    pub behind: Option<f64>,
}

/// How far `target` is behind `source` in the snapshots that pass the filter; both are only read.
///
/// # Errors
/// What the stores say.
pub async fn lag(
    context: &Context,
    (source, target): (&Repository, &Repository),
    filter: &SnapshotFilter,
) -> Result<Lag> {
    let all = list(context, source, filter).await?;
    let known = Known::of(target, &target.view(context).await?).await?;
    if super::apart::looks_alike(&all.snapshots, &known) {
        super::apart::cannot_tell(context);
    }
    Ok(Lag::of(
        (context, source),
        &all.snapshots,
        (&known, &BTreeSet::new()),
    ))
}

impl Lag {
    /// `copied` are snapshots of the source that were copied since the target was looked at.
    pub(super) fn of(
        (context, source): (&Context, &Repository),
        all: &[ListedSnapshot],
        (known, copied): (&Known, &BTreeSet<SessionId>),
    ) -> Self {
        let (mut missing, mut newest_there) = (Vec::new(), None);
        for snapshot in all {
            let origin = origin_of(source, &snapshot.record);
            if copied.contains(&snapshot.record.sid) || known.there.contains_key(&origin) {
                newest_there = newest_there.max(Some(made(snapshot)));
            } else if !known.is_let_go(&origin, false) {
                missing.push(snapshot.record.sid);
            }
        }
        let newest = all.iter().map(made).max();
        let newest_there = newest_there.map(|(time, _)| time);
        let since = |time: Time| context.clock.now().seconds_since(time).max(0.0);
        Self {
            missing,
            newest_there,
            age: newest_there.map(since),
            behind: newest
                .zip(newest_there)
                .map(|((newest, _), there)| newest.seconds_since(there)),
        }
    }
}
