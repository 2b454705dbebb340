//! Argon2id for passwords, with a floor and ceilings that are checked before any work.

use super::secret::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::format::error::DecodeError;

/// Parameters of Argon2id (RFC 9106), as a password slot stores them: 44 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random salt.
    pub salt: [u8; 32],
}

impl KdfParams {
    /// What new slots use: 256 MiB, 3 passes, 4 lanes.
    pub fn recommended(salt: [u8; 32]) -> Self {
        Self {
            memory_kib: 256 << 10,
            passes: 3,
            lanes: 4,
            salt,
        }
    }

    /// Bytes of the encoding.
    pub const ENCODED: usize = 44;

    /// Memory, passes and lanes as 4 bytes little-endian each, then the salt.
    pub fn encode(&self) -> [u8; Self::ENCODED] {
        let mut out = [0; Self::ENCODED];
        let fields = [self.memory_kib, self.passes, self.lanes]
            .into_iter()
            .flat_map(u32::to_le_bytes);
        for (to, from) in out.iter_mut().zip(fields.chain(self.salt)) {
            *to = from;
        }
        out
    }

    /// Reads the encoding and checks the bounds of format 1: 64 MiB ≤ memory ≤ 4 GiB, 3 ≤ passes ≤ 64, 1 ≤ lanes ≤ 16,
    /// memory × passes ≤ 16 GiB.
    ///
    /// # Errors
    /// `Invalid` below the floor, `OverLimit` above a ceiling: a hostile slot must not buy hours of work.
    pub fn decode(bytes: &[u8; Self::ENCODED]) -> Result<Self, DecodeError> {
        let mut rest = bytes.as_slice();
        let params = Self {
            memory_kib: crate::format::header::u32_le(&mut rest)?,
            passes: crate::format::header::u32_le(&mut rest)?,
            lanes: crate::format::header::u32_le(&mut rest)?,
            salt: crate::format::header::array(&mut rest)?,
        };
        params.check()?;
        Ok(params)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.memory_kib < 64 << 10 || self.passes < 3 || self.lanes < 1 {
            return Err(DecodeError::Invalid("password slot below the floor of its cost"));
        }
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        if self.memory_kib > 4 << 20 || self.passes > 64 || self.lanes > 16 || work > 16 << 20 {
            return Err(DecodeError::OverLimit("cost of a password slot"));
        }
        Ok(())
    }
}

/// Stretches a password into a secret. Takes about a second and `memory_kib` of memory, which is returned before it ends.
///
/// # Errors
/// `Invalid` for an empty password, `Damaged` for parameters out of bounds.
pub fn stretch(password: &[u8], params: &KdfParams) -> Result<Secret> {
    params.check()?;
    if password.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the password is empty"));
    }
    let failed =
        |e: argon2::Error| Error::new(ErrorKind::Internal, format!("cannot stretch the password: {e}"));
    let cost =
        argon2::Params::new(params.memory_kib, params.passes, params.lanes, Some(32)).map_err(failed)?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cost);
    let mut out = [0; 32];
    argon
        .hash_password_into(password, &params.salt, &mut out)
        .map_err(failed)?;
    Ok(Secret::new(out))
}
