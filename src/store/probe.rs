//! What a store can do: put-if-absent is tried, never believed.

use super::fault::{Attempt, Class, classify};
use super::retry::Tries;
use super::{Listed, Store};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{ObjectName, Prefix};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use object_store::Attributes;

/// Whether the store honours put-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// A name that is taken is refused.
    PutIfAbsent,
    /// A name that is taken is written again, whatever was asked for: snapshots work, collecting needs exclusive use.
    Overwrites,
    /// The store refuses to put under a condition at all.
    Refuses,
}

/// What a race of writers for one name showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Race {
    /// Each round had exactly one winner, and the winner's bytes are what is stored.
    OneWinner,
    /// Some round had several winners, or the bytes of a loser: two collectors or a writer and a collector could both
    /// believe that they decided a session.
    Broken,
    /// No round could be run: the probe's names are taken and cannot be deleted, or others probed at the same time.
    Inconclusive,
}

/// What an object showed that was put, listed and deleted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Whether a listing that began after the put had it.
    pub listed: bool,
    /// Whether a listing that began after the delete had it no more; nothing if deleting is not allowed.
    pub vanished: Option<bool>,
    /// Seconds by which this machine's clock is ahead of the store's, as far as one request can tell: 0 if the store's time lies between
    /// before and after.
    pub clock_ahead: i64,
}

/// The names that races use are `reserve/128` to `reserve/255`: their content means nothing to anyone.
const RACE_FIRST: u8 = 128;
const RACERS: usize = 8;

impl Store {
    /// Puts an object that exists once more, with its own bytes, and sees whether the store notices. Harmless: whatever the
    /// store does, the object has the same bytes afterwards.
    ///
    /// # Errors
    /// `NotFound` if the object is not there, `Damaged` if it has other bytes; else as [`Store::put_new`].
    pub async fn probe(&self, name: &ObjectName, bytes: Bytes) -> Result<Capability> {
        self.writing(Attempt::Write, name)?;
        if self.get(name).await? != bytes {
            let place = name.to_string();
            let error = Error::new(ErrorKind::Damaged, "the object has changed while it was in use");
            return Err(self.place(Attempt::Read, &place).place(error));
        }
        let text = name.to_string();
        let path = self.path(&text);
        let mut tries = Tries::new(self, Attempt::Write, &text);
        loop {
            let Err(error) = self.create(&path, Attributes::new(), &bytes).await else {
                return Ok(Capability::Overwrites);
            };
            match classify(&error) {
                Class::Exists => return Ok(Capability::PutIfAbsent),
                Class::Unsupported => return Ok(Capability::Refuses),
                class if class.passes() && tries.again(&error, false).await? => {}
                _ => return Err(self.place(Attempt::Write, &text).error(&error)),
            }
        }
    }

    /// Lets 8 writers put different bytes under one name at the same time, `rounds` times, and deletes what they leave, if
    /// that is allowed.
    ///
    /// # Errors
    /// As [`Store::put_new`]. A failed attempt to delete is no error.
    pub async fn probe_race(&self, rounds: u32, context: &Context) -> Result<Race> {
        let mut outcome = Race::Inconclusive;
        for _ in 0..rounds {
            // Another name if the first is taken, by a probe that could not delete or that runs now.
            for _ in 0..8 {
                match self.race(context).await? {
                    Race::Inconclusive => {}
                    Race::Broken => return Ok(Race::Broken),
                    Race::OneWinner => {
                        outcome = Race::OneWinner;
                        break;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Puts an object of a probe, lists it, deletes it if that is allowed, and lists again. Nothing if every name that was tried is taken.
    ///
    /// # Errors
    /// As [`Store::put_new`] and [`Store::list`].
    pub async fn trial(&self, context: &Context) -> Result<Option<Trial>> {
        for _ in 0..8 {
            let [pick] = context.random.bytes::<1>()?;
            let name = ObjectName::Reserve(RACE_FIRST | pick);
            let body = probe_body(context)?;
            let before = context.clock.now().seconds;
            if !self.put_new(&name, body).await?.is_mine() {
                continue;
            }
            let after = context.clock.now().seconds;
            let listed = self.lists(&name).await?;
            let stored = self.head(&name).await?.last_modified.seconds;
            let vanished = match self.delete(&name).await {
                Ok(()) => Some(!self.lists(&name).await?),
                Err(error) if error.kind() == ErrorKind::Denied => None,
                Err(error) => return Err(error),
            };
            // The store's times may be of whole seconds.
            let clock_ahead = if stored < before - 1 {
                before - stored
            } else if stored > after + 1 {
                after - stored
            } else {
                0
            };
            return Ok(Some(Trial {
                listed,
                vanished,
                clock_ahead,
            }));
        }
        Ok(None)
    }

    async fn lists(&self, name: &ObjectName) -> Result<bool> {
        let mut listed = self.list(Prefix::Reserve);
        while let Some(item) = listed.next().await {
            if matches!(item?, Listed::Object(info) if info.name == *name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn race(&self, context: &Context) -> Result<Race> {
        let [pick] = context.random.bytes::<1>()?;
        let name = ObjectName::Reserve(RACE_FIRST | pick);
        self.writing(Attempt::Write, &name)?;
        let text = name.to_string();
        let path = self.path(&text);
        let mut bodies = Vec::with_capacity(RACERS);
        for _ in 0..RACERS {
            bodies.push(probe_body(context)?);
        }
        let answers = join_all(
            bodies
                .iter()
                .map(|body| self.create(&path, Attributes::new(), body)),
        )
        .await;
        let mut winners = Vec::new();
        for (body, answer) in bodies.iter().zip(answers) {
            match answer.map_err(|e| (classify(&e), e)) {
                Ok(()) => winners.push(body),
                Err((Class::Exists, _)) => {}
                // A lost answer is no win; the race may prove nothing then.
                Err((class, _)) if class.passes() => {}
                Err((_, error)) => return Err(self.place(Attempt::Write, &text).error(&error)),
            }
        }
        let stored = match self.get(&name).await {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let ours = stored.as_ref().is_some_and(|s| bodies.contains(s));
        if ours {
            // Without the right to delete, the object stays; a later race takes another name.
            if let Err(e) = self.delete(&name).await
                && e.kind() != ErrorKind::Denied
            {
                return Err(e);
            }
        }
        Ok(match (winners.as_slice(), &stored) {
            ([_, _, ..], _) => Race::Broken,
            ([winner], Some(stored)) if *winner == stored => Race::OneWinner,
            ([_], Some(_)) if ours => Race::Broken,
            // Nobody was told that he won, or someone else's bytes are there, or none: another prober won or deleted.
            _ => Race::Inconclusive,
        })
    }
}

fn probe_body(context: &Context) -> Result<Bytes> {
    let salt = crate::format::id::hex(&context.random.bytes::<32>()?);
    Ok(Bytes::from(format!("holdall probe, may be deleted\n{salt}\n")))
}
