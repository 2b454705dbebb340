//! Extended attributes, ACLs among them. Never through a link: by descriptor where one is open, else by the path of the
//! parent's descriptor in `/proc`.

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

/// Names and values, ascending by name.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Those of an open file or directory (not of an `O_PATH` descriptor).
pub(super) fn read_open(fd: impl AsFd) -> Result<Xattrs> {
    let fd = fd.as_fd();
    collect(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

/// Those of `name` in `dir`, of whatever type it is.
pub(super) fn read_at(dir: impl AsFd, name: &[u8]) -> Result<Xattrs> {
    let path = proc_path(dir, name);
    collect(
        |buffer| rustix::fs::llistxattr(path.as_slice(), buffer),
        |name, buffer| rustix::fs::lgetxattr(path.as_slice(), name, buffer),
    )
}

/// Sets one on an open file or directory.
pub(super) fn set_open(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
}

/// Sets one on `name` in `dir`, of whatever type it is.
pub(super) fn set_at(dir: impl AsFd, file: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(proc_path(dir, file).as_slice(), name, value, XattrFlags::empty())
}

/// Removes one from an open file or directory.
pub(super) fn remove_open(fd: impl AsFd, name: &[u8]) -> Result<()> {
    rustix::fs::fremovexattr(fd, name)
}

/// Whether only `--privileged` restores it: it gives rights, or only root may set it.
pub(super) fn is_privileged(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"trusted.")
}

/// `name` below an open directory as a path that names no other directory, however often things are renamed.
pub(super) fn proc_path(dir: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize>,
) -> Result<Xattrs> {
    let names = match sized(&list) {
        Ok(names) => names,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut out = Xattrs::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match sized(|buffer| get(name, buffer)) {
            Ok(value) => out.push((name.to_vec(), value)),
            // Removed since it was listed, or listed but kept from us by the system's policy.
            Err(NO_DATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// Calls `read` with a buffer that is large enough; it may grow between two calls.
fn sized(read: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(target_vendor = "apple")]
const NO_DATA: Errno = Errno::NOATTR;
#[cfg(not(target_vendor = "apple"))]
const NO_DATA: Errno = Errno::NODATA;
