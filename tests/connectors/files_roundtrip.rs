//! restore(snapshot(tree)) = tree.

use super::{keep, keep_with, later, restore, restore_with, scratch};
use holdall::connector::files::{FilesRequest, RestoreRequest};
use holdall::testkit::trees::{arbitrary, build, describe};
use proptest::prelude::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_tree_is_the_tree(children in arbitrary()) {
        let (_dir, root) = scratch();
        let source = root.join("source");
        fs_err::create_dir(&source).unwrap();
        let built = build(&source, &children).unwrap() as u64;
        let wanted = describe(&source).unwrap();
        block_on(async {
            let kept = keep(&source).await;
            prop_assert!(kept.incidents.is_empty(), "{:?}", kept.incidents);
            let target = root.join("target");
            let (report, incidents) = restore(&kept, &source, &target).await;
            prop_assert!(incidents.is_empty(), "{incidents:?}");
            prop_assert_eq!((report.written, report.skipped, report.failed), (built, 1, 0));
            prop_assert_eq!(describe(&target).unwrap(), wanted.clone());

            // Again, over itself: everything is there already.
            let (report, incidents) = restore(&kept, &source, &target).await;
            prop_assert!(incidents.is_empty(), "{incidents:?}");
            prop_assert_eq!((report.written, report.skipped, report.bytes), (0, built + 1, 0));
            prop_assert_eq!(describe(&target).unwrap(), wanted.clone());

            // And once more, everything written again, and read back.
            let request = RestoreRequest {
                overwrite: holdall::connector::files::Overwrite::Always,
                verify: true,
                ..RestoreRequest::default()
            };
            let (report, incidents) = restore_with(&kept, &source, &target, request).await;
            prop_assert!(incidents.is_empty(), "{incidents:?}");
            prop_assert_eq!((report.failed, report.different), (0, 0));
            prop_assert_eq!(describe(&target).unwrap(), wanted.clone());

            // The next snapshot reads nothing below its root, and is the same.
            let next = keep_with(FilesRequest::default(), &source, Some((&kept, later()))).await;
            let heads = |c: &holdall::testkit::collect::Collected| {
                let below = super::key(&source, "");
                c.entries.range(below..).map(|(_, k)| k.head.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(heads(&next), heads(&kept));
            Ok(())
        })?;
    }
}
