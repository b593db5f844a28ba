//! What differs between the virtual routers of a sync group: configuration, address, peers.
//!
//! Nodes must agree who wins where priorities are equal. The address decides, but a node has one for
//! each family and link, and the greater IPv4 address may be that of the smaller IPv6 address. So the
//! first member decides for all. `in_order` sorts them by what is the same on every node.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{Effect, Election, state::Master, telling::Telling};
use crate::{
    api::human_duration,
    channel::book::Word,
    config::{Name, VirtualRouter},
    time::Instant,
    vrrp::{
        peers::{self, Diagnosis, Mistake, Observed, Peers},
        wire::{Advert, Mismatch},
    },
};

/// So many adverts that come from this node's own address, and are not its own, prove that another
/// has it: fewer may be late ones from a loop.
const STRANGE_ECHOES: u8 = 3;

/// How long such an advert is remembered.
const TWIN_MEMORY: Duration = Duration::from_secs(60);

/// A virtual router, as far as it is not its group's.
#[derive(Debug, Clone)]
pub struct Member {
    pub(super) config: VirtualRouter,
    pub(super) source: Option<IpAddr>,
    /// Who sent the last advert that was no resignation while this node was not master.
    pub(super) master: Option<IpAddr>,
    /// The master whose adverts keep the timer from firing, and when the last one came.
    pub(super) follows: Option<(IpAddr, Instant)>,
    pub(super) peers: Peers,
    pub(super) telling: Telling,
    /// Adverts of others heard while this node was master.
    rivals: u64,
    /// Claims of the addresses by other hosts.
    claims: u64,
    /// How many adverts another sent from this node's address of late, and when the last came.
    twin: Option<(u8, Instant)>,
    /// A living peer's word that it is master and serves.
    pub(super) vouched: Option<Word>,
    /// Who ordered this node to take over, and until when its adverts of before may still come.
    pub(super) taken_from: Option<(IpAddr, Instant)>,
    /// Its successor was asked and has not answered.
    pub(super) asks: bool,
}

