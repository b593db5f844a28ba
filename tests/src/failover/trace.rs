//! What a client saw: which of its datagrams were answered, when, and by which node. Pure, so that
//! what is made of it can be tested.

use std::time::{Duration, Instant};

use crate::node::NodeId;

/// The time between two datagrams.
pub const PERIOD: Duration = Duration::from_millis(1);

/// For how long a node has to be the only one that answers, without a pause, to be called steady.
pub const STEADY: Duration = Duration::from_millis(300);

/// The longest pause of a steady node.
const PAUSE: Duration = Duration::from_millis(50);

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// To which datagram.
    pub number: usize,
    /// Whose it is.
    pub node: NodeId,
}

/// An outage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    /// The longest time in which a datagram was sent and nothing came back, in milliseconds.
    pub ms: f64,
    /// Datagrams without an answer.
    pub lost: u64,
}

/// Why there is no figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It was dead before anything was done to it.
    #[error("the virtual address did not answer before the event")]
    DeadBefore,
    /// It never came back.
    #[error("the virtual address does not answer after the event")]
    DeadAfter,
}

/// All that a client sent and what came back, in the order of its coming.
#[derive(Debug, Default)]
pub struct Trace {
    sent: Vec<Instant>,
    answers: Vec<Answer>,
}

impl Trace {
    /// A datagram leaves now; its number.
    pub fn send(&mut self, now: Instant) -> usize {
        self.sent.push(now);
        self.sent.len() - 1
    }

