//! How virtual routers speak on the wire: which keys fit each other.

use std::{ops::Range, time::Duration};

use crate::config::{
    Authentication, Checksum, Version, Wire,
    error::Mistake,
    raw::{RawAuthentication, RawVirtualRouter},
};

/// The wire format of a virtual router whose addresses are of this family, as far as known.
pub(super) fn wire(
    raw: &RawVirtualRouter,
    ipv6: Option<bool>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Wire> {
    let keys = &raw.wire;
    let mut mistake = |span: &Range<usize>, message: &str, help: &str| {
        mistakes.push(Mistake::new(span, message).help(help));
    };
    let version = keys.version.or(Version::V3);
    if let (Some(Version::V2), Some(at)) = (version, keys.version.at())
        && ipv6 == Some(true)
    {
        mistake(
            &at.span,
            "VRRPv2 is for IPv4 only (RFC 3768)",
            "use version 3 for IPv6 addresses, which is the default",
        );
    }
    if let (Some(Version::V3), Some(at)) = (version, keys.authentication.at()) {
        mistake(
            &at.span,
            "VRRPv3 has no authentication (RFC 9568, 9)",
            "remove `authentication`, or set `version = 2` on all nodes",
        );
    }
    if let Some(at) = keys.checksum.at() {
        let help = "remove it: only version 3 over IPv4 knows two checksums";
        if version == Some(Version::V2) {
            mistake(&at.span, "`checksum` means nothing to VRRPv2", help);
        } else if ipv6 == Some(true) {
            mistake(&at.span, "`checksum` means nothing over IPv6", help);
        }
    }
    let multicast = raw.peers.whole && raw.peers.items.is_empty();
    for (key, at) in [("ttl", keys.ttl.at()), ("min_ttl", keys.min_ttl.at())] {
        if let Some(at) = at.filter(|_| multicast) {
            mistake(
                &at.span,
                &format!(
                    "`{key}` means nothing without `peers`: multicast adverts always have 255"
                ),
                "remove it, or list the other nodes in `peers`",
            );
        }
    }
    if let (Some(Version::V2), Some(at)) = (version, raw.advert_interval.at())
        && !is_whole_seconds(at.value)
    {
        mistake(
            &at.span,
            "`advert_interval` must be a multiple of 1s with version 2",
            "VRRPv2 counts in seconds; version 3 in hundredths of them",
        );
    }
    let authentication = match keys.authentication.optional()? {
        None => Authentication::None,
        Some(RawAuthentication::Pass(password)) => Authentication::Pass(password),
        Some(RawAuthentication::Ah(password)) => Authentication::Ah(password),
    };
    Some(Wire {
        version: version?,
        authentication,
        checksum: keys.checksum.or(Checksum::Rfc5798)?,
        ttl: keys.ttl.or(255)?,
        min_ttl: keys.min_ttl.or(255)?,
    })
}

fn is_whole_seconds(interval: Duration) -> bool {
    interval.subsec_nanos() == 0
}