impl Member {
    fn new(config: VirtualRouter, now: Instant) -> Self {
        Self {
            source: config.source,
            config,
            master: None,
            follows: None,
            peers: Peers::default(),
            telling: Telling::new(now),
            rivals: 0,
            claims: 0,
            twin: None,
            vouched: None,
            taken_from: None,
            asks: false,
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &VirtualRouter {
        &self.config
    }

    /// The address of this node's adverts, as far as known.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The address of this node's adverts became known, or was lost.
    pub fn set_source(&mut self, source: Option<IpAddr>) {
        self.source = source;
    }

    /// The master, where it is a peer that is heard.
    #[must_use]
    pub fn master(&self, now: Instant) -> Option<IpAddr> {
        self.heard_master(now).map(|(address, _)| address)
    }

    pub(super) fn heard_master(&self, now: Instant) -> Option<(IpAddr, Duration)> {
        let address = self.master?;
        let peer = self.peers.get(address)?;
        let heard = !peer.silent && now.since(peer.heard) <= peer.interval * 4;
        heard.then_some((address, peer.interval))
    }

    /// The peers whose packets are taken for forwarded ones, and when to ask again; see
    /// [`Peers::forwarders`].
    #[must_use]
    pub fn forwarders(&self, now: Instant) -> (BTreeSet<IpAddr>, Option<Instant>) {
        self.peers.forwarders(&self.config, now)
    }

    /// Whether an advert from `source` counts; see [`peers::is_admitted`].
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        peers::is_admitted(&self.config, source)
    }

    /// Whom it heard.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Adverts of other masters that were heard while this node was master.
    #[must_use]
    pub fn rivals(&self) -> u64 {
        self.rivals
    }

    /// How often another host claimed an address while this node was master.
    #[must_use]
    pub fn claims(&self) -> u64 {
        self.claims
    }

    /// What is wrong with the set-up, each with what to change.
    #[must_use]
    pub fn diagnoses(&self, now: Instant) -> BTreeSet<Diagnosis> {
        let mut found = self.peers.diagnoses(&self.config);
        let twin = |(echoes, last): &(u8, Instant)| {
            *echoes >= STRANGE_ECHOES && now.since(*last) < TWIN_MEMORY
        };
        if let (Some(source), Some(_)) = (self.source, self.twin.filter(twin)) {
            found.insert(Diagnosis {
                mistake: Mistake::SameAddress,
                what: format!(
                    "another node sends adverts from {source}, the address of this one: give each \
                     node an address of its own"
                ),
            });
        }
        found
    }

    /// The advert to send now.
    #[must_use]
    pub fn advert(&self, priority: u8) -> Advert {
        let centiseconds = self.config.advert_interval.as_millis() / 10;
        Advert {
            vrid: self.config.vrid,
            priority,
            interval_cs: u16::try_from(centiseconds).unwrap_or(u16::MAX),
            addresses: self.config.addresses.iter().map(|net| net.addr()).collect(),
        }
    }

    /// Works by a new configuration.
    pub(super) fn reconfigure(&mut self, config: VirtualRouter) {
        if config.source != self.config.source {
            self.source = config.source;
        }
        self.config = config;
        self.peers.reconfigure(&self.config);
        if self.master.is_some_and(|master| !self.admits(master)) {
            self.master = None;
        }
        self.follows = self.follows.filter(|(master, _)| self.admits(*master));
    }

    /// Takes note of an advert; whether it concerns the election.
    fn observe(
        &mut self,
        source: IpAddr,
        advert: &Advert,
        rules: bool,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if Some(source) == self.source || !self.admits(source) {
            return false;
        }
        let observed = self.peers.observe(&self.config, source, advert, now);
        self.tell_diagnoses(now, effects);
        match observed {
            Observed::Foreign => return false,
            Observed::Appeared if self.telling.appearance(now) => {
                effects.push(Effect::Peer {
                    router: self.config.name.clone(),
                    address: source,
                    alive: true,
                });
            }
            Observed::Appeared | Observed::Known | Observed::Crowd => {}
        }
        match advert.priority {
            0 if self.master == Some(source) => self.master = None,
            1.. if !rules => self.master = Some(source),
            _ => {}
        }
        true
    }

    fn tell_diagnoses(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let diagnoses = self.diagnoses(now);
        for what in self.telling.diagnoses(diagnoses, now) {
            effects.push(self.misconfigured(what));
        }
    }

    pub(super) fn misconfigured(&self, what: String) -> Effect {
        Effect::Misconfigured {
            router: self.config.name.clone(),
            what,
        }
    }

    pub(super) fn notes_claim(&mut self) {
        self.claims += 1;
    }
}

/// The members of a group, in an order that is the same on every node.
pub(super) fn in_order(routers: impl Iterator<Item = VirtualRouter>, now: Instant) -> Vec<Member> {
    let mut members: Vec<Member> = routers.map(|router| Member::new(router, now)).collect();
    sort(&mut members);
    members
}

pub(super) fn sort(members: &mut [Member]) {
    members.sort_by_cached_key(|member| {
        let config = &member.config;
        (config.is_ipv6(), config.vrid, config.addresses.clone())
    });
}

impl Election {
    /// The member that decides between equals.
    pub(super) fn lead(&self) -> &Member {
        // There is one: `Election::new` and `regroup` put it there.
        &self.members[0]
    }

    /// The interval, rules and so on that all members have.
    pub(super) fn settings(&self) -> &VirtualRouter {
        &self.lead().config
    }

    pub(super) fn is_owner(&self) -> bool {
        self.priority() == super::OWNER
    }

    /// Takes note of an advert that was refused because it is sent in another way.
    pub fn refuse(&mut self, router: &Name, source: IpAddr, mismatch: Mismatch, now: Instant) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(member) = self.member_mut(router).filter(|one| one.admits(source)) {
            member.peers.refuse(source, mismatch);
            member.tell_diagnoses(now, &mut effects);
        }
        self.effects = effects;
    }