    /// An answer came.
    pub fn answered(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    /// The first answer after `since`.
    #[must_use]
    pub fn first(&self, since: Instant) -> Option<Answer> {
        let first = self.answers.partition_point(|answer| answer.at <= since);
        self.answers.get(first).copied()
    }

    /// The last answer.
    #[must_use]
    pub fn last(&self) -> Option<Answer> {
        self.answers.last().copied()
    }

    /// Whether `node`, and no other, has answered all the time, for [`STEADY`] of the time since
    /// `since`.
    #[must_use]
    pub fn is_steady(&self, node: NodeId, since: Instant, now: Instant) -> bool {
        let Some(from) = now.checked_sub(STEADY).filter(|&from| from >= since) else {
            return false;
        };
        let upto = |time| self.answers.partition_point(|answer| answer.at <= time);
        let mut last = from;
        for answer in &self.answers[upto(from)..upto(now)] {
            if answer.node != node || answer.at - last > PAUSE {
                return false;
            }
            last = answer.at;
        }
        now.saturating_duration_since(last) <= PAUSE
    }

    /// The longest time that the client waited from `event` on, and what was sent since and not
    /// answered. Of the last datagrams, sent after `until`, nothing is known yet.
    ///
    /// It waits from when it sent the datagram after the last one that was answered, until the next
    /// answer of all. So it is no outage if the machine gives the client itself no turn.
    ///
    /// # Errors
    ///
    /// Nothing answered right before the event, or nothing does after it.
    pub fn outage(&self, event: Instant, until: Instant) -> Result<Outage, Fault> {
        let after = self.answers.partition_point(|answer| answer.at <= event);
        let before = self.answers[..after].last();
        let before = before.filter(|answer| event - answer.at <= PAUSE);
        let mut last = *before.ok_or(Fault::DeadBefore)?;
        let mut longest = Duration::ZERO;
        for answer in &self.answers[after..] {
            let waited_since = self.sent.get(last.number + 1).copied().unwrap_or(answer.at);
            longest = longest.max(answer.at.saturating_duration_since(waited_since));
            // An answer that overtook others is the one to go on from.
            let number = last.number.max(answer.number);
            last = Answer { number, ..*answer };
        }
        let last = last.at;
        if after == self.answers.len() || until.saturating_duration_since(last) > PAUSE {
            return Err(Fault::DeadAfter);
        }
        let numbers = self.sent.partition_point(|&sent| sent <= event)
            ..self.sent.partition_point(|&sent| sent <= until);
        let mut answered = vec![false; numbers.len()];
        for answer in &self.answers[after..] {
            if numbers.contains(&answer.number) {
                answered[answer.number - numbers.start] = true;
            }
        }
        Ok(Outage {
            ms: longest.as_secs_f64() * 1e3,
            lost: answered.iter().filter(|&&answered| !answered).count() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that sends each millisecond and is answered after half of one, by who is in charge
    /// of that millisecond.
    fn trace(start: Instant, span: u64, by: impl Fn(u64) -> Option<NodeId>) -> Trace {
        let mut trace = Trace::default();
        for ms in 0..span {
            let sent = start + Duration::from_millis(ms);
            let number = trace.send(sent);
            if let Some(node) = by(ms) {
                let at = sent + Duration::from_micros(500);
                trace.answered(Answer { at, number, node });
            }
        }
        trace
    }

    fn failover(ms: u64) -> Option<NodeId> {
        match ms {
            ..1000 => Some(NodeId::Primary),
            1000..1300 => None,
            _ => Some(NodeId::Backup),
        }
    }

    #[test]
    fn an_outage_is_the_time_without_an_answer_and_what_was_lost_in_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let trace = trace(start, 2000, failover);
        let outage = trace.outage(at(999), at(1990)).unwrap();
        assert_eq!((outage.ms, outage.lost), (300.5, 300));
        // What was before the event is none of it.
        let outage = trace.outage(at(1500), at(1990)).unwrap();
        assert_eq!((outage.ms, outage.lost), (0.5, 0));
    }

    #[test]
    fn a_client_that_has_no_turn_is_no_outage() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut trace = Trace::default();
        // It sends at 0, at 1, and 7 ms later; the second answer takes 3 ms.
        for (sent, came) in [(0, 0), (1, 4), (8, 8)] {
            let number = trace.send(at(sent));
            let node = NodeId::Primary;
            trace.answered(Answer {
                at: at(came) + Duration::from_micros(100),
                number,
                node,
            });
        }
        let outage = trace
            .outage(at(0) + Duration::from_micros(500), at(9))
            .unwrap();
        assert_eq!((outage.ms, outage.lost), (3.1, 0));
    }

    #[test]
    fn what_never_answered_is_a_fault_and_no_figure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let dies = trace(start, 2000, |ms| (ms < 1000).then_some(NodeId::Primary));
        assert_eq!(dies.outage(at(999), at(1990)), Err(Fault::DeadAfter));
        assert_eq!(dies.outage(at(1500), at(1990)), Err(Fault::DeadBefore));
        let born = trace(start, 2000, |ms| (ms > 1000).then_some(NodeId::Primary));
        assert_eq!(born.outage(at(500), at(1990)), Err(Fault::DeadBefore));
        assert_eq!(born.first(at(500)).unwrap().number, 1001);
        assert_eq!(born.first(at(1999)).map(|answer| answer.number), Some(1999));
        assert_eq!(born.first(at(2000)), None);
        assert_eq!(
            Trace::default().outage(at(0), at(1)),
            Err(Fault::DeadBefore)
        );
        // It came back, and went again.
        let flaps = trace(start, 2000, |ms| {
            (ms < 1000 || (1300..1400).contains(&ms)).then_some(NodeId::Primary)
        });
        assert_eq!(flaps.outage(at(999), at(1990)), Err(Fault::DeadAfter));
    }

    #[test]
    fn steady_is_one_node_alone_and_without_a_pause() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let moved = trace(start, 2000, failover);
        let steady = |now, node| moved.is_steady(node, at(100), at(now));
        assert!(steady(900, NodeId::Primary));
        assert!(!steady(300, NodeId::Primary), "not for long enough");
        assert!(!steady(900, NodeId::Backup));
        assert!(!steady(1100, NodeId::Primary), "silent");
        assert!(!steady(1400, NodeId::Backup), "there was a pause");
        assert!(steady(1700, NodeId::Backup));
        let both = trace(start, 2000, |ms| {
            Some(if ms % 100 == 0 {
                NodeId::Backup
            } else {
                NodeId::Primary
            })
        });
        assert!(!both.is_steady(NodeId::Primary, at(0), at(1900)));
    }
}
