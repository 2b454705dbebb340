//! Replicas: the same repository, with its id and keys, in another store (`format-spec/85-sessions.md` section 7).

use super::open::{list, newest_config, read_marker, reserve};
use super::view::of_the_disk;
use super::{Cache, Repository};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::RepositoryId;
use crate::format::layout::{ObjectName, Prefix};
use crate::store::{Put, Store};
use bytes::Bytes;

/// Key slots that a replica was made without, and why.
pub type LeftOut = Vec<(ObjectName, Error)>;

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No repository, and no beginning of one.
    Nothing,
    /// The beginning of the repository with this id.
    Unfinished(RepositoryId),
    /// The repository with this id.
    Repository(RepositoryId),
}

impl Found {
    /// Looks at a store; no key is needed.
    ///
    /// # Errors
    /// `Damaged` or `Unsupported` if what is there cannot be understood, or what the store says.
    pub async fn at(store: &Store) -> Result<Self> {
        let marker = match read_marker(store).await {
            Ok((marker, _)) => marker,
            Err(error) if error.kind() == ErrorKind::NoRepository => return Ok(Self::Nothing),
            Err(error) => return Err(error),
        };
        Ok(match newest_config(store).await? {
            Some(_) => Self::Repository(marker.repository),
            None => Self::Unfinished(marker.repository),
        })
    }
}

impl Repository {
    /// Whether this and `other` have the same id and keys: one is a replica of the other, or they are one.
    pub fn is_replica_of(&self, other: &Self) -> bool {
        self.id() == other.id() && self.keyring().gear_key().expose() == other.keyring().gear_key().expose()
    }

    /// Opens the replica of this repository in another store, with the keys in hand.
    ///
    /// # Errors
    /// `NoRepository` if there is none or an unfinished one, `Differs` if it is another repository, or what the store says.
    pub async fn open_replica(&self, store: Store, cache: impl FnOnce() -> Result<Cache>) -> Result<Self> {
        let (marker, bytes) = read_marker(&store).await?;
        if bytes != self.marker() {
            return Err(another(&store).with("id", marker.repository));
        }
        let Some(newest) = newest_config(&store).await? else {
            return Err(Error::new(
                ErrorKind::NoRepository,
                "the replica is unfinished: what began it was interrupted",
            )
            .with("store", &store)
            .hint("copy with --init again, which finishes it"));
        };
        let keys = (self.shared_keyring(), self.slot());
        Self::assemble(store, bytes, keys, newest, cache).await
    }

    /// Begins a replica of this repository in an empty store, or finishes one that was begun. In a directory space is reserved as
    /// `init` does, if `reserves`. Gives the key slots too that it lacks because the disk does not give them here.
    ///
    /// # Errors
    /// `Differs` if another repository is there or being made, what the first key slot says if none can be read that is known to open, or what
    /// the stores say.
    pub async fn make_replica(
        &self,
        store: Store,
        context: &Context,
        reserves: bool,
        cache: impl FnOnce() -> Result<Cache>,
    ) -> Result<(Self, LeftOut)> {
        let mut objects = vec![(ObjectName::Marker, self.marker())];
        let (keys, not_given) = self.keys_to_copy().await?;
        objects.extend(keys);
        let mut left_out = LeftOut::new();
        for (name, why) in not_given {
            // What began the replica may have been given it.
            match store.head(&name).await {
                Err(error) if error.kind() == ErrorKind::NotFound => left_out.push((name, why)),
                found => {
                    found?;
                }
            }
        }
        let mut configs = list(self.store(), Prefix::Config).await?;
        configs.sort_unstable();
        for name in configs {
            objects.push((name, self.store().get(&name).await?));
        }
        for (name, bytes) in objects {
            context.check_cancelled()?;
            // Before the configuration, which makes it a repository.
            if name == ObjectName::Config(0) && reserves {
                reserve(&store, context).await?;
            }
            if store.put_new(&name, bytes).await? == Put::Conflict {
                return Err(another(&store).with("object", name));
            }
        }
        Ok((self.open_replica(store, cache).await?, left_out))
    }

    /// The key slots as they are, and those that the disk does not give. A replica that nobody may be able to open is none.
    async fn keys_to_copy(&self) -> Result<(Vec<(ObjectName, Bytes)>, LeftOut)> {
        let mut names = list(self.store(), Prefix::Keys).await?;
        names.sort_unstable();
        let (mut keys, mut left_out, mut opens) = (Vec::new(), LeftOut::new(), false);
        for name in names {
            match self.store().get(&name).await {
                Ok(bytes) => {
                    opens |= matches!(name, ObjectName::Key(slot) if self.read_slot(slot, &bytes).is_ok());
                    keys.push((name, bytes));
                }
                // A key that was removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => left_out.push((name, of_the_disk(self.store(), error).await?)),
            }
        }
        match left_out.first() {
            Some((_, why)) if !opens => Err(why.clone()),
            _ => Ok((keys, left_out)),
        }
    }
}

fn another(store: &Store) -> Error {
    Error::new(ErrorKind::Differs, "another repository is there")
        .with("store", store)
        .hint("a replica needs an empty place; a repository with keys of its own is opened with those (--to-key-file, --to-password-file)")
}
