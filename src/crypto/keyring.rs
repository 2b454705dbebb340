//! The keys of a repository: one root, from which ids, cut points and borders follow, and epochs, which seal objects.

use super::secret::Secret;
use crate::context::Random;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Decoder, Encoder};
use crate::format::error::DecodeError;
use crate::format::id::{BlobId, RepositoryId};
use crate::format::index::BlobKind;
use crate::format::limits;
use zeroize::Zeroizing;

const BLOB_ID: &str = "holdall 2026-11 format 1 blob id";
const GEAR: &str = "holdall 2026-11 format 1 gear table";
const BORDER: &str = "holdall 2026-11 format 1 tree border";
const REBASE: &str = "holdall 2026-11 format 1 delta rebase";

/// One key epoch.
pub struct Epoch {
    /// Its number; the highest seals new objects.
    pub number: u32,
    /// Its key.
    pub secret: Secret,
}

/// Everything that opens and names the contents of one repository.
pub struct Keyring {
    repository: RepositoryId,
    root: Secret,
    epochs: Vec<Epoch>,
    blob_id: Secret,
}

impl Keyring {
    /// A new keyring of `repository` with one epoch.
    ///
    /// # Errors
    /// `Internal` without randomness.
    pub fn generate(random: &dyn Random, repository: RepositoryId) -> Result<Self> {
        let epoch = Epoch {
            number: 1,
            secret: Secret::new(random.bytes()?),
        };
        Ok(Self::assemble(
            repository,
            Secret::new(random.bytes()?),
            vec![epoch],
        ))
    }

    fn assemble(repository: RepositoryId, root: Secret, epochs: Vec<Epoch>) -> Self {
        let blob_id = Secret::new(blake3::derive_key(BLOB_ID, root.expose()));
        Self {
            repository,
            root,
            epochs,
            blob_id,
        }
    }

    /// The repository that it belongs to.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The epoch that seals new objects.
    ///
    /// # Errors
    /// `Damaged` for a keyring without epochs, which does not decode.
    pub fn newest(&self) -> Result<&Epoch> {
        self.epochs
            .last()
            .ok_or_else(|| Error::new(ErrorKind::Damaged, "keyring without epochs"))
    }

    /// The epoch `number`.
    ///
    /// # Errors
    /// `WrongKey` if the keyring does not hold it.
    pub fn epoch(&self, number: u32) -> Result<&Epoch, DecodeError> {
        self.epochs
            .iter()
            .find(|e| e.number == number)
            .ok_or(DecodeError::WrongKey)
    }

    /// The id of a blob.
    pub fn blob_id(&self, kind: BlobKind, plaintext: &[u8]) -> BlobId {
        let mut hasher = blake3::Hasher::new_keyed(self.blob_id.expose());
        hasher.update(&[kind as u8]).update(plaintext);
        BlobId(*hasher.finalize().as_bytes())
    }

    /// Compares plaintext with the id that it must have.
    ///
    /// # Errors
    /// `WrongId`.
    pub fn verify_blob(&self, kind: BlobKind, id: &BlobId, plaintext: &[u8]) -> Result<(), DecodeError> {
        if self.blob_id(kind, plaintext) == *id {
            Ok(())
        } else {
            Err(DecodeError::WrongId)
        }
    }

    /// The key of the chunker's gear table.
    pub fn gear_key(&self) -> Secret {
        Secret::new(blake3::derive_key(GEAR, self.root.expose()))
    }

    /// The key of the tree's borders.
    pub fn border_key(&self) -> Secret {
        Secret::new(blake3::derive_key(BORDER, self.root.expose()))
    }

    /// The key that spreads the rebasing of deltas.
    pub fn rebase_key(&self) -> Secret {
        Secret::new(blake3::derive_key(REBASE, self.root.expose()))
    }

    /// The record that key slots wrap: 0 repository, 1 root, 2 epochs as [number, key], ascending.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Large enough that it never grows: a buffer that is left behind is not wiped.
        let mut out = Encoder::with_capacity(128 + self.epochs.len() * 64);
        out.map(3)
            .uint(0)
            .bytes(&self.repository.0)
            .uint(1)
            .bytes(self.root.expose());
        out.uint(2).array(self.epochs.len());
        for epoch in &self.epochs {
            out.array(2)
                .uint(u64::from(epoch.number))
                .bytes(epoch.secret.expose());
        }
        Zeroizing::new(out.finish())
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let mut fields = decoder.map(4)?;
        let (mut repository, mut root, mut epochs) = (None, None, Vec::new());
        while let Some(field) = fields.next(&mut decoder)? {
            match field {
                0 => repository = Some(RepositoryId(decoder.fixed()?)),
                1 => root = Some(Secret::new(decoder.fixed()?)),
                2 => {
                    for _ in 0..decoder.array(limits::EPOCHS_MAX)? {
                        decoder.array_of(2)?;
                        epochs.push(Epoch {
                            number: decoder.uint32()?,
                            secret: Secret::new(decoder.fixed()?),
                        });
                    }
                }
                _ => return Err(DecodeError::UnknownVersion("unknown field of a keyring")),
            }
        }
        decoder.finish()?;
        // Number 0 is what the headers of key slots have.
        let numbered = epochs.first().is_some_and(|e| e.number > 0);
        if !numbered || !epochs.is_sorted_by(|a, b| a.number < b.number) {
            return Err(DecodeError::Invalid("epochs of a keyring"));
        }
        match (repository, root) {
            (Some(repository), Some(root)) => Ok(Self::assemble(repository, root, epochs)),
            _ => Err(DecodeError::Invalid("keyring without its keys")),
        }
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({}, {} epochs)", self.repository, self.epochs.len())
    }
}
