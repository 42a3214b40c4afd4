//! Comparing replicas: what most members have is right, the others fetch a copy of it.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{Error, Result};
use futures::future::join_all;

use super::machine::Halt;
use super::types::{Reply, Request};
use super::{ANSWER, Db};

/// Rounds in which members are asked until they stand at the same entry.
const ROUNDS: u32 = 10;

/// The entry that a replica stands at, and the hash of what it holds.
type Content = (u64, String);

impl Db {
    /// Compares the replicas of all members that can be reached. Those that differ from most of the others at the
    /// same entry are named, and replaced by a copy; if there are as many of the one as of the other kind, the
    /// leader is right. Cheap enough to be called now and then.
    pub async fn check(&self) -> Result<Vec<u64>> {
        for round in 0..ROUNDS {
            let contents = self.contents().await?;
            let same_entry = contents.values().all(|c| contents.values().next().is_some_and(|first| first.0 == c.0));
            if same_entry || round + 1 == ROUNDS {
                return self.set_right(&contents).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Vec::new())
    }

    async fn contents(&self) -> Result<BTreeMap<u64, Content>> {
        let status = self.status();
        let own = (status.id, self.content_hash().await?);
        let others = status.voters.iter().chain(&status.learners).filter(|id| **id != status.id);
        let answers = join_all(others.map(|id| async { (*id, self.post.ask(*id, Request::Hash, ANSWER).await) })).await;
        let answers = answers.into_iter().filter_map(|(id, answer)| match answer {
            Ok(Reply::Hash { index, hash }) => Some((id, (index, hash))),
            _ => None,
        });
        Ok(answers.chain([own]).collect())
    }

    async fn set_right(&self, contents: &BTreeMap<u64, Content>) -> Result<Vec<u64>> {
        let leader = self.leader();
        let alike = |content: &Content| contents.values().filter(|c| *c == content).count();
        let weight = |id: &u64, content: &Content| (alike(content), leader == Some(*id));
        let Some((source, right)) = contents.iter().max_by_key(|(id, content)| weight(id, content)) else {
            return Ok(Vec::new());
        };
        let wrong = contents.iter().filter(|(_, (index, hash))| *index == right.0 && *hash != right.1);
        let mut wrong: Vec<u64> = wrong.map(|(id, _)| *id).collect();
        wrong.sort_unstable();
        for id in &wrong {
            tracing::error!("the database of member {id} differs from that of most others, as of member {source}");
            if *id == self.options.id {
                self.needs_copy_of(*source);
            } else {
                self.post.ask(*id, Request::Repair { source: *source }, ANSWER).await?;
            }
        }
        Ok(wrong)
    }

    /// This replica is wrong and is to be replaced.
    pub(super) fn needs_copy_of(&self, source: u64) {
        let why =
            format!("The database of this member differs from the others and waits for a copy of member {source}");
        self.machine.halt(Halt { differs: true, why, source: Some(source), version: None });
    }

    /// On the leader: another member's changes do not fit here. Fine if it is the other who is wrong.
    pub(super) async fn doubt(&self) -> Result<Reply> {
        if self.check().await?.contains(&self.options.id) {
            return Err(Error::unavailable("The leader's database differs from the others and is being replaced"));
        }
        Ok(Reply::Differs)
    }
}
