//! The suite on every kind of store.

mod memory {
    holdall::store_suite!({
        let location = holdall::store::Location::Memory;
        let store = holdall::store::Store::open(&location, &crate::writable(), &crate::context()).unwrap();
        (store, ())
    });
}

mod directory {
    holdall::store_suite!({
        let dir = tempfile::tempdir().unwrap();
        (crate::local(dir.path()), dir)
    });
}

/// The fault-injecting store must be invisible until it is told to fail.
mod faultless {
    holdall::store_suite!({ (crate::over(&holdall::testkit::FaultStore::in_memory()), ()) });
}

mod seaweedfs {
    use holdall::store::Store;
    use holdall::testkit::{SeaweedFs, store_suite};

    /// One server for the whole suite, and a place in its bucket for each behaviour.
    #[tokio::test(flavor = "multi_thread")]
    async fn behaves_as_every_store() {
        let server = SeaweedFs::start().await.unwrap();
        let mut running = tokio::task::JoinSet::new();
        for (name, behaviour) in store_suite::ALL {
            let location = server.location(&format!("suite/{name}"));
            let store = Store::open(&location, &server.options(), &crate::context()).unwrap();
            running.spawn(async move {
                let done = tokio::spawn(behaviour(store)).await;
                (*name, done.map_err(|e| e.to_string()))
            });
        }
        let failed: Vec<_> = running
            .join_all()
            .await
            .into_iter()
            .filter(|(_, done)| done.is_err())
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}
