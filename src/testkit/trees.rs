//! Arbitrary trees of files on disk, and a description of a tree that lists everything that a restore must give back. It shares
//! no code with the connector that it tests.
#![expect(clippy::missing_errors_doc, reason = "this is test code")]

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, SeekFrom, Timespec, Timestamps, UTIME_OMIT, Uid};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// One thing in a directory.
#[derive(Clone, Debug)]
pub enum Node {
    /// A regular file: regions of data (byte to repeat and length) and holes (`None`), each a multiple of 4 KiB but the last.
    File(Vec<(Option<u8>, u32)>),
    /// A directory.
    Directory(Vec<Child>),
    /// A link.
    Symlink(Vec<u8>),
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Another name of an earlier file, counted around.
    HardLink(usize),
}

/// A name in a directory, what it is and its attributes.
#[derive(Clone, Debug)]
pub struct Child {
    /// Any bytes that may be a name.
    pub name: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Permission bits.
    pub mode: u32,
    /// Modification time.
    pub mtime: (i64, u32),
    /// Owner and group, set by root only.
    pub owner: (u32, u32),
    /// Extended attributes of files and directories.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => prop::sample::select(b"ab./ -_~".to_vec()),
        1 => any::<u8>(),
    ];
    let short = prop::collection::vec(byte, 1..6);
    let long = prop::collection::vec(prop::sample::select(vec![b'x', 0xff, 0x1b]), 255);
    prop_oneof![20 => short, 1 => long].prop_map(|mut name| {
        name.iter_mut()
            .filter(|b| **b == b'/' || **b == 0)
            .for_each(|b| *b = b'\n');
        if name == b"." || name == b".." {
            name.push(b'!');
        }
        name
    })
}

fn file() -> impl Strategy<Value = Node> {
    let region = (prop::option::weighted(0.7, any::<u8>()), 1u32..40);
    (prop::collection::vec(region, 0..4), 0u32..5000).prop_map(|(regions, tail)| {
        let mut out: Vec<_> = regions
            .into_iter()
            .map(|(byte, pages)| (byte, pages * 4096))
            .collect();
        if tail > 0 {
            out.push((Some(7), tail));
        }
        Node::File(out)
    })
}

fn leaf() -> impl Strategy<Value = Node> {
    prop_oneof![
        6 => file(),
        2 => prop::collection::vec(1u8..=255, 1..20).prop_map(Node::Symlink),
        1 => Just(Node::Symlink(b"../../../etc".to_vec())),
        1 => Just(Node::Fifo),
        1 => Just(Node::Socket),
        3 => any::<usize>().prop_map(Node::HardLink),
    ]
}

fn child(node: impl Strategy<Value = Node>) -> impl Strategy<Value = Child> {
    let mtime = (-2_000_000_000i64..8_000_000_000, 0u32..1_000_000_000);
    let xattr = ("user\\.[a-z]{1,8}", prop::collection::vec(any::<u8>(), 0..40));
    let owner = prop_oneof![2 => Just((0, 0)), 1 => (0u32..70_000, 0u32..70_000)];
    let xattrs = prop::collection::btree_map(xattr.0, xattr.1, 0..3);
    (name(), node, 0u32..0o1000, mtime, owner, xattrs).prop_map(|(name, node, mode, mtime, owner, xattrs)| {
        Child {
            name,
            node,
            mode,
            mtime,
            owner,
            xattrs,
        }
    })
}

/// Arbitrary trees: what a directory holds.
pub fn arbitrary() -> impl Strategy<Value = Vec<Child>> {
    let tree = leaf().prop_recursive(4, 40, 8, |node| {
        prop::collection::vec(child(node), 0..8).prop_map(Node::Directory)
    });
    prop::collection::vec(child(tree), 0..10)
}

/// Builds `children` in `directory`; a name that comes twice is built once. Gives the number of things built.
pub fn build(directory: &Path, children: &[Child]) -> io::Result<usize> {
    let mut files = Vec::new();
    let built = build_in(directory, children, &mut files)?;
    Ok(built)
}

