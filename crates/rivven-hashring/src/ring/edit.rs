//! Nodes and their tokens come and go, each time in one pass over the ring.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{Member, Ring, index::Index};
use crate::{MAX_NODES, RingError, RingNode, spec};

impl Ring {
    /// Puts nodes and their tokens in their places: one pass over the ring.
    pub(super) fn insert(&mut self, mut joiners: Vec<(RingNode, Vec<u64>)>) -> Result<(), RingError> {
        joiners.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        self.check_joiners(&joiners)?;

        // Merge the names; both those that were here and those that join may get another number.
        let mut numbers = Vec::with_capacity(self.nodes.len());
        let mut joining = Vec::new();
        let mut joiners = joiners.into_iter().peekable();
        let mut nodes = Vec::with_capacity(self.nodes.len() + joiners.len());
        let mut here = core::mem::take(&mut self.nodes).into_iter().peekable();
        loop {
            // The limit on nodes keeps their numbers within 16 bits.
            let number = u16::try_from(nodes.len()).unwrap_or(u16::MAX);
            let before = here.peek().map(|member| &member.node.name);
            if let Some((node, tokens)) =
                joiners.next_if(|(node, _)| before.is_none_or(|name| node.name < *name))
            {
                let digest = spec::node_digest(&node, &tokens);
                joining.extend(tokens.into_iter().map(|token| (token, number)));
                nodes.push(Member {
                    node,
                    zone: 0,
                    digest,
                });
            } else if let Some(member) = here.next() {
                numbers.push(number);
                nodes.push(member);
            } else {
                break;
            }
        }
        self.nodes = nodes;
        self.merge_tokens(joining, &numbers);
        self.count_zones();
        Ok(())
    }

    /// Merges tokens into the ring, whose nodes get the `numbers` at the place of their old ones.
    fn merge_tokens(&mut self, mut joining: Vec<(u64, u16)>, numbers: &[u16]) {
        joining.sort_unstable();
        let total = self.tokens.len() + joining.len();
        let mut merged = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut joining = joining.into_iter().peekable();
        for (token, old) in self.tokens.iter().zip(&self.owners) {
            // Every owner has a number; it would keep its old one otherwise.
            let here = (*token, numbers.get(usize::from(*old)).copied().unwrap_or(*old));
            while let Some(new) = joining.next_if(|new| *new < here) {
                push(&mut merged, new);
            }
            push(&mut merged, here);
        }
        joining.for_each(|new| push(&mut merged, new));
        (self.tokens, self.owners) = merged;
        self.index = Index::new(&self.tokens, &self.owners);
    }

    /// Whether nodes, sorted by name, may join.
    fn check_joiners(&self, joiners: &[(RingNode, Vec<u64>)]) -> Result<(), RingError> {
        let mut before = None;
        for (node, _) in joiners {
            if before == Some(&node.name) || self.find(&node.name).is_ok() {
                return Err(RingError::DuplicateNode {
                    name: node.name.clone(),
                });
            }
            before = Some(&node.name);
        }
        if self.nodes.len() + joiners.len() > MAX_NODES {
            return Err(RingError::TooManyNodes);
        }
        Ok(())
    }

    /// Takes a node out with exactly the tokens that it owns.
    pub(super) fn take(&mut self, name: &str) -> Result<(), RingError> {
        let at = self
            .find(name)
            .map_err(|_| RingError::UnknownNode { name: name.into() })?;
        self.nodes.remove(at);
        let kept = self.tokens.iter().zip(&self.owners);
        let kept = kept.filter(|(_, owner)| usize::from(**owner) != at);
        let renumber = |owner: u16| owner - u16::from(usize::from(owner) > at);
        (self.tokens, self.owners) = kept.map(|(token, owner)| (*token, renumber(*owner))).unzip();
        self.index = Index::new(&self.tokens, &self.owners);
        self.count_zones();
        Ok(())
    }

    fn count_zones(&mut self) {
        let mut numbers = BTreeMap::new();
        self.zones.clear();
        for member in &mut self.nodes {
            let next = self.zones.len();
            member.zone = *numbers.entry(member.node.zone.clone()).or_insert(next);
            match self.zones.get_mut(member.zone) {
                Some(size) => *size += 1,
                None => self.zones.push(1),
            }
        }
    }
}

fn push(ring: &mut (Vec<u64>, Vec<u16>), (token, owner): (u64, u16)) {
    ring.0.push(token);
    ring.1.push(owner);
}
