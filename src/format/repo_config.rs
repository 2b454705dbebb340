//! The plain marker `holdall.json` and the sealed configuration (`format-spec/12-config.md`).

use super::cbor::{Decoder, Encoder};
use super::error::DecodeError;
use super::id::{RepositoryId, hex};
use super::limits;
use super::records::{UNKNOWN_FIELD, must, put_time, read_map, time};
use crate::chunk::ChunkParams;
use crate::context::Time;

/// The sentence for whoever finds the folder.
pub const ABOUT: &str = "This is a Holdall backup repository: encrypted, deduplicated backups. Do not change, move or delete \
     anything in it by hand. Read it with the program `holdall` and one of its keys.";

/// The largest marker in bytes.
const MARKER_MAX: usize = 4096;

/// `holdall.json`: what can be said of a repository without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The repository.
    pub repository: RepositoryId,
}

impl Marker {
    /// The file: one JSON object, its members in this order, one to a line.
    pub fn encode(&self) -> Vec<u8> {
        let id = self.repository;
        let body = format!(
            "{{\n  \"magic\": \"holdall\",\n  \"format\": 1,\n  \"repository\": \"{id}\",\n  \"features\": {{\"read\": 0, \"write\": 0, \"delete\": 0}},\n  \
             \"about\": \"{ABOUT}\",\n"
        );
        let hash = hex(blake3::hash(body.as_bytes()).as_bytes());
        format!("{body}  \"blake3\": \"{hash}\"\n}}\n").into_bytes()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `Header` if it is not a marker, `UnknownVersion` for another format or an unknown feature, `BadHash` if it was changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MARKER_MAX {
            return Err(DecodeError::OverLimit("holdall.json"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Header("holdall.json is not text"))?;
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|_| DecodeError::Header("holdall.json is not JSON"))?;
        let member = |name: &str| json.get(name).and_then(serde_json::Value::as_str);
        if member("magic") != Some("holdall") {
            return Err(DecodeError::Header("holdall.json is not a marker"));
        }
        if json.get("format").and_then(serde_json::Value::as_u64) != Some(1) {
            return Err(DecodeError::UnknownVersion("format of the repository"));
        }
        let feature = |name: &str| {
            json.pointer(&format!("/features/{name}"))
                .and_then(serde_json::Value::as_u64)
        };
        if ["read", "write", "delete"]
            .into_iter()
            .any(|name| feature(name) != Some(0))
        {
            return Err(DecodeError::UnknownVersion("a feature of the repository"));
        }
        let (body, _) = text
            .split_once("  \"blake3\"")
            .ok_or(DecodeError::Header("holdall.json lacks its hash"))?;
        if member("blake3") != Some(hex(blake3::hash(body.as_bytes()).as_bytes()).as_str()) {
            return Err(DecodeError::BadHash);
        }
        let marker = Self {
            repository: RepositoryId::parse(
                member("repository").ok_or(DecodeError::Header("repository id"))?,
            )?,
        };
        if marker.encode() == bytes {
            Ok(marker)
        } else {
            Err(DecodeError::NotCanonical("holdall.json"))
        }
    }
}

/// Chunk sizes of one kind of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkProfile {
    /// The connector that it is for; `default` for all others.
    pub name: String,
    /// The sizes.
    pub params: ChunkParams,
}

/// `config/<generation>`, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRecord {
    /// The repository.
    pub repository: RepositoryId,
    /// Its number; the highest counts.
    pub generation: u32,
    /// BLAKE3 of `holdall.json`.
    pub marker_hash: [u8; 32],
    /// When it was put.
    pub created: Time,
    /// Whether sizes are rounded by Padmé.
    pub padme: bool,
    /// Chunk sizes, `default` among them; ascending by name.
    pub profiles: Vec<ChunkProfile>,
    /// Complete snapshots of each source that no collector removes.
    pub retain_last: u32,
    /// Seconds since first sight before which no collector removes a snapshot.
    pub retain_age: u64,
}

impl ConfigRecord {
    /// Fields: 0 repository, 1 generation, 2 marker hash, 3 created, 4 padme, 5 profiles as [name, min, avg, max], 6 retain-last,
    /// 7 retain-age.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.map(8)
            .uint(0)
            .bytes(&self.repository.0)
            .uint(1)
            .uint(u64::from(self.generation));
        out.uint(2).bytes(&self.marker_hash).uint(3);
        put_time(&mut out, self.created);
        out.uint(4).bool(self.padme).uint(5).array(self.profiles.len());
        for ChunkProfile { name, params } in &self.profiles {
            out.array(4)
                .text(name)
                .uint(params.min() as u64)
                .uint(params.avg() as u64)
                .uint(params.max() as u64);
        }
        out.uint(6)
            .uint(u64::from(self.retain_last))
            .uint(7)
            .uint(self.retain_age);
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut repository, mut generation, mut marker_hash, mut created) = (None, None, None, None);
        let (mut padme, mut profiles, mut retain_last, mut retain_age) = (None, None, None, None);
        read_map(bytes, 8, |field, d| {
            match field {
                0 => repository = Some(RepositoryId(d.fixed()?)),
                1 => generation = Some(d.uint32()?),
                2 => marker_hash = Some(d.fixed()?),
                3 => created = Some(time(d)?),
                4 => padme = Some(d.bool()?),
                5 => {
                    let len = d.array(64)?;
                    profiles = Some((0..len).map(|_| profile(d)).collect::<Result<Vec<_>, _>>()?);
                }
                6 => retain_last = Some(d.uint32()?),
                7 => retain_age = Some(d.uint()?),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        let profiles = must(profiles)?;
        if !profiles.is_sorted_by(|a, b| a.name < b.name) || !profiles.iter().any(|p| p.name == "default") {
            return Err(DecodeError::Invalid("chunk profiles"));
        }
        Ok(Self {
            repository: must(repository)?,
            generation: must(generation)?,
            marker_hash: must(marker_hash)?,
            created: must(created)?,
            padme: must(padme)?,
            profiles,
            retain_last: must(retain_last)?,
            retain_age: must(retain_age)?,
        })
    }
}

fn profile(d: &mut Decoder<'_>) -> Result<ChunkProfile, DecodeError> {
    d.array_of(4)?;
    let name = d.text(limits::NAME_MAX)?.to_owned();
    let size = |d: &mut Decoder<'_>| d.uint32().map(|n| n as usize);
    Ok(ChunkProfile {
        name,
        params: ChunkParams::new(size(d)?, size(d)?, size(d)?)?,
    })
}
