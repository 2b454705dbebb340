//! What a collector, an admin and other machines would put: sealed by hand, so that what reads it can be tested before what
//! writes it is built.
#![expect(clippy::unwrap_used, reason = "this is test code")]

use crate::context::Context;
use crate::crypto::{seal_record, seal_run};
use crate::format::Record;
use crate::format::collect::{CondemnedRecord, RefsRecord, RunRow, SealRecord, StateRecord};
use crate::format::header::{Origin, append_trailer};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::Tables;
use crate::format::layout::{ObjectName, Prefix};
use crate::format::repo_config::ConfigRecord;
use crate::format::session::{ForgetRecord, SessionRecord};
use crate::format::snapshot::Decision;
use crate::repository::{Repository, ledger};
use crate::store::Listed;
use futures::TryStreamExt;

/// One that does nothing but put.
pub struct Hand<'a> {
    /// Where.
    pub repository: &'a Repository,
    /// Randomness.
    pub context: &'a Context,
}

/// What a round decides.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Sessions of a lower epoch are void unless live.
    pub floor: u64,
    /// Committed sessions below the floor.
    pub live: Vec<SessionId>,
    /// Collector runs: those that are not named are void.
    pub runs: Vec<(u64, ObjectId)>,
    /// Packs killed.
    pub dead: Vec<ObjectId>,
}

impl Hand<'_> {
    async fn put<R: Record>(&self, record: &R) {
        assert!(
            self.repository
                .save(self.context, record)
                .await
                .unwrap()
                .is_mine()
        );
    }

    fn nonce(&self) -> [u8; 16] {
        self.context.random.bytes().unwrap()
    }

    /// Begins a session and leaves it.
    pub async fn session(&self, epoch: u64) -> SessionId {
        let sid = SessionId {
            epoch,
            random: self.nonce(),
        };
        let record = SessionRecord {
            sid,
            host: "elsewhere".into(),
            started: self.context.clock.now(),
            nonce: self.nonce(),
            parent_hint: None,
            adopted: None,
        };
        self.put(&record).await;
        sid
    }

    /// Ends a session as a collector does.
    pub async fn fence(&self, sid: SessionId) {
        let decision = Decision::Fence {
            sid,
            collector: self.nonce(),
            round: sid.epoch + 1,
            nonce: self.nonce(),
        };
        self.put(&decision).await;
    }

    /// Lets a snapshot go.
    pub async fn forget(&self, sid: SessionId) {
        let record = ForgetRecord {
            sid,
            who: "elsewhere".into(),
            why: "test".into(),
            time: self.context.clock.now(),
            nonce: self.nonce(),
        };
        self.put(&record).await;
    }

    /// Condemns packs for a round that is not sealed yet.
    pub async fn condemn(&self, round: u64, mut packs: Vec<ObjectId>) {
        packs.sort_unstable();
        let (collector, nonce) = (self.nonce(), self.nonce());
        let record = CondemnedRecord {
            round,
            collector,
            nonce,
            packs,
        };
        self.put(&record).await;
    }

    /// Seals a round: its state first, then the seal.
    pub async fn seal(&self, mut round: Round) {
        round.live.sort_unstable();
        round.dead.sort_unstable();
        let runs = round.runs.iter().map(|(number, id)| RunRow {
            round: *number,
            id: *id,
            entries: 0,
            hash: [0; 32],
        });
        let mut runs: Vec<_> = runs.collect();
        runs.sort_unstable();
        let state = StateRecord {
            round: round.number,
            floor: round.floor,
            live: round.live,
            runs,
            dead: round.dead,
            nonce: self.nonce(),
        };
        let (name, sealed) =
            seal_record(self.repository.keyring(), self.context.random.as_ref(), &state).unwrap();
        assert!(
            self.repository
                .put_sealed(&name, &sealed)
                .await
                .unwrap()
                .is_mine()
        );
        let id = sealed.id;
        let seal = SealRecord {
            round: round.number,
            swept: true,
            collector: self.nonce(),
            state: Some((round.number, id)),
            nonce: self.nonce(),
        };
        self.put(&seal).await;
    }

    /// Puts a collector run that says what some session run says.
    pub async fn copy_run(&self, round: u64, run: ObjectName) -> ObjectId {
        let tables = self.read_run(run).await;
        let (keyring, random) = (self.repository.keyring(), self.context.random.as_ref());
        let (name, sealed) = seal_run(keyring, random, Origin::Round(round), &tables).unwrap();
        assert!(
            self.repository
                .put_sealed(&name, &sealed)
                .await
                .unwrap()
                .is_mine()
        );
        sealed.id
    }

    /// Puts a run of a session.
    pub async fn run(&self, sid: SessionId, tables: &Tables) {
        let (keyring, random) = (self.repository.keyring(), self.context.random.as_ref());
        let (name, sealed) = seal_run(keyring, random, Origin::Session(sid), tables).unwrap();
        assert!(
            self.repository
                .put_sealed(&name, &sealed)
                .await
                .unwrap()
                .is_mine()
        );
    }

    /// What an index run lists.
    pub async fn read_run(&self, run: ObjectName) -> Tables {
        self.repository.load_run(run).await.unwrap()
    }

    /// Puts what a subtree references: nothing, which is enough for what only reads the object.
    pub async fn refs(&self, node: BlobId) {
        let record = RefsRecord {
            node,
            blobs: Vec::new(),
            open: Vec::new(),
        };
        self.put(&record).await;
    }

    /// Says that packs are damaged, as a check does.
    pub async fn quarantine(&self, packs: &[ObjectId]) {
        ledger::put(self.repository, self.context, &[], packs)
            .await
            .unwrap();
    }

    /// Puts the next generation of the configuration.
    pub async fn config(&self) {
        let mut config: ConfigRecord = self.repository.config().clone();
        config.generation += 1;
        self.put(&config).await;
    }

    /// Puts a reserve object, a small one.
    pub async fn reserve(&self, number: u8, len: usize) {
        let mut bytes = vec![0; len];
        self.context.random.fill(&mut bytes).unwrap();
        append_trailer(&mut bytes);
        let name = ObjectName::Reserve(number);
        let put = self.repository.store().put_new(&name, bytes.into()).await;
        assert!(put.unwrap().is_mine());
    }

    /// Names under a prefix.
    pub async fn names(&self, prefix: Prefix) -> Vec<ObjectName> {
        let listed: Vec<Listed> = self.repository.store().list(prefix).try_collect().await.unwrap();
        let names = listed.into_iter().map(|listed| match listed {
            Listed::Object(info) => info.name,
            Listed::Foreign { name, .. } => panic!("{name} is no name of a repository"),
        });
        names.collect()
    }
}
