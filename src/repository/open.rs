//! Making and opening a repository.

use super::view::of_the_disk;
use super::{Cache, Inner, Numbered, Repository};
use crate::context::Context;
use crate::crypto::{
    Keyring, SlotInfo, SlotKind, Unlock, open_record, open_slot, read_slot_kind, seal_record, seal_slot,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::append_trailer;
use crate::format::id::RepositoryId;
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits;
use crate::format::repo_config::{ChunkProfile, ConfigRecord, Features, Marker};
use crate::store::{Listed, Put, Store};
use bytes::Bytes;
use futures::TryStreamExt;
use std::sync::{Arc, OnceLock};

/// Bytes of one reserve object.
const RESERVE_LEN: usize = 16 << 20;

/// How a repository is made.
pub struct InitOptions {
    /// The secret of slot 0.
    pub unlock: Unlock,
    /// What slot 0 is called.
    pub label: SlotInfo,
    /// Whether sizes are rounded by Padmé.
    pub padme: bool,
    /// Chunk sizes; `default` is added if it is not among them.
    pub profiles: Vec<ChunkProfile>,
    /// Complete snapshots of each source that no collector removes.
    pub retain_last: u32,
    /// Seconds since first sight before which no collector removes a snapshot.
    pub retain_age: u64,
    /// Whether space is reserved that can be given back when the disk is full: for local stores.
    pub reserve: bool,
}

/// A repository that `init` made.
pub struct Initialized {
    /// It, open.
    pub repository: Repository,
    /// Whether an earlier `init` that did not end was finished.
    pub finished_earlier: bool,
}

impl Repository {
    /// Makes a repository: `holdall.json`, `keys/0`, `config/0`, in this order. One that an earlier run left unfinished is finished
    /// with the same secret.
    ///
    /// # Errors
    /// `Exists` if there is a finished one, `WrongKey` if an unfinished one was begun with another secret, or what the store says.
    pub async fn init(
        store: Store,
        context: &Context,
        options: InitOptions,
        cache: Arc<Cache>,
    ) -> Result<Initialized> {
        let (marker, bytes, found) = init_marker(&store, context).await?;
        if !list(&store, Prefix::Config).await?.is_empty() {
            return Err(Error::new(ErrorKind::Exists, "there is a repository already").with("store", &store));
        }
        let keyring = Arc::new(init_keyring(&store, context, marker.repository, &options).await?);
        if options.reserve {
            reserve(&store, context).await?;
        }
        let config = ConfigRecord {
            repository: marker.repository,
            generation: 0,
            marker_hash: *blake3::hash(&bytes).as_bytes(),
            created: context.clock.now(),
            padme: options.padme,
            profiles: with_default(options.profiles),
            retain_last: options.retain_last,
            retain_age: options.retain_age,
            features: marker.features,
        };
        let (name, sealed) = seal_record(&keyring, context.random.as_ref(), &config)?;
        if store.put_new(&name, sealed.bytes).await? == Put::Conflict {
            return Err(Error::new(
                ErrorKind::Exists,
                "another process made this repository meanwhile",
            )
            .with("store", &store));
        }
        let inner = Inner {
            store,
            marker: bytes,
            keyring,
            config,
            cache,
            numbered: Numbered::default(),
            bases: OnceLock::new(),
            slot: 0,
        };
        Ok(Initialized {
            repository: Self {
                inner: Arc::new(inner),
            },
            finished_earlier: found,
        })
    }

    /// Opens a repository with a secret.
    ///
    /// # Errors
    /// `NoRepository`, `WrongKey`, `Damaged`, `Unsupported` for a newer format, or what the store says.
    pub async fn open(
        store: Store,
        unlock: &Unlock,
        cache: impl FnOnce(RepositoryId) -> Result<Cache>,
    ) -> Result<Self> {
        let (marker, bytes) = read_marker(&store).await?;
        let newest = newest_config(&store).await?.ok_or_else(|| unfinished(&store))?;
        let (keyring, slot) = unlock_any(&store, marker.repository, unlock).await?;
        let keys = (Arc::new(keyring), slot);
        Self::assemble(store, bytes, keys, newest, || cache(marker.repository)).await
    }

    /// Opens what has this marker with a keyring in hand.
    pub(super) async fn assemble(
        store: Store,
        marker: Bytes,
        (keyring, slot): (Arc<Keyring>, u32),
        newest_config: u32,
        cache: impl FnOnce() -> Result<Cache>,
    ) -> Result<Self> {
        let name = ObjectName::Config(newest_config);
        let bytes = store.get(&name).await?;
        let config: ConfigRecord =
            open_record(&keyring, &name, &bytes).map_err(|e| Error::from(e).with("object", name))?;
        if config.check_marker(&marker).is_err() {
            return Err(
                Error::new(ErrorKind::Damaged, "the configuration does not belong here").with("object", name),
            );
        }
        let cache = Arc::new(cache()?);
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                marker,
                keyring,
                config,
                cache,
                numbered: Numbered::default(),
                bases: OnceLock::new(),
                slot,
            }),
        })
    }
}

pub(super) fn no_repository(store: &Store) -> Error {
    Error::new(ErrorKind::NoRepository, "there is no repository here")
        .with("store", store)
        .hint("check the address, or make one with `holdall init`")
}

fn unfinished(store: &Store) -> Error {
    Error::new(
        ErrorKind::NoRepository,
        "the repository is unfinished: `init` was interrupted",
    )
    .with("store", store)
    .hint("run `holdall init` again with the same password or key")
}

