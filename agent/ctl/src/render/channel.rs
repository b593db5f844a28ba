//! The other nodes, as the channel shows them.

use std::time::Duration;

use steerd_core::api::{ChannelStatus, PeerConfig, human_duration};

use super::status::ago;
use crate::table::{Cell, Column, Look, Table, Tone, clean, number};

/// The other nodes on the channel, each a line, with what is wrong below.
pub(super) fn channel(look: Look, channel: &ChannelStatus, now_unix_ms: u64, text: &mut String) {
    let columns = [
        Column::left("PEER"),
        Column::left("CHANNEL"),
        Column::right("SINCE"),
        Column::right("ROUND TRIP"),
        Column::left("VERSION"),
        Column::left("CONFIG"),
        Column::left("ROLES"),
        Column::right("CERTIFICATE"),
    ];
    let mut table = Table::new(look, columns);
    for peer in &channel.peers {
        let (up, tone) = if peer.up {
            ("up", Tone::Good)
        } else {
            ("down", Tone::Bad)
        };
        let trip = peer.round_trip_us.map(Duration::from_micros);
        let config = match &peer.config {
            PeerConfig::Unknown => Cell::new("-"),
            PeerConfig::Same => Cell::toned("same", Tone::Good),
            PeerConfig::Differs(_) => Cell::toned("differs", Tone::Bad),
            PeerConfig::OtherProtocol(_) => Cell::toned("other protocol", Tone::Bad),
        };
        let roles = peer.roles.iter().map(|role| {
            let unable = if role.able { "" } else { ", unable" };
            format!("{} {}{unable}", role.virtual_router, role.role)
        });
        let roles: Vec<String> = roles.collect();
        let expires = peer.certificate_expires_unix_s;
        table.row([
            Cell::new(&peer.name),
            Cell::toned(up, tone),
            Cell::new(ago(peer.since_ms)),
            Cell::or_dash(trip.map(human_duration)),
            Cell::or_dash(peer.version.as_deref()),
            config,
            Cell::or_dash(Some(roles.join("; ")).filter(|roles| !roles.is_empty())),
            Cell::or_dash(expires.map(|at| days(at, now_unix_ms))),
        ]);
    }
    text.push_str(&table.to_string());
    let own = days(channel.certificate_expires_unix_s, now_unix_ms);
    text.push_str(&format!(
        "  listens at {}, own certificate {own}\n",
        channel.listen
    ));
    let mut problem = |what: String| {
        let lead = look.paint("problem", Tone::Bad);
        text.push_str(&format!("  {lead}    {}\n", clean(&what)));
    };
    for peer in &channel.peers {
        let name = &peer.name;
        if let Some(error) = &peer.error {
            problem(format!("{name} at {}: {error}", peer.address));
        }
        match &peer.config {
            PeerConfig::Differs(parts) => problem(format!(
                "the configuration of {name} differs in: {}; make these the same on all nodes",
                parts.join(", ")
            )),
            PeerConfig::OtherProtocol(version) => problem(format!(
                "{name} speaks version {version} of the channel's protocol: run the same version of \
                 steerd on both"
            )),
            PeerConfig::Unknown | PeerConfig::Same => {}
        }
    }
    channel.warnings.iter().cloned().for_each(&mut problem);
    for peer in &channel.peers {
        for view in &peer.views {
            text.push_str(&format!(
                "  {} sees {}/{} {}, for {}\n",
                clean(peer.name.as_str()),
                clean(view.service.as_str()),
                clean(view.backend.as_str()),
                clean(&view.state),
                ago(view.since_ms)
            ));
        }
    }
    if !channel.refused.is_empty() {
        let counts = channel.refused.iter();
        let counts =
            counts.map(|refused| format!("{} {}", clean(&refused.cause), number(refused.times)));
        text.push_str(&look.list("  refused    ", counts));
    }
}

/// How many days are left until a moment, in seconds since the epoch.
fn days(at_unix_s: i64, now_unix_ms: u64) -> String {
    let now = i64::try_from(now_unix_ms / 1000).unwrap_or(i64::MAX);
    match at_unix_s.saturating_sub(now) {
        ..=0 => "expired".to_owned(),
        left => format!("{} days", left / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn peers_on_the_channel() {
        let mut text = String::new();
        let sample = samples::channel();
        channel(Look::default(), &sample, samples::NOW_UNIX_MS, &mut text);
        samples::documented(&text);
    }
}
