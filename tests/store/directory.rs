//! What only a directory can do wrong: permissions, full disks, killed writers.

use crate::{context, local, writable};
use futures::TryStreamExt;
use holdall::error::ErrorKind;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::store::{Access, Listed, Location, Put, Store, StoreOptions};
use holdall::testkit::store_suite::noise;
use rustix::thread::CapabilitySet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Runs `test` on this thread and the threads it starts without the power to pass over permissions, so that root sees what
/// everybody else sees.
fn without_privileges(test: impl Future<Output = ()>) {
    if rustix::process::geteuid().is_root() {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective
            .remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER);
        rustix::thread::set_capabilities(None, sets).unwrap();
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_read_only_directory_reads_and_refuses_writes() {
    without_privileges(async {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            local(dir.path())
                .put_new(&ObjectName::Key(0), noise(1, 10))
                .await
                .unwrap(),
            Put::Created
        );
        mode(&dir.path().join("keys"), 0o500);
        mode(dir.path(), 0o500);
        let reader = Store::open(
            &Location::Local(dir.path().into()),
            &StoreOptions::default(),
            &context(),
        )
        .unwrap();
        assert_eq!(reader.get(&ObjectName::Key(0)).await.unwrap(), noise(1, 10));
        let store = local(dir.path());
        for name in [ObjectName::Key(1), ObjectName::Config(0)] {
            let error = store.put_new(&name, noise(2, 10)).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
            assert!(error.to_string().contains(&name.to_string()), "{error}");
            assert!(error.advice().is_some());
        }
        assert_eq!(
            store.delete(&ObjectName::Key(0)).await.unwrap_err().kind(),
            ErrorKind::Denied
        );
        mode(dir.path(), 0o700);
        mode(&dir.path().join("keys"), 0o700);
    });
}

#[test]
fn an_unreadable_object_is_denied_not_absent() {
    without_privileges(async {
        let dir = tempfile::tempdir().unwrap();
        let store = local(dir.path());
        assert_eq!(
            store.put_new(&ObjectName::Key(0), noise(1, 10)).await.unwrap(),
            Put::Created
        );
        mode(&dir.path().join("keys/0"), 0);
        assert_eq!(
            store.get(&ObjectName::Key(0)).await.unwrap_err().kind(),
            ErrorKind::Denied
        );
        mode(&dir.path().join("keys"), 0);
        let listed: Result<Vec<_>, _> = store.list(Prefix::All).try_collect().await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Denied);
        mode(&dir.path().join("keys"), 0o700);
    });
}

#[tokio::test]
async fn a_missing_directory_is_no_repository_and_is_made_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::Local(dir.path().join("new/repository"));
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let options = StoreOptions { access, ..writable() };
        let error = Store::open(&location, &options, &context())
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoRepository);
        assert!(error.to_string().contains("new/repository"), "{error}");
    }
    assert!(!dir.path().join("new").exists());
    Store::open(&location, &writable(), &context()).unwrap();
    assert!(dir.path().join("new/repository").is_dir());
}

#[tokio::test]
async fn a_disk_that_is_unplugged_does_not_look_like_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("disk");
    let store = local(&root);
    assert_eq!(
        store.put_new(&ObjectName::Key(0), noise(1, 10)).await.unwrap(),
        Put::Created
    );
    std::fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    let errors = [
        store.get(&ObjectName::Key(0)).await.map(drop).unwrap_err(),
        store
            .put_new(&ObjectName::Key(1), noise(2, 10))
            .await
            .map(drop)
            .unwrap_err(),
        store
            .list(Prefix::Keys)
            .try_collect::<Vec<_>>()
            .await
            .map(drop)
            .unwrap_err(),
        store.delete(&ObjectName::Key(0)).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::NoRepository, "{error:?}");
    }
    assert!(!root.exists(), "a put made the directory again");
}

#[tokio::test]
async fn what_a_killed_writer_leaves_is_shown_and_disturbs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path());
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    for left in ["keys/0#1", "keys/0#12345678901234567890"] {
        std::fs::write(dir.path().join(left), "half").unwrap();
    }
    assert_eq!(
        store.put_new(&ObjectName::Key(0), noise(1, 10)).await.unwrap(),
        Put::Created
    );
    assert_eq!(store.get(&ObjectName::Key(0)).await.unwrap(), noise(1, 10));
    let listed: Vec<Listed> = store.list(Prefix::Keys).try_collect().await.unwrap();
    let foreign: Vec<&str> = listed
        .iter()
        .filter_map(|l| match l {
            Listed::Foreign { name, .. } => Some(name.as_str()),
            Listed::Object(_) => None,
        })
        .collect();
    assert_eq!(foreign, ["keys/0#1", "keys/0#12345678901234567890"]);
    assert_eq!(listed.len(), 3);
}

/// A file system in memory, unmounted when dropped.
struct Tiny(tempfile::TempDir);

impl Tiny {
    async fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = tokio::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status()
            .await;
        done.is_ok_and(|s| s.success()).then_some(Self(dir))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Needs the right to mount, and proves nothing without it; `faults.rs` tests by injection what a full disk is taken for.
#[tokio::test]
async fn a_full_disk_is_told_and_leaves_no_half_object() {
    let Some(disk) = Tiny::mount("1m").await else {
        return;
    };
    let store = local(disk.0.path());
    assert_eq!(
        store
            .put_new(&ObjectName::Key(0), noise(1, 300_000))
            .await
            .unwrap(),
        Put::Created
    );
    let error = store
        .put_new(&ObjectName::Key(1), noise(2, 900_000))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFull, "{error:?}");
    assert!(error.to_string().contains("keys/1"), "{error}");
    let listed: Vec<Listed> = store.list(Prefix::All).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(store.get(&ObjectName::Key(0)).await.unwrap(), noise(1, 300_000));
    store.delete(&ObjectName::Key(0)).await.unwrap();
    assert_eq!(
        store
            .put_new(&ObjectName::Key(1), noise(2, 900_000))
            .await
            .unwrap(),
        Put::Created
    );
}

#[tokio::test]
async fn limits_shape_a_directory_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        limit_upload: Some(1 << 20),
        limit_download: Some(2 << 20),
        ..writable()
    };
    let store = Store::open(&Location::Local(dir.path().into()), &options, &context()).unwrap();
    let begun = Instant::now();
    assert_eq!(
        store
            .put_new(&ObjectName::Key(0), noise(1, 1 << 20))
            .await
            .unwrap(),
        Put::Created
    );
    let up = begun.elapsed();
    assert!(up > Duration::from_millis(850), "{up:?}");
    let begun = Instant::now();
    assert_eq!(store.get(&ObjectName::Key(0)).await.unwrap(), noise(1, 1 << 20));
    let down = begun.elapsed();
    assert!(down > Duration::from_millis(400), "{down:?}");
}
