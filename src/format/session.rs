//! A writer's start, and the record that lets a snapshot go (`format-spec/70-snapshots.md`).

use super::cbor::Encoder;
use super::error::DecodeError;
use super::id::SessionId;
use super::limits;
use super::records::{UNKNOWN_FIELD, must, put_time, read_map, sid, time};
use crate::context::Time;

/// `sessions/<sid>`: put before every read that a reuse rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its own id.
    pub sid: SessionId,
    /// The host that writes.
    pub host: String,
    /// When it began, by the writer's clock.
    pub started: Time,
    /// Random: equal bytes mean "mine".
    pub nonce: [u8; 16],
    /// The snapshot that is likely to be the parent; the commit names the one used.
    pub parent_hint: Option<SessionId>,
    /// The session whose uploads this one takes over.
    pub adopted: Option<SessionId>,
}

impl SessionRecord {
    /// Fields: 0 sid, 1 host, 2 started, 3 nonce, 4 parent hint, 5 adopted; 6 is reserved for a public-key share.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.map(4 + usize::from(self.parent_hint.is_some()) + usize::from(self.adopted.is_some()));
        out.uint(0)
            .bytes(&self.sid.to_bytes())
            .uint(1)
            .text(&self.host)
            .uint(2);
        put_time(&mut out, self.started);
        out.uint(3).bytes(&self.nonce);
        for (field, value) in [(4, self.parent_hint), (5, self.adopted)] {
            if let Some(value) = value {
                out.uint(field).bytes(&value.to_bytes());
            }
        }
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut id, mut host, mut started, mut nonce, mut parent_hint, mut adopted) =
            (None, None, None, None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => id = Some(sid(d)?),
                1 => host = Some(d.text(limits::NAME_MAX)?.to_owned()),
                2 => started = Some(time(d)?),
                3 => nonce = Some(d.fixed()?),
                4 => parent_hint = Some(sid(d)?),
                5 => adopted = Some(sid(d)?),
                6 => return Err(DecodeError::UnknownVersion("public-key session")),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        Ok(Self {
            sid: must(id)?,
            host: must(host)?,
            started: must(started)?,
            nonce: must(nonce)?,
            parent_hint,
            adopted,
        })
    }
}

/// `forgets/<sid>`: a snapshot let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgetRecord {
    /// The snapshot.
    pub sid: SessionId,
    /// The host that asked.
    pub who: String,
    /// Why: the policy, or what the user said.
    pub why: String,
    /// When, by that host's clock.
    pub time: Time,
    /// Random: equal bytes mean "mine".
    pub nonce: [u8; 16],
}

impl ForgetRecord {
    /// Fields: 0 sid, 1 who, 2 why, 3 time, 4 nonce.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.map(5)
            .uint(0)
            .bytes(&self.sid.to_bytes())
            .uint(1)
            .text(&self.who)
            .uint(2)
            .text(&self.why)
            .uint(3);
        put_time(&mut out, self.time);
        out.uint(4).bytes(&self.nonce);
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut id, mut who, mut why, mut when, mut nonce) = (None, None, None, None, None);
        read_map(bytes, |field, d| {
            match field {
                0 => id = Some(sid(d)?),
                1 => who = Some(d.text(limits::NAME_MAX)?.to_owned()),
                2 => why = Some(d.text(limits::TEXT_MAX)?.to_owned()),
                3 => when = Some(time(d)?),
                4 => nonce = Some(d.fixed()?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        Ok(Self {
            sid: must(id)?,
            who: must(who)?,
            why: must(why)?,
            time: must(when)?,
            nonce: must(nonce)?,
        })
    }
}
