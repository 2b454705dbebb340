//! Objects in any object store: typed names in, bytes out.
use crate::context::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{ObjectName, Prefix};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use std::sync::Arc;
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Created,
    Mine,
    Conflict,
}
impl Put {
    pub fn is_mine(self) -> bool {
        self != Put::Conflict
    }
}
pub struct ObjectInfo {
    pub name: ObjectName,
    pub size: u64,
    pub last_modified: Time,
}
pub enum Listed {
    Object(ObjectInfo),
    Foreign(String),
}
impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.inner)
    }
}
fn err(e: object_store::Error) -> Error {
    match e {
        object_store::Error::NotFound { .. } => Error::new(ErrorKind::NotFound, "no such object"),
        e => Error::new(ErrorKind::Unreachable, e.to_string()),
    }
}
impl Store {
    pub fn memory() -> Self {
        Self {
            inner: Arc::new(object_store::memory::InMemory::new()),
        }
    }
    pub fn local(p: &std::path::Path) -> Self {
        Self {
            inner: Arc::new(
                object_store::local::LocalFileSystem::new_with_prefix(p)
                    .unwrap()
                    .with_fsync(true),
            ),
        }
    }
    pub async fn put_new(&self, n: &ObjectName, b: Bytes) -> Result<Put> {
        match self
            .inner
            .put_opts(
                &Path::from(n.to_string()),
                b.clone().into(),
                PutOptions::from(PutMode::Create),
            )
            .await
        {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => {
                if self.get(n).await? == b {
                    Ok(Put::Mine)
                } else {
                    Ok(Put::Conflict)
                }
            }
            Err(e) => Err(err(e)),
        }
    }
    pub async fn get(&self, n: &ObjectName) -> Result<Bytes> {
        self.inner
            .get(&Path::from(n.to_string()))
            .await
            .map_err(err)?
            .bytes()
            .await
            .map_err(err)
    }
    pub async fn get_range(&self, n: &ObjectName, r: std::ops::Range<u64>) -> Result<Bytes> {
        self.inner
            .get_range(&Path::from(n.to_string()), r)
            .await
            .map_err(err)
    }
    pub async fn head(&self, n: &ObjectName) -> Result<ObjectInfo> {
        let m = self.inner.head(&Path::from(n.to_string())).await.map_err(err)?;
        Ok(ObjectInfo {
            name: *n,
            size: m.size,
            last_modified: Time::default(),
        })
    }
    pub async fn delete(&self, n: &ObjectName) -> Result<()> {
        self.inner.delete(&Path::from(n.to_string())).await.map_err(err)
    }
    pub fn list(&self, p: Prefix) -> BoxStream<'static, Result<Listed>> {
        let s = self.inner.clone();
        let p = p.to_string();
        let path = if p.is_empty() { None } else { Some(Path::from(p)) };
        futures::stream::once(async move {
            let v: Vec<_> = s.list(path.as_ref()).collect().await;
            futures::stream::iter(v)
        })
        .flatten()
        .map(|m| {
            let m = m.map_err(err)?;
            let t = m.location.to_string();
            Ok(match ObjectName::parse(&t) {
                Ok(name) => Listed::Object(ObjectInfo {
                    name,
                    size: m.size,
                    last_modified: Time::default(),
                }),
                Err(_) => Listed::Foreign(t),
            })
        })
        .boxed()
    }
    pub fn concurrency(&self) -> usize {
        4
    }
    pub fn is_writable(&self) -> bool {
        true
    }
}
