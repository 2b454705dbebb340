//! A directory as a store.
//!
//! Not `object_store`'s own: ours makes files for the owner only, syncs what it writes and the directories above it,
//! publishes without ever replacing (a hard link, or a rename that replaces nothing where there are no hard links), paces
//! uploads, lists in the order of names, and shows what killed writers left behind (`<name>#<number>`) instead of hiding it.

use super::fault::Fault;
use super::limit::{Limiter, PIECE};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as Name;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Directories below each other in a listing; names have at most 4 parts, and links can make loops.
const DEPTH_MAX: usize = 8;
/// Entries that a listing hands over at once.
const BATCH: usize = 256;

/// A directory.
#[derive(Debug)]
pub(crate) struct LocalDir {
    root: Arc<PathBuf>,
    upload: Option<Arc<Limiter>>,
}

impl LocalDir {
    /// The store in `root`, which is made if `create` says so.
    pub(crate) fn open(root: &Path, create: bool, upload: Option<Arc<Limiter>>) -> Result<Self> {
        // Made absolute once, so that a later change of the working directory changes nothing.
        let root = std::path::absolute(root).map_err(failed)?;
        if create {
            make_directories(&root, None).map_err(failed)?;
        }
        match std::fs::metadata(&root) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(failed(io::Error::from(io::ErrorKind::NotADirectory))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing(&root)),
            Err(e) => return Err(failed(e)),
        }
        Ok(Self {
            root: Arc::new(root),
            upload,
        })
    }

    fn path(&self, name: &Name) -> PathBuf {
        let mut path = self.root.as_ref().clone();
        path.extend(name.as_ref().split('/'));
        path
    }
}

/// An error of the system, as `object_store` passes it on.
fn failed(error: io::Error) -> Error {
    Error::Generic {
        store: "local",
        source: Box::new(error),
    }
}