/// `holdall.json`.
pub(super) async fn read_marker(store: &Store) -> Result<(Marker, Bytes)> {
    let bytes = store.get(&ObjectName::Marker).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound => no_repository(store),
        _ => e,
    })?;
    let marker = Marker::decode(&bytes).map_err(|e| Error::from(e).with("object", ObjectName::Marker))?;
    Ok((marker, bytes))
}

/// The newest generation of the configuration; none in a repository that is unfinished.
pub(super) async fn newest_config(store: &Store) -> Result<Option<u32>> {
    let generations = list(store, Prefix::Config).await?;
    let generation = |name: &ObjectName| {
        if let ObjectName::Config(n) = name {
            Some(*n)
        } else {
            None
        }
    };
    Ok(generations.iter().filter_map(generation).max())
}

async fn init_marker(store: &Store, context: &Context) -> Result<(Marker, Bytes, bool)> {
    for _ in 0..3 {
        match store.get(&ObjectName::Marker).await {
            Ok(bytes) => {
                let marker =
                    Marker::decode(&bytes).map_err(|e| Error::from(e).with("object", ObjectName::Marker))?;
                return Ok((marker, bytes, true));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let marker = Marker {
            repository: RepositoryId(context.random.bytes()?),
            features: Features::default(),
        };
        let bytes = Bytes::from(marker.encode());
        if store.put_new(&ObjectName::Marker, bytes.clone()).await?.is_mine() {
            return Ok((marker, bytes, false));
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "others make a repository here at the same time",
    )
    .with("store", store))
}

async fn init_keyring(
    store: &Store,
    context: &Context,
    id: RepositoryId,
    options: &InitOptions,
) -> Result<Keyring> {
    let name = ObjectName::Key(0);
    let existing = match store.get(&name).await {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let existing = if let Some(bytes) = existing {
        bytes
    } else {
        let keyring = Keyring::generate(context.random.as_ref(), id)?;
        let sealed = seal_slot(
            &keyring,
            context.random.as_ref(),
            0,
            &options.unlock,
            &options.label,
        )?;
        if store.put_new(&name, sealed.bytes).await?.is_mine() {
            return Ok(keyring);
        }
        store.get(&name).await?
    };
    open_slot(id, 0, &existing, &options.unlock).map_err(|error| match error.kind() {
        ErrorKind::WrongKey => Error::new(
            ErrorKind::WrongKey,
            "an unfinished repository is here, begun with another password or key",
        )
        .hint("run `holdall init` with the first secret, or choose an empty place"),
        _ => error.with("object", name),
    })
}

/// Tries the secret on every slot of its kind, in order of their numbers.
async fn unlock_any(store: &Store, id: RepositoryId, unlock: &Unlock) -> Result<(Keyring, u32)> {
    let mut slots: Vec<u32> = list(store, Prefix::Keys)
        .await?
        .into_iter()
        .filter_map(|name| {
            if let ObjectName::Key(slot) = name {
                Some(slot)
            } else {
                None
            }
        })
        .collect();
    slots.sort_unstable();
    let (mut damaged, mut tried) = (None, 0);
    for slot in &slots {
        let name = ObjectName::Key(*slot);
        let bytes = match store.get(&name).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // Another slot may open the same keys.
            Err(error) => {
                damaged = Some(of_the_disk(store, error).await?);
                continue;
            }
        };
        match read_slot_kind(&bytes) {
            Ok(kind) if kind == unlock.kind() => {}
            Ok(_) => continue,
            Err(error) => {
                damaged = Some(Error::from(error).with("object", name));
                continue;
            }
        }
        // Each try costs a second and 256 MiB: hostile slots must not buy more of them.
        tried += 1;
        if unlock.kind() == SlotKind::Password && tried > limits::PASSWORD_SLOTS_MAX {
            break;
        }
        match open_slot(id, *slot, &bytes, unlock) {
            Ok(keyring) => return Ok((keyring, *slot)),
            Err(error) if error.kind() == ErrorKind::WrongKey => {}
            Err(error) => damaged = Some(error.with("object", name)),
        }
    }
    Err(damaged.unwrap_or_else(|| {
        let what = match unlock.kind() {
            SlotKind::Password => "wrong password",
            SlotKind::KeyFile => "wrong key file",
            SlotKind::Phrase => "wrong recovery phrase",
        };
        Error::new(
            ErrorKind::WrongKey,
            format!("{what}: it opens none of {} key slots", slots.len()),
        )
        .with("store", store)
        .hint("another password, a key file (--key-file) or the recovery phrase may open it")
    }))
}

pub(super) async fn reserve(store: &Store, context: &Context) -> Result<()> {
    for number in 0..4 {
        let mut bytes = vec![0; RESERVE_LEN - 32];
        let seed: [u8; 32] = context.random.bytes()?;
        blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut bytes);
        append_trailer(&mut bytes);
        // An earlier init may have put other random bytes there: they take the same space.
        let _ = store.put_new(&ObjectName::Reserve(number), bytes.into()).await?;
    }
    Ok(())
}

fn with_default(mut profiles: Vec<ChunkProfile>) -> Vec<ChunkProfile> {
    if !profiles.iter().any(|profile| profile.name == "default") {
        profiles.push(ChunkProfile {
            name: "default".into(),
            params: crate::chunk::ChunkParams::default(),
        });
    }
    profiles.sort_by(|a, b| a.name.cmp(&b.name));
    profiles
}

pub(super) async fn list(store: &Store, prefix: Prefix) -> Result<Vec<ObjectName>> {
    let named = |listed| async move {
        Ok(if let Listed::Object(info) = listed {
            Some(info.name)
        } else {
            None
        })
    };
    store.list(prefix).try_filter_map(named).try_collect().await
}
