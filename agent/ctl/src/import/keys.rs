//! The keys of a virtual router that come with the failover between nodes: how each is written.
//! One function a key, so that a change of its form is a change in one place.

use super::{
    steer::{Route, Router, Rule},
    toml::{duration, list, quoted},
};

/// Those that only keepalived needs: they go when it does.
pub(super) const FOR_KEEPALIVED: [&str; 2] = ["version", "checksum"];

/// VRRPv3 is the default.
pub(super) fn version(router: &Router) -> Option<String> {
    router.more.version2.then(|| "2".to_owned())
}

/// The checksum that is sent; both are understood.
pub(super) fn checksum(router: &Router) -> Option<String> {
    router.more.rfc5798.then(|| quoted("rfc5798"))
}

pub(super) fn authentication(router: &Router) -> Option<String> {
    let authentication = router.more.authentication.as_ref()?;
    Some(format!(
        "{{ type = {}, password = {} }}",
        quoted(authentication.kind),
        quoted(&authentication.password)
    ))
}

pub(super) fn ttl(router: &Router) -> Option<String> {
    router.more.ttl.map(|ttl| ttl.to_string())
}

pub(super) fn min_ttl(router: &Router) -> Option<String> {
    router.more.min_ttl.map(|ttl| ttl.to_string())
}

pub(super) fn preempt_delay(router: &Router) -> Option<String> {
    router.more.preempt_delay.map(duration)
}

/// Of `announce`.
pub(super) fn refresh(router: &Router) -> Option<String> {
    router.announce.refresh.map(duration)
}

pub(super) fn accept(router: &Router) -> Option<String> {
    router.more.accept.map(|accept| accept.to_string())
}

pub(super) fn virtual_mac(router: &Router) -> Option<String> {
    router.more.virtual_mac.then(|| "true".to_owned())
}

pub(super) fn track(router: &Router) -> Option<String> {
    let names = &router.more.track;
    (!names.is_empty()).then(|| list(names.iter().map(|name| quoted(name))))
}

pub(super) fn routes(router: &Router) -> Option<String> {
    let routes = &router.more.routes;
    (!routes.is_empty()).then(|| list(routes.iter().map(route)))
}

pub(super) fn rules(router: &Router) -> Option<String> {
    let rules = &router.more.rules;
    (!rules.is_empty()).then(|| list(rules.iter().map(rule)))
}

fn route(route: &Route) -> String {
    let text = |value: &dyn ToString| quoted(&value.to_string());
    inline([
        ("to", Some(text(&route.to))),
        ("via", route.via.map(|via| text(&via))),
        ("interface", route.interface.as_deref().map(quoted)),
        ("source", route.source.map(|source| text(&source))),
        ("table", route.table.map(|table| table.to_string())),
        ("metric", route.metric.map(|metric| metric.to_string())),
    ])
}

fn rule(rule: &Rule) -> String {
    let text = |value: &dyn ToString| quoted(&value.to_string());
    inline([
        ("from", rule.from.map(|from| text(&from))),
        ("to", rule.to.map(|to| text(&to))),
        ("table", Some(rule.table.to_string())),
        (
            "priority",
            rule.priority.map(|priority| priority.to_string()),
        ),
    ])
}

fn inline<const N: usize>(keys: [(&str, Option<String>); N]) -> String {
    let keys = keys
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}", value?)));
    format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
}