fn missing(root: &Path) -> Error {
    Error::Generic {
        store: "local",
        source: Box::new(Fault::NoDirectory(root.display().to_string())),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.into(),
        implementer: "local directory".into(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Makes `path` and what is missing above it, down from `below` if given (which must exist), for the owner only, and
/// syncs each parent, so that the way to a stored object survives a power cut.
fn make_directories(path: &Path, below: Option<&Path>) -> io::Result<()> {
    if below == Some(path) {
        return std::fs::metadata(path).map(drop);
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or(e)?;
            make_directories(parent, below)?;
            match DirBuilder::new().mode(0o700).create(path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Err(e) => return Err(e),
    }
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network and user-space file systems cannot sync a directory; they have nothing to sync.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// A file that is being written beside its later place; removed when dropped.
struct Staged {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Staged {
    fn new(root: &Path, target: PathBuf) -> Result<Self> {
        let mut made = false;
        loop {
            let mut number = [0; 8];
            getrandom::fill(&mut number).map_err(|e| failed(io::Error::other(e.to_string())))?;
            let mut path = target.clone().into_os_string();
            path.push(format!("#{}", u64::from_le_bytes(number)));
            let path = PathBuf::from(path);
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => return Ok(Self { file, path, target }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound && !made => {
                    let parent = target.parent().ok_or_else(|| failed(e))?;
                    make_directories(parent, Some(root)).map_err(|e| absent_root(root, e))?;
                    made = true;
                }
                Err(e) => return Err(failed(e)),
            }
        }
    }

    fn write(&mut self, payload: &PutPayload) -> Result<()> {
        payload
            .iter()
            .try_for_each(|part| self.file.write_all(part))
            .map_err(failed)
    }

    /// Gives the file its name unless that is taken, and makes both last.
    fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(failed)?;
        let published = publish(&self.path, &self.target);
        // A name that is taken must last too: it may be our own, from a try whose sync failed.
        let taken = matches!(published, Err(Error::AlreadyExists { .. }));
        let directory = self.target.parent().map(Path::to_path_buf);
        drop(self);
        if published.is_ok() || taken {
            directory.map_or(Ok(()), |d| sync_directory(&d)).map_err(failed)?;
        }
        published
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Absent after a rename. What cannot be removed stays as a leftover, which listings show.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// By a hard link; where the file system has none, by a rename that replaces nothing.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let without_links = [
        Errno::PERM,
        Errno::NOTSUP,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::MLINK,
        Errno::INVAL,
    ];
    match rustix::fs::link(from, to) {
        Ok(()) => Ok(()),
        Err(e) if without_links.contains(&e) => rename_new(from, to),
        Err(e) => Err(not_published(to, e)),
    }
}

fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(e) if [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP].contains(&e) => {
            Err(Error::Generic {
                store: "local",
                source: Box::new(Fault::NoCreate(e.into())),
            })
        }
        other => other.map_err(|e| not_published(to, e)),
    }
}

fn not_published(to: &Path, error: Errno) -> Error {
    if error == Errno::EXIST {
        Error::AlreadyExists {
            path: to.display().to_string(),
            source: Box::new(io::Error::from(error)),
        }
    } else {
        failed(error.into())
    }
}

/// Tells an absent object from an absent store: a disk that was unplugged must not look like an empty repository.
fn absent_root(root: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound && !root.is_dir() {
        missing(root)
    } else {
        failed(error)
    }
}

fn meta_of(location: Name, meta: &Metadata) -> Result<ObjectMeta> {
    Ok(ObjectMeta {
        location,
        last_modified: meta.modified().map_err(failed)?.into(),
        size: meta.len(),
        e_tag: None,
        version: None,
    })
}

#[async_trait]
impl ObjectStore for LocalDir {
    async fn put_opts(&self, name: &Name, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode != PutMode::Create {
            return Err(unsupported("put of anything but a new object"));
        }
        let (root, target) = (self.root.clone(), self.path(name));
        match self.upload.clone() {
            None => {
                blocking(move || {
                    let mut staged = Staged::new(&root, target)?;
                    staged.write(&payload)?;
                    staged.publish()
                })
                .await?;
            }
            Some(limiter) => {
                let mut staged = blocking(move || Staged::new(&root, target)).await?;
                for mut part in payload {
                    while !part.is_empty() {
                        // A sixteenth of a second's worth would be too small on slow limits and too large on fast ones.
                        let piece = part.split_to(part.len().min(4 * PIECE));
                        limiter.pace(piece.len()).await;
                        staged = blocking(move || {
                            staged.write(&piece.into())?;
                            Ok(staged)
                        })
                        .await?;
                    }
                }
                blocking(move || staged.publish()).await?;
            }
        }
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Extensions::default(),
        })
    }

    async fn put_multipart_opts(&self, _: &Name, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported("upload in parts"))
    }

    async fn get_opts(&self, name: &Name, options: GetOptions) -> Result<GetResult> {
        let (root, path, location) = (self.root.clone(), self.path(name), name.clone());
        blocking(move || {
            let file = File::open(&path).map_err(|e| absent_root(&root, e))?;
            let found = file.metadata().map_err(failed)?;
            if !found.is_file() {
                return Err(failed(io::Error::from(io::ErrorKind::NotFound)));
            }
            let meta = meta_of(location, &found)?;
            let range = match options.range {
                Some(range) if !options.head => range
                    .as_range(meta.size)
                    .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e.to_string())))?,
                _ => 0..meta.size,
            };
            let payload = if options.head {
                GetResultPayload::Stream(stream::empty::<Result<Bytes>>().boxed())
            } else {
                GetResultPayload::File(file, path)
            };
            Ok(GetResult {
                payload,
                meta,
                range,
                attributes: Attributes::default(),
                extensions: Extensions::default(),
            })
        })
        .await
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Name>>) -> BoxStream<'static, Result<Name>> {
        let root = self.root.clone();
        names
            .and_then(move |name| {
                let root = root.clone();
                async move {
                    let mut path = root.as_ref().clone();
                    path.extend(name.as_ref().split('/'));
                    blocking(move || {
                        std::fs::remove_file(&path).map_err(|e| absent_root(&root, e))?;
                        // A deleted object may come back after a power cut: harmless, but a lie about what was done.
                        path.parent().map_or(Ok(()), sync_directory).map_err(failed)
                    })
                    .await?;
                    Ok(name)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Name>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk = Walk::new(&self.root, prefix);
        stream::try_unfold((walk, VecDeque::new()), |(mut walk, mut ready)| async move {
            if ready.is_empty() {
                (walk, ready) = blocking(move || {
                    while ready.len() < BATCH
                        && let Some(meta) = walk.next().transpose()?
                    {
                        ready.push_back(meta);
                    }
                    Ok((walk, ready))
                })
                .await?;
            }
            Ok(ready.pop_front().map(|meta| (meta, (walk, ready))))
        })
        .boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Name>) -> Result<ListResult> {
        Err(unsupported("list of one level"))
    }

    async fn copy_opts(&self, _: &Name, _: &Name, _: CopyOptions) -> Result<()> {
        Err(unsupported("copy"))
    }
}

impl fmt::Display for LocalDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.display())
    }
}

/// Everything below a directory in the order of names, as S3 lists it: `a-b`, `a/b`, `a0`.
struct Walk {
    root: Arc<PathBuf>,
    /// What is left of each open directory, in descending order; a name that ends with `/` is a directory.
    levels: Vec<Vec<String>>,
    /// The names of the open directories below the prefix.
    above: Vec<String>,
    start: Option<String>,
}

impl Walk {
    fn new(root: &Arc<PathBuf>, prefix: Option<&Name>) -> Self {
        let start = prefix.map_or_else(String::new, |p| format!("{p}/"));
        Self {
            root: root.clone(),
            levels: Vec::new(),
            above: Vec::new(),
            start: Some(if start == "/" { String::new() } else { start }),
        }
    }

