//! The keys of `[[virtual_router]]` that say how it speaks on the wire.

use crate::config::{
    Checksum, Password, Version,
    reader::{At, Given, TableReader},
    scalar,
    schema::AUTHENTICATION,
};

/// Those keys.
#[derive(Debug)]
pub(in crate::config) struct RawWire {
    pub(in crate::config) version: Given<Version>,
    pub(in crate::config) authentication: Given<RawAuthentication>,
    pub(in crate::config) checksum: Given<Checksum>,
    pub(in crate::config) ttl: Given<u8>,
    pub(in crate::config) min_ttl: Given<u8>,
}

/// `authentication` of a virtual router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RawAuthentication {
    Pass(Password),
    Ah(Password),
}

pub(super) fn wire(table: &mut TableReader<'_>) -> RawWire {
    let versions = |value: &toml::de::DeValue<'_>| {
        scalar::integer::<u8>(2..=3)(value).map(|version| match version {
            2 => Version::V2,
            _ => Version::V3,
        })
    };
    let checksums = [
        ("rfc5798", Checksum::Rfc5798),
        ("rfc9568", Checksum::Rfc9568),
    ];
    RawWire {
        version: table.get("version", versions),
        authentication: authentication(table.table("authentication", &AUTHENTICATION)),
        checksum: table.get("checksum", scalar::choice(&checksums)),
        ttl: table.get("ttl", scalar::integer(1..=255)),
        min_ttl: table.get("min_ttl", scalar::integer(1..=255)),
    }
}

fn authentication(mut table: TableReader<'_>) -> Given<RawAuthentication> {
    if !table.is_given() {
        // One that is no table has been recorded, and there is nothing to be said of its keys.
        return Given::Absent;
    }
    type Kind = fn(Password) -> RawAuthentication;
    let kinds: [(&str, Kind); 2] = [
        ("pass", RawAuthentication::Pass),
        ("ah", RawAuthentication::Ah),
    ];
    let kind = table.require("type", scalar::choice(&kinds));
    let password = table.require("password", scalar::wire::password);
    match (kind.value(), password.value()) {
        (Some(kind), Some(password)) => Given::Value(At {
            value: kind(password),
            span: table.span.clone(),
        }),
        _ => Given::Bad,
    }
}
