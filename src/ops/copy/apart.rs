//! Whether a copy goes anywhere else at all.

use super::{Job, Known};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::layout::ObjectName;
use crate::ops::list::ListedSnapshot;
use crate::repository::Session;

/// Whether the target has snapshots under the very names that they have in the source. A copy has a name of its own: it is the source
/// itself, under whatever address, or what another program made of all its objects.
pub(super) fn looks_alike(all: &[ListedSnapshot], known: &Known) -> bool {
    all.iter()
        .any(|snapshot| known.sids.contains(&snapshot.record.sid))
}

impl Job<'_> {
    /// Sees to it that what looks like the source is another store: a session that is begun there does not appear here.
    ///
    /// # Errors
    /// `Invalid` if they are one.
    pub(super) async fn must_be_apart(&self) -> Result<()> {
        let session = Session::begin(self.target, self.context, self.host, None).await?;
        let seen = self
            .source
            .store()
            .head(&ObjectName::Session(session.sid()))
            .await;
        self.abort(&session, &same_store()).await;
        match seen {
            Ok(_) => Err(same_store()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What is said where the second repository is the first.
pub fn same_store() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "the second repository is the first one: this is no copy, and what is lost there is lost",
    )
    .hint("give another place; if the addresses differ, they lead to the same one")
}

/// Where nothing may be written, it cannot be told.
pub(super) fn cannot_tell(job: &crate::context::Context) {
    let text = "both repositories have snapshots of the same names, which copies never have: they are one place, or one was made of the \
         other by another program; a copy that is no dry run finds out";
    job.emit(&Event::Note {
        text: text.to_owned(),
    });
}
