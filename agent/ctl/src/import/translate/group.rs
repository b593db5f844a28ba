//! `vrrp_sync_group`: virtual routers that move together.

use super::Translator;
use crate::import::{
    hints::Block,
    steer::{Group, Piece, Router},
    tree::Node,
};

/// What being in a group means to an instance.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Membership {
    /// Whether keepalived ignores the weights of the instance's own tracks.
    pub(super) weightless: bool,
}

impl<'a> Translator<'a> {
    /// Notes which instances are in the group; before any of them is translated.
    pub(super) fn members(&mut self, node: &'a Node) {
        let has = |keyword| node.inner().any(|line| line.keyword() == keyword);
        let weightless = !has("sync_group_tracking_weight") && !has("global_tracking");
        for name in names(node) {
            self.members
                .insert(name.to_owned(), Membership { weightless });
        }
    }

    pub(super) fn sync_group(&mut self, node: &'a Node) {
        self.account.used(node);
        let name = node.word(1).unwrap_or("");
        let mut group = Piece::new(Group {
            name: self.group_names.take(name),
            virtual_routers: Vec::new(),
        });
        for line in node.inner() {
            match line.keyword() {
                "group" => self.group_members(line, &mut group),
                "track_interface" | "track_script" | "track_file" | "track_process" => {
                    self.group_tracks(line, &mut group);
                }
                _ => {}
            }
        }
        if group.value.virtual_routers.len() < 2 {
            group.off("A group of fewer than two virtual routers would do nothing:");
        }
        if let Some(key) = self.unequal(&group.value) {
            group.off(format!(
                "They differ in `{key}`, and virtual routers that move together must not:"
            ));
            let why = format!(
                "Make `{key}` of the virtual routers of sync group {} equal.",
                group.value.name
            );
            self.todo.push(why);
        }
        group.left.extend(self.account.rest(node, Block::Group));
        group.left.sort_by_key(|note| note.place);
        self.file.groups.push(group);
    }

    /// What the virtual routers of a group must have in common, and have not.
    fn unequal(&self, group: &Group) -> Option<&'static str> {
        let named = |router: &&Piece<Router>| group.virtual_routers.contains(&router.value.name);
        let mut routers = self
            .file
            .routers
            .iter()
            .filter(named)
            .map(|router| &router.value);
        let first = routers.next()?;
        routers.find_map(|other| {
            let keys = [
                ("priority", first.priority == other.priority),
                (
                    "advert_interval",
                    first.advert_interval == other.advert_interval,
                ),
                ("preempt", first.preempt == other.preempt),
                (
                    "preempt_delay",
                    first.more.preempt_delay == other.more.preempt_delay,
                ),
                ("announce", first.announce == other.announce),
            ];
            keys.into_iter()
                .find(|(_, equal)| !equal)
                .map(|(key, _)| key)
        })
    }

    fn group_members(&mut self, block: &'a Node, group: &mut Piece<Group>) {
        self.account.used(block);
        for line in block.inner() {
            let mut lost = false;
            for word in &line.words {
                match self.renamed.get(&word.text) {
                    Some(router) if !router.off && self.grouped.insert(router.name.clone()) => {
                        group.value.virtual_routers.push(router.name.clone());
                    }
                    _ => lost = true,
                }
            }
            if lost {
                let why =
                    "no virtual router of this name is in use here, or it is in a group already";
                group.left.extend(self.account.left(line, why));
            } else {
                self.account.used(line);
            }
        }
    }

    /// The tracks of the group: each of its virtual routers has them.
    fn group_tracks(&mut self, block: &'a Node, group: &mut Piece<Group>) {
        let member = Membership::default();
        let mut all = Piece::new(());
        let names = self.track_names(block, member, &mut all);
        group.left.append(&mut all.left);
        for (_, note) in all.remarks {
            group.remark("virtual_routers", note);
        }
        let note = self
            .account
            .differs(block, "each virtual router of the group names them");
        group.remark("virtual_routers", note);
        for router in &mut self.file.routers {
            if !group.value.virtual_routers.contains(&router.value.name) {
                continue;
            }
            for name in &names {
                if !router.value.more.track.contains(name) {
                    router.value.more.track.push(name.clone());
                }
            }
        }
    }
}

/// The instances that a group names.
fn names(node: &Node) -> impl Iterator<Item = &str> {
    let blocks = node.inner().filter(|line| line.keyword() == "group");
    let lines = blocks.flat_map(Node::inner);
    lines.flat_map(|line| line.words.iter().map(|word| word.text.as_str()))
}
