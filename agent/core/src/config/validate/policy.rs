//! How the flows of a service are spread and limited.

use std::collections::HashSet;

use ipnet::IpNet;

use super::family;
use crate::config::{
    Affinity, Policy, Protocol, Scheduler, Sources, SynRate,
    error::Mistake,
    raw::{AffinityWord, RawService},
    reader::{At, Given, List},
};

/// The prefixes of affinity "source-prefix": what one household or office has of each family.
const PREFIX4: u8 = 24;
const PREFIX6: u8 = 64;

/// The policy of a service.
pub(super) fn policy(raw: &RawService, mistakes: &mut Vec<Mistake>) -> Option<Policy> {
    let ipv6 = raw.address.value().map(|address| address.is_ipv6());
    protocol(raw, mistakes);
    scheduler(raw, mistakes);
    let affinity = affinity(raw, ipv6, mistakes);
    sources(raw, ipv6, mistakes);
    if let (Given::Absent, Given::Value(burst)) = (&raw.syn_rate, &raw.syn_burst) {
        let mistake = Mistake::new(&burst.span, "`syn_burst` means nothing without `syn_rate`");
        mistakes.push(mistake.help("set `syn_rate` too: new flows a second"));
    }
    let per_second = raw.syn_rate.optional()?;
    let burst = raw.syn_burst.optional()?;
    Some(Policy {
        scheduler: raw.scheduler.or(Scheduler::Maglev)?,
        affinity: affinity?,
        mss: raw.mss.optional()?,
        syn_rate: per_second.map(|per_second| SynRate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
        sources: Sources {
            allow: values(&raw.allow_sources),
            deny: values(&raw.deny_sources),
        },
        quic: raw.quic.or(false)?,
    })
}

/// What only one of the protocols has.
fn protocol(raw: &RawService, mistakes: &mut Vec<Mistake>) {
    match raw.protocol.or(Protocol::Tcp) {
        Some(Protocol::Tcp) => {
            if let Some(quic) = raw.quic.at().filter(|quic| quic.value) {
                let message = "QUIC runs over UDP, but the service's protocol is \"tcp\"";
                mistakes.push(Mistake::new(&quic.span, message).help("set protocol = \"udp\""));
            }
        }
        Some(Protocol::Udp) => {
            if let Given::Value(mss) = &raw.mss {
                let message = "`mss` means nothing to a service of protocol \"udp\"";
                let help = "only TCP agrees on a segment size: remove it";
                mistakes.push(Mistake::new(&mss.span, message).help(help));
            }
        }
        None => {}
    }
}

/// What only some schedulers look at.
fn scheduler(raw: &RawService, mistakes: &mut Vec<Mistake>) {
    let Some(scheduler) = raw.scheduler.value() else {
        return;
    };
    if let Given::Value(affinity) = &raw.affinity
        && affinity.value != AffinityWord::FiveTuple
        && scheduler != Scheduler::Maglev
    {
        let message = format!("affinity by source needs scheduler \"maglev\", not \"{scheduler}\"");
        mistakes.push(Mistake::new(&affinity.span, message).help("remove one of the two"));
    }
    if let Given::Value(size) = &raw.ring_size
        && scheduler == Scheduler::LeastConnections
    {
        let message = format!("`ring_size` means nothing to scheduler \"{scheduler}\"");
        mistakes.push(Mistake::new(&size.span, message).help("remove it, or change the scheduler"));
    }
}

fn affinity(raw: &RawService, ipv6: Option<bool>, mistakes: &mut Vec<Mistake>) -> Option<Affinity> {
    let word = raw.affinity.or(AffinityWord::FiveTuple);
    let prefixes = [
        ("affinity_prefix4", &raw.affinity_prefix4, true),
        ("affinity_prefix6", &raw.affinity_prefix6, false),
    ];
    for (key, prefix, useless_for_ipv6) in prefixes {
        let Given::Value(At { span, .. }) = prefix else {
            continue;
        };
        if word.is_some_and(|word| word != AffinityWord::SourcePrefix) {
            let message = format!("`{key}` means nothing without affinity \"source-prefix\"");
            mistakes.push(Mistake::new(span, message).help("set that affinity, or remove it"));
        } else if let Some(ipv6) = ipv6.filter(|&ipv6| ipv6 == useless_for_ipv6) {
            let message = format!("`{key}` means nothing to an {} service", family(ipv6));
            mistakes.push(Mistake::new(span, message).help("remove it"));
        }
    }
    let prefix4 = raw.affinity_prefix4.or(PREFIX4)?;
    let prefix6 = raw.affinity_prefix6.or(PREFIX6)?;
    Some(match word? {
        AffinityWord::FiveTuple => Affinity::FiveTuple,
        AffinityWord::SourceAddress => Affinity::Source {
            prefix4: 32,
            prefix6: 128,
        },
        AffinityWord::SourcePrefix => Affinity::Source { prefix4, prefix6 },
    })
}

/// Which clients are taken.
fn sources(raw: &RawService, ipv6: Option<bool>, mistakes: &mut Vec<Mistake>) {
    let mut allowed = HashSet::new();
    let mut denied = HashSet::new();
    let lists = [
        ("allow_sources", &raw.allow_sources),
        ("deny_sources", &raw.deny_sources),
    ];
    for (key, list) in lists {
        let is_allow = key == "allow_sources";
        for At { value: net, span } in &list.items {
            let is_ipv6 = net.addr().is_ipv6();
            let seen = if is_allow { &mut allowed } else { &mut denied };
            if let Some(ipv6) = ipv6.filter(|&ipv6| ipv6 != is_ipv6) {
                let message = format!(
                    "{net} is {}, but the service is {}",
                    family(is_ipv6),
                    family(ipv6)
                );
                mistakes.push(Mistake::new(span, message));
            } else if !seen.insert(*net) {
                mistakes.push(Mistake::new(span, format!("{net} is listed twice")));
            } else if !is_allow && allowed.contains(net) {
                let message = format!("{net} is in `allow_sources` too");
                mistakes.push(Mistake::new(span, message).help("remove it from one of the two"));
            }
        }
        if let Some(span) = list
            .span
            .as_ref()
            .filter(|_| is_allow && list.whole && list.items.is_empty())
        {
            let message = "`allow_sources` must not be empty";
            let help = "leave it out to let everybody in";
            mistakes.push(Mistake::new(span, message).help(help));
        }
    }
    let everybody = |at: &&At<IpNet>| at.value.prefix_len() == 0;
    if raw.allow_sources.span.is_none()
        && let Some(at) = raw.deny_sources.items.iter().find(everybody)
    {
        let message = format!("{} in `deny_sources` lets nobody in", at.value);
        let help = "to let only some in, list them in `allow_sources`";
        mistakes.push(Mistake::new(&at.span, message).help(help));
    }
}

fn values(list: &List<IpNet>) -> Vec<IpNet> {
    list.items.iter().map(|at| at.value).collect()
}
