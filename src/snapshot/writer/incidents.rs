//! What could not be read: the first of it for the record, all of it for a list that is stored as it grows.

use super::SnapshotWriter;
use crate::context::Reservation;
use crate::error::Result;
use crate::event::Event;
use crate::format::cbor::Encoder;
use crate::format::entry::{BlobRef, ContentRecord};
use crate::format::limits;
use crate::snapshot::content::{Cutter, cut_windows};
use crate::snapshot::entry::Incident;
use crate::snapshot::tree::ContentWriter;

/// So many bytes of incidents are handed to the chunks of their list at once.
const INCIDENTS_AT_ONCE: usize = 1 << 20;

/// All incidents as they are listed: encoded one after the other. Bounded: what the record has no room for goes into chunks.
#[derive(Default)]
pub(super) struct IncidentLog {
    waiting: Vec<u8>,
    stored: Option<(Cutter, ContentWriter)>,
}

impl SnapshotWriter {
    /// Notes what could not be read.
    pub(super) async fn add_incident(&mut self, incident: &Incident) -> Result<()> {
        let Incident { key, why } = incident;
        let mut why = why.clone();
        while why.len() > limits::TEXT_MAX {
            why.pop();
        }
        self.context.emit(&Event::Incident {
            name: key.to_string(),
            why: why.clone(),
        });
        self.incident_count += 1;
        let mut encoded = Encoder::new();
        encoded.array(2).bytes(key.as_bytes()).text(&why);
        let encoded = encoded.finish();
        // The record takes the first of them, as many as its limits allow and none after the first that it does not.
        let skipped = self.incidents.len() as u64 + 1 < self.incident_count;
        let fits = self.incidents.len() < limits::INCIDENTS_INLINE_MAX
            && self.incident_log.waiting.len() + encoded.len() <= limits::INCIDENTS_INLINE_BYTES_MAX - 64;
        if fits && !skipped {
            self.incidents.push((key.clone(), why));
        }
        self.incident_log.waiting.extend(encoded);
        // More than the record takes: there will be a list, and what it is made of need not be kept.
        let listed = (self.incidents.len() as u64) < self.incident_count;
        if listed && self.incident_log.waiting.len() >= INCIDENTS_AT_ONCE {
            self.spill_incidents().await?;
        }
        Ok(())
    }

    /// Hands the incidents that wait to the chunks of the list.
    async fn spill_incidents(&mut self) -> Result<()> {
        let stored = self.incident_log.stored.take();
        let (mut cutter, mut refs) = stored.unwrap_or_else(|| {
            let cutter = cut_windows(self.chunker.clone(), self.namer.clone(), self.context.clone());
            (cutter, ContentWriter::new())
        });
        let log = std::mem::take(&mut self.incident_log.waiting);
        for chunk in cutter.data(log.into()).await? {
            self.put_chunk(chunk, &mut refs, &mut Reservation::none()).await?;
        }
        self.incident_log.stored = Some((cutter, refs));
        Ok(())
    }

    /// Ends the list of all incidents, if there are more than the record takes.
    pub(super) async fn store_incidents(&mut self) -> Result<Option<(u8, Vec<BlobRef>)>> {
        if self.incidents.len() as u64 == self.incident_count {
            return Ok(None);
        }
        self.spill_incidents().await?;
        let Some((cutter, mut refs)) = self.incident_log.stored.take() else {
            return Ok(None);
        };
        let (last, _) = cutter.finish().await?;
        for chunk in last {
            self.put_chunk(chunk, &mut refs, &mut Reservation::none()).await?;
        }
        match refs.finish(self.tree.sink_mut()).await? {
            ContentRecord::Refs { level, refs } => Ok(Some((level, refs))),
            _ => Ok(None),
        }
    }
}
