//! Making a repository.

use crate::chunk::ChunkParams;
use crate::context::Context;
use crate::crypto::{SlotInfo, Unlock};
use crate::error::{Error, ErrorKind, Result};
use crate::format::repo_config::ChunkProfile;
use crate::ops::key::{self, NewKey};
use crate::repository::{Cache, InitOptions, Repository};
use crate::store::Store;
use std::sync::Arc;
use zeroize::Zeroizing;

/// How a repository is made.
pub struct InitRequest {
    /// The first secret.
    pub unlock: Unlock,
    /// What its slot is called.
    pub label: String,
    /// The host's name.
    pub host: String,
    /// Whether sizes are rounded by Padmé.
    pub padme: bool,
    /// Average sizes of chunks in bytes, by connector; `default` is for those that are not named. The smallest chunk is a quarter of the
    /// average, the largest four times it.
    pub chunk_sizes: Vec<(String, usize)>,
    /// Complete snapshots of each source that no collector removes.
    pub retain_last: u32,
    /// Seconds since first sight before which no collector removes a snapshot.
    pub retain_age: u64,
    /// Whether space is reserved in the store: for directories.
    pub reserve: bool,
    /// Whether a recovery phrase is made.
    pub phrase: bool,
}

/// What was made.
pub struct InitReport {
    /// The repository, open.
    pub repository: Repository,
    /// Whether an earlier `init` that did not end was finished.
    pub finished_earlier: bool,
    /// The recovery phrase, to be shown once.
    pub phrase: Option<Zeroizing<String>>,
}

/// Makes a repository, and a recovery phrase for it.
///
/// # Errors
/// `Invalid` for sizes that the format does not have; as [`Repository::init`] and [`Repository::add_key`].
pub async fn init(
    context: &Context,
    store: Store,
    cache: Arc<Cache>,
    request: InitRequest,
) -> Result<InitReport> {
    let label = SlotInfo {
        label: request.label,
        host: request.host.clone(),
        created: context.clock.now().seconds,
    };
    let options = InitOptions {
        unlock: request.unlock,
        label,
        padme: request.padme,
        profiles: profiles(request.chunk_sizes)?,
        retain_last: request.retain_last,
        retain_age: request.retain_age,
        reserve: request.reserve,
    };
    let made = Repository::init(store, context, options, cache).await?;
    let repository = made.repository;
    let phrase = if request.phrase {
        let added = key::add_key(
            context,
            &repository,
            NewKey::Phrase,
            "recovery phrase",
            &request.host,
        );
        let added = added.await.map_err(|error| {
            error.hint("the repository is made and usable; make the phrase with `holdall key add --new-recovery-phrase`")
        })?;
        added.phrase
    } else {
        None
    };
    Ok(InitReport {
        repository,
        finished_earlier: made.finished_earlier,
        phrase,
    })
}

fn profiles(sizes: Vec<(String, usize)>) -> Result<Vec<ChunkProfile>> {
    let mut profiles: Vec<ChunkProfile> = Vec::with_capacity(sizes.len());
    for (name, avg) in sizes {
        let invalid = |what: &str| Error::new(ErrorKind::Invalid, what).with("profile", &name);
        let params = ChunkParams::new(avg / 4, avg, avg.saturating_mul(4)).map_err(|_| {
            invalid("not a size for chunks")
                .hint("the average is a power of two from 256 B to 4 MiB, such as 64K or 1M")
        })?;
        if profiles.iter().any(|profile| profile.name == name) {
            return Err(invalid("two sizes of chunks for one connector"));
        }
        profiles.push(ChunkProfile { name, params });
    }
    Ok(profiles)
}
