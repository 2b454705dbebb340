//! Writing: [`Store::put_new`], the only way an object comes to be.

use super::Store;
use super::fault::{Attempt, classify};
use super::retry::Tries;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::layout::ObjectName;
use crate::format::limits::OBJECT_MAX;
use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, PutMode, PutOptions};

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// The object was written by this call.
    Created,
    /// The object is there with these very bytes: an earlier try of this call, or an earlier call, wrote it.
    Mine,
    /// The name is taken by other bytes; nothing was written.
    Conflict,
}

impl Put {
    /// Whether the object is there with these bytes.
    pub fn is_mine(self) -> bool {
        self != Self::Conflict
    }
}

impl Store {
    /// Writes a new object by one single request; never replaces one. `bytes` holds at most 64 MiB.
    ///
    /// Answers that leave the outcome open (the name is taken, a conflict, a time-out, a 5xx) are settled by reading back:
    /// equal bytes are [`Put::Mine`], other bytes [`Put::Conflict`], and if there is nothing the object is sent again. Bodies
    /// that hold a fresh random value make `Mine` mean "by me". Dropping the future leaves the outcome unknown. Puts that
    /// run when the work is cancelled are finished, not sent again.
    ///
    /// # Errors
    /// `StoreFull`, `Denied` (also on a read-only handle), `NoRepository`, `Unsupported`: nothing was written.
    /// `Unreachable` and `Cancelled` say in their message if the outcome is unknown, which is never "not written".
    pub async fn put_new(&self, name: &ObjectName, bytes: Bytes) -> Result<Put> {
        self.writing(Attempt::Write, name)?;
        let text = name.to_string();
        if bytes.len() > OBJECT_MAX {
            let error = Error::new(ErrorKind::Internal, "an object over 64 MiB; this is a bug");
            return Err(self.place(Attempt::Write, &text).place(error));
        }
        let _pass = self.shared.uploads.enter().await;
        let put = self.settle(&text, self.attributes(name), &bytes).await?;
        if put == Put::Created {
            self.shared.observer.on(&Event::ObjectStored {
                name: text,
                bytes: bytes.len() as u64,
            });
        }
        Ok(put)
    }

    /// Packs are most of the bytes and few of the requests; what is small and read often stays in the bucket's own class.
    fn attributes(&self, name: &ObjectName) -> Attributes {
        let class = self.shared.storage_class.clone();
        let class = class.filter(|_| matches!(name, ObjectName::Pack(_)));
        class
            .map(|class| (Attribute::StorageClass, class))
            .into_iter()
            .collect()
    }

    /// One put, as the store answers it.
    pub(super) async fn create(
        &self,
        path: &Path,
        attributes: Attributes,
        bytes: &Bytes,
    ) -> object_store::Result<()> {
        let options = PutOptions {
            mode: PutMode::Create,
            attributes,
            ..PutOptions::default()
        };
        self.shared
            .raw
            .put_opts(path, bytes.clone().into(), options)
            .await
            .map(drop)
    }

    /// Puts and reads back until the outcome is known.
    async fn settle(&self, text: &str, attributes: Attributes, bytes: &Bytes) -> Result<Put> {
        let path = self.path(text);
        let place = self.place(Attempt::Write, text);
        let mut tries = Tries::new(self, Attempt::Write, text);
        // Whether some try may have stored the object.
        let mut open = false;
        loop {
            let Err(error) = self.create(&path, attributes.clone(), bytes).await else {
                tries.answered();
                self.shared.uploads.succeed();
                return Ok(Put::Created);
            };
            let class = classify(&error);
            if class.is_pressure() {
                self.shared.uploads.shrink();
            }
            if !class.stored_nothing() {
                open = true;
                if let Some(put) = self.read_back(text, bytes, &mut tries, &error).await? {
                    return Ok(put);
                }
            } else if !class.passes() {
                return Err(if open {
                    place.unknown(place.error(&error).kind(), &error)
                } else {
                    place.error(&error)
                });
            }
            if !tries.again(&error, open).await? {
                return Err(self.given_up(text, open, &error));
            }
        }
    }

    fn given_up(&self, text: &str, open: bool, error: &object_store::Error) -> Error {
        let place = self.place(Attempt::Write, text);
        let told = place.error(error);
        match told.kind() {
            // Read back and absent each time: an answer that never holds (a server that says 409 for ever, say).
            ErrorKind::Exists => place.unknown(ErrorKind::Unreachable, error),
            ErrorKind::Unreachable if open => place.unknown(ErrorKind::Unreachable, error),
            _ => told,
        }
    }

    /// Settles a put by what is stored: `None` if nothing is.
    async fn read_back(
        &self,
        text: &str,
        bytes: &Bytes,
        tries: &mut Tries<'_>,
        error: &object_store::Error,
    ) -> Result<Option<Put>> {
        let path = self.path(text);
        loop {
            match self.compare(&path, bytes).await {
                Ok(true) => return Ok(Some(Put::Mine)),
                Ok(false) => return Ok(Some(Put::Conflict)),
                Err(read) => {
                    let class = classify(&read);
                    if class == super::fault::Class::Absent {
                        return Ok(None);
                    }
                    if !class.passes() || !tries.again(&read, true).await? {
                        let place = self.place(Attempt::Write, text);
                        let kind = match place.error(&read).kind() {
                            kind @ (ErrorKind::Denied | ErrorKind::NoRepository) => kind,
                            _ => ErrorKind::Unreachable,
                        };
                        // The put's own failure tells more than that reading back failed too.
                        return Err(place.unknown(kind, if class.passes() { error } else { &read }));
                    }
                }
            }
        }
    }

    /// Whether the stored object has these bytes, without holding it in memory.
    async fn compare(&self, path: &Path, bytes: &Bytes) -> object_store::Result<bool> {
        let result = self.shared.raw.get_opts(path, GetOptions::default()).await?;
        if result.meta.size != bytes.len() as u64 {
            return Ok(false);
        }
        let mut left = bytes.as_ref();
        let mut stream = result.into_stream();
        while let Some(piece) = stream.next().await {
            match left.strip_prefix(piece?.as_ref()) {
                Some(rest) => left = rest,
                None => return Ok(false),
            }
        }
        if left.is_empty() {
            Ok(true)
        } else {
            // Cut short: no proof of either.
            Err(object_store::Error::Generic {
                store: "store",
                source: Box::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            })
        }
    }
}