fn build_in(directory: &Path, children: &[Child], files: &mut Vec<PathBuf>) -> io::Result<usize> {
    let mut built = 0;
    for child in children {
        let path = directory.join(OsStr::from_bytes(&child.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        built += 1;
        match &child.node {
            Node::File(regions) => {
                write_file(&path, regions)?;
                files.push(path.clone());
            }
            Node::Directory(children) => {
                fs_err::create_dir(&path)?;
                built += build_in(&path, children, files)?;
            }
            Node::Symlink(target) => symlink(OsString::from_vec(target.clone()), &path)?,
            Node::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0)?,
            Node::Socket => rustix::fs::mknodat(CWD, &path, FileType::Socket, Mode::RWXU, 0)?,
            Node::HardLink(index) => {
                if let Some(first) = files.get(index % files.len().max(1)) {
                    fs_err::hard_link(first, &path)?;
                } else {
                    built -= 1;
                }
                continue;
            }
        }
        set_attributes(&path, child)?;
    }
    Ok(built)
}

fn write_file(path: &Path, regions: &[(Option<u8>, u32)]) -> io::Result<()> {
    let file = fs_err::File::create(path)?;
    let mut at = 0u64;
    for (byte, len) in regions {
        if let Some(byte) = byte {
            std::os::unix::fs::FileExt::write_all_at(file.file(), &vec![*byte; *len as usize], at)?;
        }
        at += u64::from(*len);
    }
    file.set_len(at)
}

fn set_attributes(path: &Path, child: &Child) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = child.owner;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if matches!(child.node, Node::File(_) | Node::Directory(_)) {
        for (name, value) in &child.xattrs {
            xattr::set(path, name, value)?;
        }
    }
    if !matches!(child.node, Node::Symlink(_)) {
        // Without rights for its owner nobody but root could read it again.
        let mode = child.mode
            | if rustix::process::geteuid().is_root() {
                0
            } else {
                0o700
            };
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    }
    set_mtime(path, child.mtime)
}

/// Sets a modification time, of a link itself too.
pub fn set_mtime(path: &Path, (seconds, nanos): (i64, u32)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        },
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Everything that can be compared of all that is below `root`, by relative path; `root` itself is not part of it.
pub fn describe(root: &Path) -> io::Result<BTreeMap<Vec<u8>, String>> {
    let mut out = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    let mut paths = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs_err::read_dir(root.join(&directory))? {
            let path = directory.join(entry?.file_name());
            if root.join(&path).symlink_metadata()?.is_dir() {
                directories.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let full = root.join(&path);
        let metadata = fs_err::symlink_metadata(&full)?;
        let id = (metadata.dev(), metadata.ino());
        let first = first_names.entry(id).or_insert_with(|| path.clone()).clone();
        let mut line = format!(
            "{:o} {}:{} {}.{:09} = {}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            first.as_os_str().as_bytes().escape_ascii(),
        );
        for name in xattr::list(&full)? {
            let value = xattr::get(&full, &name)?.unwrap_or_default();
            let _ = write!(line, " {}={}", name.to_string_lossy(), value.escape_ascii());
        }
        let kind = metadata.file_type();
        if kind.is_file() {
            let _ = write!(line, " {} {}", metadata.len(), content(&full)?);
        } else if kind.is_symlink() {
            let _ = write!(
                line,
                " -> {}",
                fs_err::read_link(&full)?.as_os_str().as_bytes().escape_ascii()
            );
        } else if kind.is_char_device() || kind.is_block_device() {
            let _ = write!(line, " device {}", metadata.rdev());
        }
        out.insert(path.into_os_string().into_vec(), line);
    }
    Ok(out)
}

/// Hash of the content, and where data is stored.
fn content(path: &Path) -> io::Result<String> {
    let file = fs_err::File::open(path)?;
    let mut out = blake3::hash(&fs_err::read(path)?).to_hex().to_string();
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(file.file(), SeekFrom::Data(at)) {
        at = rustix::fs::seek(file.file(), SeekFrom::Hole(data))?;
        let _ = write!(out, " {data}..{at}");
    }
    Ok(out)
}
