//! The end of a pack: directory, padding, trailer and hash (`format-spec/40-pack.md`).

use super::keyring::Keyring;
use super::object::{Opener, Sealed, Sealer, TRAILER_RECORD};
use crate::error::{Error, ErrorKind, Result};
use crate::format::error::DecodeError;
use crate::format::header::{ObjectType, TRAILER_LEN, check_trailer};
use crate::format::id::ObjectId;
use crate::format::index::Tables;
use crate::format::pack::{PACK_TAIL_LEN, PackTrailer, padding};

impl Sealer {
    /// Ends a pack whose blocks are sealed: appends the directory, padding up to a Padmé size if that is wanted, the trailer, and
    /// the hash.
    ///
    /// # Errors
    /// `Internal` for a directory that could not be read again, or over the limits.
    pub fn finish_pack(mut self, directory: &Tables, use_padme: bool) -> Result<Sealed> {
        let plain = directory.encode();
        let refused = |e: DecodeError| {
            Error::new(ErrorKind::Internal, "this pack cannot be stored").because(e.to_string())
        };
        Tables::decode(&plain, true).map_err(refused)?;
        let (blocks, offset, sealed) = self.record(&plain, false)?;
        if blocks as usize != directory.blocks.len() {
            return Err(refused(DecodeError::Invalid("directory of another pack")));
        }
        self.pad(padding(self.len(), use_padme));
        let trailer = PackTrailer {
            offset,
            sealed,
            blocks,
        };
        self.trailer(&trailer.encode())?;
        self.finish()
    }
}

impl Opener {
    /// Reads the directory of a whole pack, its hash included.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn directory(&self, pack: &[u8]) -> Result<Tables, DecodeError> {
        let tail = pack
            .len()
            .checked_sub(PACK_TAIL_LEN)
            .ok_or(DecodeError::Truncated)?;
        let trailer = self.trailer(pack.get(tail..).ok_or(DecodeError::Truncated)?)?;
        let range = trailer.directory(pack.len())?;
        self.directory_of(&trailer, pack.get(range).ok_or(DecodeError::Truncated)?)
    }

    /// Reads the trailer of a pack from its last [`PACK_TAIL_LEN`] bytes.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn trailer(&self, tail: &[u8]) -> Result<PackTrailer, DecodeError> {
        let sealed = tail
            .len()
            .checked_sub(TRAILER_LEN)
            .and_then(|end| tail.get(..end));
        let sealed = sealed.ok_or(DecodeError::Truncated)?;
        PackTrailer::decode(&self.record(TRAILER_RECORD, true, sealed)?)
    }

    /// Reads the directory from its sealed record, where the trailer says that it is.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn directory_of(&self, trailer: &PackTrailer, sealed: &[u8]) -> Result<Tables, DecodeError> {
        let offset = trailer.offset as usize;
        let plain = self.record(trailer.blocks, false, sealed)?;
        let tables = Tables::decode(&plain, true)?;
        let end = tables
            .blocks
            .last()
            .map(|b| u64::from(b.offset) + u64::from(b.sealed));
        if tables.blocks.len() != trailer.blocks as usize || end != Some(offset as u64) {
            return Err(DecodeError::Invalid("directory of another pack"));
        }
        Ok(tables)
    }
}

/// Opens a whole pack that was found at `packs/…/<id>`: checks its hash and reads its directory.
///
/// # Errors
/// Any class of [`DecodeError`]; `Invalid` if its hash is another than its name.
pub fn open_pack(keyring: &Keyring, id: &ObjectId, pack: &[u8]) -> Result<(Opener, Tables), DecodeError> {
    let (_, found) = check_trailer(pack)?;
    if found != *id {
        return Err(DecodeError::Invalid("pack under another name"));
    }
    let opener = Opener::new(keyring, pack, ObjectType::Pack, "")?;
    let tables = opener.directory(pack)?;
    Ok((opener, tables))
}
