//! Which entry a new session gets.
//!
//! In this order: a free one; one whose backend is gone; one without a packet for longer than its
//! timeout, the longest first; one that was never established, the oldest first. So a flood of SYNs
//! or datagrams in others' names takes no port from who is served, and none for long from who
//! arrives; what is established keeps its port until its time is over. Only if the first two sets
//! have nothing but the last kind, the other two are asked for better.

use super::{session, sets::Sets};
use crate::{
    abi::{Control, NatTimeouts, Session},
    event::Event,
    flow::{self, Set6, State, WAYS},
    repeat::{Step, repeat},
    shared::Shared,
    steer::{Tables, usable},
};

/// Claims an entry of four sets. Returns its place; `None`: there is none that can be spared.
#[inline(always)]
pub(super) fn claim<T: Tables>(
    tables: &T,
    control: &Control,
    near: &Sets,
    far: &Sets,
) -> Option<u32> {
    let here = Search::of(tables, control, near)?;
    if here.best() >= OVER {
        return here.claim(near);
    }
    let there = Search::of(tables, control, far)?;
    let place = if there.best() > here.best() {
        there.claim(far)?
    } else {
        here.claim(near)?
    };
    if here.best() < OVER && there.best() < OVER {
        tables.event(Event::NatEvicted);
    }
    Some(place)
}

const LAST_WAY: u32 = WAYS as u32 - 1;

/// The way in a word of [`Search`]'s best.
#[inline(always)]
const fn way(best: u64) -> u32 {
    LAST_WAY - best as u32 % WAYS as u32
}

/// Looks for the entry of each of two sets that may be taken first: a way a round.
struct Search<'t, T> {
    tables: &'t T,
    timeouts: &'t [Shared; 2],
    first: &'t Set6,
    second: &'t Set6,
    now: u32,
    way: u32,
    /// How many of the set are free in bits 32 and up; below, how well the one can be spared that
    /// can be spared best, and its way, the last one 0: of equals the first is found fastest. The
    /// greater the word, the better.
    best_first: u64,
    best_second: u64,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.best_first = self.better(self.best_first, self.first);
        self.best_second = self.better(self.best_second, self.second);
        self.way += 1;
        true
    }
}

impl<'t, T: Tables> Search<'t, T> {
    #[inline(always)]
    fn of(tables: &'t T, control: &'t Control, sets: &Sets) -> Option<Self> {
        let now = flow::seen(tables.jiffies());
        let mut search = Self {
            tables,
            timeouts: &control.nat_timeouts,
            first: tables.nat(sets.first)?,
            second: tables.nat(sets.second)?,
            now,
            // Any way is as good to begin with; one that the verifier does not know it follows once.
            way: now,
            best_first: 0,
            best_second: 0,
        };
        repeat(WAYS as u32, &mut search);
        Some(search)
    }

    /// How well the best entry can be spared.
    #[inline(always)]
    fn best(&self) -> u32 {
        let (first, second) = (self.best_first as u32, self.best_second as u32);
        (if second > first { second } else { first }) / WAYS as u32
    }

    /// Claims the best entry. Returns its place.
    #[inline(always)]
    fn claim(&self, sets: &Sets) -> Option<u32> {
        let of_first = sets.first * WAYS as u32 + way(self.best_first);
        let of_second = sets.second * WAYS as u32 + way(self.best_second);
        let (one, other) = if self.best_second > self.best_first {
            (of_second, of_first)
        } else {
            (of_first, of_second)
        };
        // Another CPU may be faster once.
        if self.take(one) {
            Some(one)
        } else if self.take(other) {
            Some(other)
        } else {
            None
        }
    }

    #[inline(always)]
    fn better(&self, best: u64, set: &Set6) -> u64 {
        let way = self.way % WAYS as u32;
        let spare = self.spare(set.0[way as usize].value.load()) as u64;
        let one = (spare * WAYS as u64) | (LAST_WAY - way) as u64;
        let rest = best & 0xffff_ffff;
        let free = (best >> 32) + (spare >> FREE_BIT);
        free << 32 | if one > rest { one } else { rest }
    }

    /// Takes the entry at a place, if it can be spared still.
    #[inline(always)]
    fn take(&self, place: u32) -> bool {
        let Some(entry) = session::entry(self.tables, place) else {
            return false;
        };
        let word = entry.value.load();
        let claim = Session::claim(self.now);
        self.spare(word) != 0 && entry.value.compare_exchange(word, claim) == word
    }

    /// How well the entry of this word can be spared; 0: not at all.
    #[inline(always)]
    fn spare(&self, word: u64) -> u32 {
        if Session::is_free(word) {
            return 1 << FREE_BIT;
        }
        let age = flow::age(self.now, word as u32);
        let Some(session) = Session::unpack(word, Session::tag(word)) else {
            // A claim: its CPU is at it, and done long before the clock moved twice.
            return if age > 1 { OVER + age } else { 0 };
        };
        match usable(self.tables, session.value.backend) {
            Some((_, state)) if state.alive && state.generation == session.value.generation => {}
            _ => return GONE,
        }
        let [first, second] = self.timeouts;
        let timeouts = NatTimeouts::unpack([first.load(), second.load()]);
        let timeout = match (session.udp, session.state()) {
            (_, State::Closing) => timeouts.tcp_closing as u32,
            (false, State::New) => timeouts.tcp_new,
            (false, State::Established) => timeouts.tcp_established,
            (true, State::New) => timeouts.udp_new as u32,
            (true, State::Established) => timeouts.udp_established,
        };
        if age > timeout {
            OVER + age - timeout
        } else if session.was_established() {
            0
        } else {
            1 + age
        }
    }
}

/// Better than any age, which are 20 bits.
const OVER: u32 = 1 << 21;
/// Better than any time that is over.
const GONE: u32 = 1 << 22;
const FREE_BIT: u32 = 23;
