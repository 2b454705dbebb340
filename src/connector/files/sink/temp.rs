//! A file on its way: written under a temporary name in its own directory, renamed when it is whole, removed if it never is.

use crate::connector::files::key::TEMPORARY;
use crate::connector::files::stat::Stat;
use crate::snapshot::entry::Piece;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// The name under which `name` is written. It follows from `name`, so that what an interrupted restore left is found again.
pub(super) fn temporary_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    let mut out = TEMPORARY.to_vec();
    out.extend_from_slice(hash.as_bytes().get(..16).unwrap_or_default());
    out
}

/// Makes something under the temporary name, removing what an interrupted restore left there.
pub(super) fn make_temporary<T>(dir: &OwnedFd, temporary: &[u8], make: impl Fn() -> Result<T>) -> Result<T> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(dir, temporary, AtFlags::empty())?;
            make()
        }
        result => result,
    }
}

/// Whether what is under the temporary name is what was made as `made`; names can be taken away by others.
pub(super) fn is_ours(dir: &OwnedFd, temporary: &[u8], made: &Stat) -> bool {
    Stat::at(dir, temporary).is_ok_and(|now| now.kind == made.kind && now.is((made.device, made.inode)))
}

/// Renames what was made as `made` from the temporary name, or cleans up; says whether it still was there.
pub(super) fn put_in_place(dir: &OwnedFd, temporary: &[u8], name: &[u8], made: &Stat) -> Result<bool> {
    if !is_ours(dir, temporary, made) {
        return Ok(false);
    }
    let result = rustix::fs::renameat(dir, temporary, dir, name);
    if result.is_err() {
        // The rename's error is the one that matters; a leftover is found by the next restore.
        let _ = rustix::fs::unlinkat(dir, temporary, AtFlags::empty());
    }
    result.map(|()| true)
}

/// Why an entry fails whose temporary name was taken away.
pub(super) const TAKEN: &str = "what was written was replaced before it got its name";

/// A regular file that is being written.
pub(super) struct Temporary {
    dir: Arc<OwnedFd>,
    name: Box<[u8]>,
    written_as: Vec<u8>,
    fd: OwnedFd,
    len: u64,
    hasher: Option<blake3::Hasher>,
    in_place: bool,
}

impl Temporary {
    /// Creates it, readable by its owner only; `hashed` if it will be verified.
    pub(super) fn create(dir: &Arc<OwnedFd>, name: &[u8], hashed: bool) -> Result<Self> {
        let temporary = temporary_name(name);
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let fd = make_temporary(dir, &temporary, || {
            rustix::fs::openat(&**dir, temporary.as_slice(), flags, Mode::RUSR | Mode::WUSR)
        })?;
        Ok(Self {
            dir: dir.clone(),
            name: name.into(),
            written_as: temporary,
            fd,
            len: 0,
            hasher: hashed.then(blake3::Hasher::new),
            in_place: false,
        })
    }

    /// Appends a piece; a hole is left out of the file, which makes it one again.
    pub(super) fn write(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Hole(len) => {
                self.len += len;
                if let Some(hasher) = &mut self.hasher {
                    hash_zeros(hasher, *len);
                }
            }
            Piece::Data(bytes) => {
                let mut rest = bytes.as_ref();
                while !rest.is_empty() {
                    match rustix::io::pwrite(&self.fd, rest, self.len) {
                        Ok(0) => return Err(Errno::IO),
                        Ok(n) => {
                            self.len += n as u64;
                            rest = rest.get(n..).unwrap_or_default();
                        }
                        Err(Errno::INTR) => {}
                        Err(error) => return Err(error),
                    }
                }
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(bytes);
                }
            }
        }
        Ok(())
    }

    /// Gives the file its length, which a hole at its end did not.
    pub(super) fn complete(&self) -> Result<()> {
        rustix::fs::ftruncate(&self.fd, self.len)
    }

    /// Whether the file, read again, is what was written.
    pub(super) fn verify(&self) -> Result<bool> {
        match &self.hasher {
            Some(hasher) => Ok(hash_file(&self.fd)? == hasher.finalize()),
            None => Ok(true),
        }
    }

    /// Gives it its name; nothing if the temporary name is another's by now.
    pub(super) fn rename(mut self) -> Result<Option<Stat>> {
        let stat = Stat::of(&self.fd)?;
        if !is_ours(&self.dir, &self.written_as, &stat) {
            return Ok(None);
        }
        rustix::fs::renameat(&*self.dir, self.written_as.as_slice(), &*self.dir, &*self.name)?;
        self.in_place = true;
        Ok(Some(stat))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Bytes so far, holes included.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.in_place && Stat::of(&self.fd).is_ok_and(|made| is_ours(&self.dir, &self.written_as, &made))
        {
            // What cannot be removed is found by the next restore.
            let _ = rustix::fs::unlinkat(&*self.dir, self.written_as.as_slice(), AtFlags::empty());
        }
    }
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Takes `len` zero bytes into a hash.
pub(super) fn hash_zeros(hasher: &mut blake3::Hasher, mut len: u64) {
    while len > 0 {
        let now = ZEROS
            .get(..usize::try_from(len).unwrap_or(ZEROS.len()))
            .unwrap_or(&ZEROS);
        hasher.update(now);
        len -= now.len() as u64;
    }
}

/// The BLAKE3 of a whole file.
pub(super) fn hash_file(fd: &OwnedFd) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match rustix::io::pread(fd, &mut buffer, at) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(n) => {
                hasher.update(buffer.get(..n).unwrap_or_default());
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
