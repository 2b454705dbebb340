//! Index runs of a session: they list its packs after these are durable, and the packs that it claims.

use super::BlobWriter;
use crate::crypto::seal_run;
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::Origin;
use crate::format::index::Tables;
use crate::store::Put;

/// The largest run in bytes; more rows go into another one.
pub(in crate::repository) const RUN_MAX: usize = 12 << 20;

impl BlobWriter {
    /// Puts a run of everything that is durable and not listed yet: an empty one if there is nothing, as a sign of life.
    pub(super) async fn put_run(&mut self) -> Result<()> {
        let unlisted = self.claimed.difference(&self.claims_listed).copied().collect();
        let mut rows = std::mem::take(&mut self.rows);
        rows.extend(self.view.rows_of(&unlisted));
        for tables in merge(rows) {
            let (keyring, random) = (self.repository.keyring(), self.context.random.as_ref());
            let (name, sealed) = seal_run(keyring, random, Origin::Session(self.sid), &tables)?;
            let bytes = sealed.bytes.len() as u64;
            if self.repository.put_sealed(&name, &sealed).await? == Put::Conflict {
                let error = Error::new(ErrorKind::Damaged, "an index run's name is taken");
                return Err(error.with("object", name));
            }
            self.counts.bytes_stored += bytes;
        }
        self.claims_listed.extend(unlisted);
        self.last_run = self.context.clock.now();
        Ok(())
    }
}

/// Puts tables of one pack each together, in as few runs as the largest size allows; one empty run if there are none.
fn merge(mut rows: Vec<Tables>) -> Vec<Tables> {
    rows.sort_unstable_by_key(|tables| tables.packs.first().map(|pack| pack.id));
    let mut runs = vec![Vec::new()];
    let mut len = 0;
    for tables in rows {
        len += tables.encoded_len();
        if len > RUN_MAX && runs.last().is_some_and(|run: &Vec<Tables>| !run.is_empty()) {
            len = tables.encoded_len();
            runs.push(Vec::new());
        }
        if let Some(run) = runs.last_mut() {
            run.push(tables);
        }
    }
    runs.into_iter().map(join).collect()
}

/// Puts tables of one pack each, ascending by their ids, together as one run.
pub(in crate::repository) fn join(parts: Vec<Tables>) -> Tables {
    let mut out = Tables::default();
    let mut entries = Vec::new();
    for part in parts {
        let (packs, blocks) = (number(out.packs.len()), number(out.blocks.len()));
        out.packs.extend(part.packs);
        out.blocks.extend(part.blocks.into_iter().map(|mut row| {
            row.pack += packs;
            row
        }));
        let mut bases = part.bases.into_iter();
        for mut row in part.entries {
            row.block += blocks;
            let base = if row.delta {
                bases.next().map(|(_, base)| base)
            } else {
                None
            };
            entries.push((row, base));
        }
    }
    entries.sort_unstable_by_key(|(row, _)| (row.id, row.block, row.offset));
    for (at, (row, base)) in entries.into_iter().enumerate() {
        out.bases.extend(base.map(|base| (number(at), base)));
        out.entries.push(row);
    }
    out
}

fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
