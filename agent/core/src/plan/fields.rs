//! What differs between two values of a configuration, in the words of the file.

use std::{collections::BTreeSet, fmt, time::Duration};

use ipnet::IpNet;

use crate::config::{Policy, TrackKind, Wire};

/// The fields that differ, as `field old -> new`.
#[derive(Default)]
pub(super) struct Fields(pub(super) Vec<String>);

impl Fields {
    pub(super) fn shown<T: PartialEq + fmt::Display>(
        mut self,
        field: &str,
        old: &T,
        new: &T,
    ) -> Self {
        if old != new {
            self.0.push(format!("{field} {old} -> {new}"));
        }
        self
    }

    pub(super) fn debug<T: PartialEq + fmt::Debug>(
        mut self,
        field: &str,
        old: &T,
        new: &T,
    ) -> Self {
        if old != new {
            self.0.push(format!("{field} {old:?} -> {new:?}"));
        }
        self
    }

    /// A keyword of the configuration, which is its variant's name in lower case.
    pub(super) fn keyword<T: PartialEq + fmt::Debug>(self, field: &str, old: &T, new: &T) -> Self {
        let show = |value: &T| format!("{value:?}").to_lowercase();
        self.shown(field, &show(old), &show(new))
    }

    pub(super) fn optional<T: PartialEq + fmt::Display>(
        self,
        field: &str,
        old: &Option<T>,
        new: &Option<T>,
    ) -> Self {
        let show = |value: &Option<T>| value.as_ref().map_or("none".to_owned(), T::to_string);
        self.shown(field, &show(old), &show(new))
    }

    pub(super) fn listed<T: PartialEq + fmt::Display>(
        self,
        field: &str,
        old: &[T],
        new: &[T],
    ) -> Self {
        let list = |items: &[T]| {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            format!("[{}]", items.join(", "))
        };
        self.shown(field, &list(old), &list(new))
    }

    /// A list that may be long: then it is told how much of it changed.
    fn networks(mut self, field: &str, old: &[IpNet], new: &[IpNet]) -> Self {
        const SHORT: usize = 8;
        if old == new || old.len().max(new.len()) <= SHORT {
            return self.listed(field, old, new);
        }
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (old.iter().collect(), new.iter().collect());
        let added = after.difference(&before).count();
        let removed = before.difference(&after).count();
        self.0
            .push(format!("{field} {added} added, {removed} removed"));
        self
    }

    pub(super) fn time(self, field: &str, old: Duration, new: Duration) -> Self {
        // Exact, so that two that differ never look the same.
        self.debug(field, &old, &new)
    }

    /// Never a password: only that it is another one.
    pub(super) fn wire(self, old: &Wire, new: &Wire) -> Self {
        let (was, is) = (&old.authentication, &new.authentication);
        let mut fields = self.shown("version", &old.version, &new.version).shown(
            "authentication",
            &was.to_string(),
            &is.to_string(),
        );
        if was != is && was.number() == is.number() {
            fields.0.push("password changed".to_owned());
        }
        fields
            .shown("checksum", &old.checksum, &new.checksum)
            .shown("ttl", &old.ttl, &new.ttl)
            .shown("min_ttl", &old.min_ttl, &new.min_ttl)
    }

    pub(super) fn track_kind(self, old: &TrackKind, new: &TrackKind) -> Self {
        use TrackKind::{File, Gateway, Interface, Process, Script, Service};
        match (old, new) {
            (Interface { interface: was }, Interface { interface: is }) => {
                self.shown("interface", was, is)
            }
            (
                Service {
                    service: was,
                    at_least: least,
                },
                Service { service, at_least },
            ) => self
                .shown("service", was, service)
                .shown("at_least", least, at_least),
            (Script(was), Script(is)) => self
                .debug("argv", &was.argv, &is.argv)
                .optional("user", &was.user, &is.user),
            (
                File {
                    path: was,
                    check: before,
                },
                File { path, check },
            ) => self.debug("path", was, path).shown("expect", before, check),
            (
                Process {
                    process: was,
                    at_least: least,
                },
                Process { process, at_least },
            ) => self
                .shown("process", was, process)
                .shown("at_least", least, at_least),
            (
                Gateway {
                    address: was,
                    interface: before,
                },
                Gateway { address, interface },
            ) => self
                .shown("address", was, address)
                .optional("interface", before, interface),
            (
                Interface { .. }
                | Service { .. }
                | Script(_)
                | File { .. }
                | Process { .. }
                | Gateway { .. },
                _,
            ) => self.shown("kind", old, new),
        }
    }

    pub(super) fn policy(self, old: &Policy, new: &Policy) -> Self {
        self.shown("scheduler", &old.scheduler, &new.scheduler)
            .shown("affinity", &old.affinity, &new.affinity)
            .optional("mss", &old.mss, &new.mss)
            .optional("syn_rate", &old.syn_rate, &new.syn_rate)
            .networks("allow_sources", &old.sources.allow, &new.sources.allow)
            .networks("deny_sources", &old.sources.deny, &new.sources.deny)
            .shown("quic", &old.quic, &new.quic)
    }
}
