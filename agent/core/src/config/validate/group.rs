//! Sync groups.

use std::collections::HashSet;

use super::unique_names;
use crate::config::{
    Name, SyncGroup, VirtualRouter,
    error::{Mistake, quote},
    raw::RawSyncGroup,
    reader::List,
    words::suggestion,
};

/// The sync groups. `routers` is none where a virtual router has a mistake: then what a group has in
/// common is not looked at. `names` is none where one of their names is unusable.
pub(super) fn sync_groups(
    raw: &List<RawSyncGroup>,
    names: Option<&[Name]>,
    routers: Option<&[VirtualRouter]>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<SyncGroup>> {
    unique_names(
        "sync group",
        raw.items.iter().map(|group| group.value.name.at()),
        mistakes,
    );
    let mut taken = HashSet::new();
    for group in &raw.items {
        let list = &group.value.virtual_routers;
        if let Some(span) = list
            .span
            .as_ref()
            .filter(|_| list.whole && list.items.len() < 2)
        {
            let message = "`virtual_routers` must name two or more: they are master together";
            mistakes.push(Mistake::new(span, message));
        }
        for member in &list.items {
            let name = quote(member.value.as_str());
            if names.is_some_and(|names| !names.contains(&member.value)) {
                let mistake =
                    Mistake::new(&member.span, format!("no virtual router is called {name}"));
                let known = names.into_iter().flatten().map(Name::as_str);
                mistakes.push(Mistake {
                    help: suggestion(member.value.as_str(), known),
                    ..mistake
                });
            } else if !taken.insert(&member.value) {
                let message = format!("virtual router {name} is in a sync group already");
                mistakes.push(Mistake::new(&member.span, message).help("each can be in one, once"));
            }
        }
        unlike(list, routers.unwrap_or_default(), mistakes);
    }
    let groups = raw.items.iter().map(|group| {
        let members = &group.value.virtual_routers.items;
        Some(SyncGroup {
            name: group.value.name.value()?,
            virtual_routers: members.iter().map(|member| member.value.clone()).collect(),
        })
    });
    groups.collect()
}

/// What differs between members that are elected as one.
fn unlike(list: &List<Name>, routers: &[VirtualRouter], mistakes: &mut Vec<Mistake>) {
    let find = |name: &Name| routers.iter().find(|router| router.name == *name);
    let Some(first) = list.items.first().and_then(|member| find(&member.value)) else {
        return;
    };
    for member in list.items.iter().skip(1) {
        let Some(router) = find(&member.value) else {
            continue;
        };
        let keys = [
            ("priority", router.priority == first.priority),
            (
                "advert_interval",
                router.advert_interval == first.advert_interval,
            ),
            ("preempt", router.preempt == first.preempt),
            ("preempt_delay", router.preempt_delay == first.preempt_delay),
            ("announce", router.announce == first.announce),
        ];
        let differ = keys.iter().filter(|(_, same)| !same);
        let differ: Vec<String> = differ.map(|(key, _)| format!("`{key}`")).collect();
        if !differ.is_empty() {
            let message = format!(
                "virtual routers {} and {} differ in {}",
                quote(first.name.as_str()),
                quote(router.name.as_str()),
                differ.join(", ")
            );
            let help = "a sync group is elected as one: give its members the same values";
            mistakes.push(Mistake::new(&member.span, message).help(help));
        }
    }
}
