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

/// What a program must know to touch a repository: a set bit is something that format 1 does not have. A program that meets a bit
/// it does not know must not do what the field is named for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Needed to read anything.
    pub read: u32,
    /// Needed to write anything.
    pub write: u32,
    /// Needed to delete anything: to prune.
    pub delete: u32,
}

impl Features {
    /// Fails if this program lacks what it takes to read; no bit is known yet.
    fn check_read(self) -> Result<Self, DecodeError> {
        if self.read == 0 {
            Ok(self)
        } else {
            Err(DecodeError::UnknownVersion("a feature that is needed to read"))
        }
    }

    /// Whether this program may write.
    pub fn may_write(self) -> bool {
        self.write == 0
    }

    /// Whether this program may delete.
    pub fn may_delete(self) -> bool {
        self.write == 0 && self.delete == 0
    }

    /// Whether each bit of `other` is set here too.
    pub fn contains(self, other: Self) -> bool {
        other.read & !self.read == 0 && other.write & !self.write == 0 && other.delete & !self.delete == 0
    }
}

/// `holdall.json`: what can be said of a repository without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The repository.
    pub repository: RepositoryId,
    /// What it took to use it when it was made; the configuration may add to it.
    pub features: Features,
}

impl Marker {
    /// The file: one JSON object, its members in this order, one to a line.
    pub fn encode(&self) -> Vec<u8> {
        let id = self.repository;
        let Features { read, write, delete } = self.features;
        let body = format!(
            "{{\n  \"magic\": \"holdall\",\n  \"format\": 1,\n  \"repository\": \"{id}\",\n  \
             \"features\": {{\"read\": {read}, \"write\": {write}, \"delete\": {delete}}},\n  \
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
        // The hash comes first: damage must not look like a newer format. All formats keep this rule.
        let (body, _) = text
            .split_once("  \"blake3\"")
            .ok_or(DecodeError::Header("holdall.json lacks its hash"))?;
        if member("blake3") != Some(hex(blake3::hash(body.as_bytes()).as_bytes()).as_str()) {
            return Err(DecodeError::BadHash);
        }
        if json.get("format").and_then(serde_json::Value::as_u64) != Some(1) {
            return Err(DecodeError::UnknownVersion("format of the repository"));
        }
        let feature = |name: &str| {
            json.pointer(&format!("/features/{name}"))
                .and_then(serde_json::Value::as_u64)
                .and_then(|bits| u32::try_from(bits).ok())
                .ok_or(DecodeError::Header("features"))
        };
        let features = Features {
            read: feature("read")?,
            write: feature("write")?,
            delete: feature("delete")?,
        };
        let marker = Self {
            repository: RepositoryId::parse(
                member("repository").ok_or(DecodeError::Header("repository id"))?,
            )?,
            features: features.check_read()?,
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
    /// What it takes to use the repository: at least the marker's.
    pub features: Features,
}

impl ConfigRecord {
    /// Fields: 0 repository, 1 generation, 2 marker hash, 3 created, 4 padme, 5 profiles as [name, min, avg, max], 6 retain-last,
    /// 7 retain-age, 8 features as [read, write, delete].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.map(9)
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
        let Features { read, write, delete } = self.features;
        out.uint(8).array(3);
        for bits in [read, write, delete] {
            out.uint(u64::from(bits));
        }
        out.finish()
    }

    /// Checks that this is the configuration of the repository whose `holdall.json` is `marker`, unchanged since.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]; `Invalid` if they do not belong together.
    pub fn check_marker(&self, marker: &[u8]) -> Result<Marker, DecodeError> {
        let read = Marker::decode(marker)?;
        let same = *blake3::hash(marker).as_bytes() == self.marker_hash && read.repository == self.repository;
        if same && self.features.contains(read.features) {
            Ok(read)
        } else {
            Err(DecodeError::Invalid(
                "holdall.json is not the one that the configuration names",
            ))
        }
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut repository, mut generation, mut marker_hash, mut created) = (None, None, None, None);
        let (mut padme, mut profiles, mut retain_last, mut retain_age) = (None, None, None, None);
        let mut features = None;
        read_map(bytes, |field, d| {
            match field {
                0 => repository = Some(RepositoryId(d.fixed()?)),
                1 => generation = Some(d.uint32()?),
                2 => marker_hash = Some(d.fixed()?),
                3 => created = Some(time(d)?),
                4 => padme = Some(d.bool()?),
                5 => {
                    let len = d.array(limits::PROFILES_MAX)?;
                    profiles = Some((0..len).map(|_| profile(d)).collect::<Result<Vec<_>, _>>()?);
                }
                6 => retain_last = Some(d.uint32()?),
                7 => retain_age = Some(d.uint()?),
                8 => {
                    d.array_of(3)?;
                    let (read, write, delete) = (d.uint32()?, d.uint32()?, d.uint32()?);
                    features = Some(Features { read, write, delete }.check_read()?);
                }
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        let profiles = must(profiles)?;
        if !profiles.is_sorted_by(|a, b| a.name < b.name) {
            return Err(DecodeError::NotCanonical("rows do not ascend"));
        }
        if !profiles.iter().any(|p| p.name == "default") {
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
            features: must(features)?,
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