    /// Takes note of an advert; whether it concerns the election.
    pub(super) fn observe(
        &mut self,
        router: &Name,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> bool {
        let rules = self.role == super::Role::Master;
        let mut effects = std::mem::take(&mut self.effects);
        let concerns = self
            .member_mut(router)
            .is_some_and(|member| member.observe(source, advert, rules, now, &mut effects));
        self.effects = effects;
        if concerns && advert.priority > 0 && !rules {
            self.release_stale();
        }
        concerns
    }

    /// An advert from this node's own address. A network that loops brings back each that was sent,
    /// soon; what is otherwise, or comes when none was sent, is another's.
    pub(super) fn hears_itself(&mut self, router: &Name, advert: &Advert, now: Instant) {
        let soon = self.settings().advert_interval / 4;
        let sent = self.sent.is_some_and(|at| now.since(at) <= soon);
        let priority = self.priority();
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(member) = self.member_mut(router)
            && !(sent && (advert.priority == 0 || *advert == member.advert(priority)))
        {
            let before = member.twin.filter(|(_, at)| now.since(*at) < TWIN_MEMORY);
            let echoes = before.map_or(0, |(echoes, _)| echoes);
            member.twin = Some((echoes.saturating_add(1), now));
            member.tell_diagnoses(now, &mut effects);
        }
        self.effects = effects;
    }

    /// Notes, and tells once a minute, that another master is heard while this node is.
    pub(super) fn notes_rival(
        &mut self,
        router: &Name,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) {
        // The last advert of the master before may still have been on its way.
        let settled = now.since(self.since) > self.settings().advert_interval;
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(member) = self.member_mut(router) {
            member.rivals += 1;
            if settled && member.telling.mistake(Mistake::Rival, now) {
                let what = format!(
                    "{source} is master too, with priority {} ({} such adverts so far): the \
                     protocol settles that; if it goes on, see why that node does not hear this one",
                    advert.priority, member.rivals
                );
                effects.push(member.misconfigured(what));
            }
        }
        self.effects = effects;
    }

    /// Whether a master with this node's priority wins, heard for `router`.
    ///
    /// The first member decides. Where it is not heard of although another is, for longer than a
    /// master takes to be heard, that one decides: else there would be two masters for ever.
    pub(super) fn loses_tie(
        &self,
        master: &mut Master,
        router: &Name,
        source: IpAddr,
        now: Instant,
    ) -> bool {
        let wait = self.reclaim_wait();
        if self.lead().config.name == *router {
            master.tie = None;
        } else {
            let lasting = |(_, last): &(Instant, Instant)| now.since(*last) <= wait * 2;
            let (since, _) = master.tie.filter(lasting).unwrap_or((now, now));
            master.tie = Some((since, now));
            if now.since(since) < wait {
                return false;
            }
        }
        let own = self.member(router).and_then(|member| member.source);
        own.is_none_or(|own| source > own)
    }

    pub(super) fn heard_master(&self, now: Instant) -> Option<(IpAddr, Duration)> {
        self.members
            .iter()
            .find_map(|member| member.heard_master(now))
    }

    pub(super) fn any_heard(&self) -> bool {
        self.members.iter().any(|member| member.peers.any_heard())
    }

    /// Whom it follows, and when that was heard last; of several members the latest.
    pub(super) fn followed(&self) -> Option<(IpAddr, Instant)> {
        let follows = self.members.iter().filter_map(|member| member.follows);
        follows.max_by_key(|(_, heard)| *heard)
    }

    /// Follows `source`, and nobody else, until more is heard.
    pub(super) fn follows_only(&mut self, follows: Option<(&Name, IpAddr)>, now: Instant) {
        for member in &mut self.members {
            member.follows = follows
                .filter(|(router, _)| **router == member.config.name)
                .map(|(_, source)| (source, now));
        }
    }

    /// How long a rightful master takes to be heard.
    pub(super) fn reclaim_wait(&self) -> Duration {
        self.settings().advert_interval * 3 / 2
    }

    pub(super) fn waited(&self, now: Instant) -> String {
        human_duration(now.since(self.since))
    }
}