    /// Opens a directory, given by its name with all above it, each ending with `/`. One that is gone is empty.
    fn open(&mut self, name: String) -> Result<()> {
        let path = self.root.join(&name);
        let mut found = match std::fs::read_dir(&path) {
            Ok(entries) => entries
                .map(|entry| entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e)))
                .collect::<io::Result<Vec<_>>>()
                .map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.is_dir() => Vec::new(),
            Err(e) => return Err(absent_root(&self.root, e)),
        };
        let mut names = Vec::with_capacity(found.len());
        for (mut name, entry) in found.drain(..) {
            // A link counts as what it points to.
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() || kind.is_symlink() && entry.path().is_dir() {
                name.push('/');
            }
            names.push(name);
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(names);
        self.above.push(name);
        Ok(())
    }

    fn step(&mut self) -> Result<Option<ObjectMeta>> {
        if let Some(start) = self.start.take() {
            self.open(start)?;
        }
        while let (Some(level), Some(above)) = (self.levels.last_mut(), self.above.last()) {
            let Some(name) = level.pop() else {
                self.levels.pop();
                self.above.pop();
                continue;
            };
            let full = format!("{above}{name}");
            if full.ends_with('/') {
                if self.levels.len() < DEPTH_MAX {
                    self.open(full)?;
                }
                continue;
            }
            let path = self.root.join(&full);
            // A broken link is shown as itself.
            let meta = std::fs::metadata(&path).or_else(|_| std::fs::symlink_metadata(&path));
            match meta {
                Ok(meta) => {
                    let location = Name::parse(&full).unwrap_or_else(|_| Name::from(full));
                    return meta_of(location, &meta).map(Some);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(None)
    }
}

impl Iterator for Walk {
    type Item = Result<ObjectMeta>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn put(store: &LocalDir, name: &str, bytes: &'static [u8]) -> Result<PutResult> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        store
            .put_opts(&Name::from(name), Bytes::from_static(bytes).into(), options)
            .await
    }

    async fn names(store: &LocalDir, prefix: Option<&str>) -> Vec<String> {
        let prefix = prefix.map(Name::from);
        let found: Vec<_> = store.list(prefix.as_ref()).try_collect().await.unwrap();
        found.iter().map(|m| m.location.to_string()).collect()
    }

    #[tokio::test]
    async fn files_and_directories_are_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalDir::open(&dir.path().join("a/b"), true, None).unwrap();
        put(&store, "keys/0", b"x").await.unwrap();
        let mode = |path: &str| {
            std::fs::metadata(dir.path().join(path))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/keys")), (0o700, 0o700, 0o700));
        assert_eq!(mode("a/b/keys/0"), 0o600);
    }

    #[tokio::test]
    async fn a_rename_that_replaces_nothing_stands_in_for_hard_links() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, to) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("to"));
        std::fs::write(&a, "first").unwrap();
        std::fs::write(&b, "second").unwrap();
        rename_new(&a, &to).unwrap();
        assert!(matches!(rename_new(&b, &to), Err(Error::AlreadyExists { .. })));
        assert_eq!(std::fs::read(&to).unwrap(), b"first");
    }

    #[tokio::test]
    async fn lists_in_the_order_of_names_with_leftovers_and_without_missing_parts() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalDir::open(dir.path(), false, None).unwrap();
        for name in ["gc/1/seal", "gc/0", "gc-x", "gc0", "gc/1-"] {
            put(&store, name, b"").await.unwrap();
        }
        std::fs::write(dir.path().join("gc/0#17"), "half").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("gc/loop")).unwrap();
        assert_eq!(names(&store, Some("none")).await, [""; 0]);
        std::fs::remove_file(dir.path().join("gc/loop")).unwrap();
        assert_eq!(
            names(&store, None).await,
            ["gc-x", "gc/0", "gc/0#17", "gc/1-", "gc/1/seal", "gc0"]
        );
        assert_eq!(names(&store, Some("gc/1")).await, ["gc/1/seal"]);
    }

    #[tokio::test]
    async fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalDir::open(dir.path(), false, None).unwrap();
        put(&store, "x", b"").await.unwrap();
        std::os::unix::fs::symlink(".", dir.path().join("loop")).unwrap();
        assert_eq!(names(&store, None).await.len(), DEPTH_MAX);
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_put_that_failed_or_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalDir::open(dir.path(), false, Limiter::new(Some(1 << 10))).unwrap();
        put(&store, "a", b"1").await.unwrap();
        assert!(put(&store, "a", b"2").await.is_err());
        let big = Bytes::from(vec![0; 1 << 20]);
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let name = Name::from("big");
        let slow = store.put_opts(&name, big.into(), options);
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(200), slow)
                .await
                .is_err()
        );
        // The last piece may still be on its way to the disk.
        for _ in 0..100 {
            if names(&store, None).await == ["a"] {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("left over: {:?}", names(&store, None).await);
    }
}
