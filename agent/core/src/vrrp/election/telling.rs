//! What is told of peers and of mistakes in the set-up, at a bounded rate.
//!
//! Adverts can be forged, each from another source: without a bound they would fill the log and
//! push out of the history what matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    time::Instant,
    vrrp::peers::{Diagnosis, Mistake},
};

/// So many peers can appear at once and be told.
const PEERS_AT_ONCE: u8 = 4;

/// After those, one in this time.
const PEER_GAP: Duration = Duration::from_secs(1);

/// How often one kind of mistake is told.
const MISTAKE_GAP: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(super) struct Telling {
    /// How many appearances may be told now, as of the moment beside it.
    appearances: (u8, Instant),
    /// When each kind of mistake was told last.
    mistakes: BTreeMap<Mistake, Instant>,
    /// The diagnoses that were told and still hold.
    told: BTreeSet<Diagnosis>,
}

impl Telling {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            appearances: (PEERS_AT_ONCE, now),
            mistakes: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Whether to tell that a peer appeared.
    pub(super) fn appearance(&mut self, now: Instant) -> bool {
        let (mut left, mut since) = self.appearances;
        while left < PEERS_AT_ONCE && now.since(since) >= PEER_GAP {
            left += 1;
            since = since + PEER_GAP;
        }
        // With all left, time saved up counts for nothing.
        if left == PEERS_AT_ONCE {
            since = now;
        }
        self.appearances = (left.saturating_sub(1), since);
        left > 0
    }

    /// Whether to tell of a mistake of this kind.
    pub(super) fn mistake(&mut self, mistake: Mistake, now: Instant) -> bool {
        let known = self.mistakes.get(&mistake);
        let tell = known.is_none_or(|told| now.since(*told) >= MISTAKE_GAP);
        if tell {
            self.mistakes.insert(mistake, now);
        }
        tell
    }

    /// What of `diagnoses` to tell: each once while it holds. What has to wait for its turn is told
    /// later, if it still holds then.
    pub(super) fn diagnoses(
        &mut self,
        diagnoses: BTreeSet<Diagnosis>,
        now: Instant,
    ) -> Vec<String> {
        self.told.retain(|told| diagnoses.contains(told));
        let mut news = Vec::new();
        for diagnosis in diagnoses {
            if !self.told.contains(&diagnosis) && self.mistake(diagnosis.mistake, now) {
                news.push(diagnosis.what.clone());
                self.told.insert(diagnosis);
            }
        }
        news
    }
}
