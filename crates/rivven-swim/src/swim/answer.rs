//! Answering pings, and what answers to one's own mean.

use core::time::Duration;

use super::{
    Letter, MAX_HEALTH, Reply, Swim, Transmit,
    probe::{MAX_PROBES, Probe, Stage},
};
use crate::{
    Incarnation, Time,
    wire::{AMPLIFICATION_LIMIT, Ack, Item, MAX_STREAM_LEN, Nack, Payload, Ping, PingReq, Relayed, WireAddr},
};

impl Swim {
    pub(super) fn handle_ping(&mut self, now: Time, letter: &Letter, ping: Ping) {
        let node = letter.sender.node;
        if ping.target != self.me.identity.node || letter.reply == Reply::None {
            return;
        }
        let known = self
            .members
            .get(node)
            .map(|member| member.incarnation.boot_epoch());
        let stranger = known.is_none_or(|epoch| epoch < letter.sender.boot_epoch);
        let ack = Ack {
            seq: ping.seq,
            digest: self.members.digest().to_le_bytes(),
            observed: WireAddr::new(letter.from),
            stranger,
        };
        let mut payload = Payload::new(self.answer_budget(letter, stranger));
        payload.push(&Item::Ack(ack));
        if letter.accuses_me {
            payload.push(&Item::Claim(self.own_claim()));
        }
        self.push_claim_if_doubted(now, &mut payload, node);
        if !stranger && letter.reply == Reply::Datagram {
            self.push_news(now, &mut payload, node);
        }
        self.answer(letter, payload);
        if !stranger {
            self.compare_digest(now, letter, ping.digest);
        }
    }

    /// How long an answer may be: as long as fits, but to a stranger by datagram not much longer than what
    /// it sent, since that may have come from anywhere.
    pub(super) fn answer_budget(&self, letter: &Letter, stranger: bool) -> usize {
        match letter.reply {
            Reply::Stream(_) => MAX_STREAM_LEN,
            Reply::Datagram | Reply::None if stranger => {
                self.settings.max_datagram.min(letter.len * AMPLIFICATION_LIMIT)
            }
            Reply::Datagram | Reply::None => self.settings.max_datagram,
        }
    }

    /// Sends `payload` back to where `letter` came from.
    pub(super) fn answer(&mut self, letter: &Letter, payload: Payload) {
        match letter.reply {
            Reply::Datagram => self.transmit(Transmit::Datagram { to: letter.from }, payload),
            Reply::Stream(id) => self.transmit(Transmit::Response { id }, payload),
            Reply::None => {}
        }
    }

    pub(super) fn handle_ack(&mut self, now: Time, letter: &Letter, ack: Ack) {
        let Some(probe) = self.probes.get(&ack.seq).copied() else {
            return;
        };
        let epoch = letter.sender.boot_epoch;
        if probe.target != letter.sender.node || epoch < probe.incarnation.boot_epoch() {
            return;
        }
        self.finish_probe(ack.seq);
        match probe.stage {
            // After a repetition it is unknown which ping was answered (RFC 6298, section 3).
            Stage::Direct => {
                self.praise_self(now);
                let took = now.since(probe.sent);
                self.rtt.sample(took);
                if let Some(member) = self.members.touch(probe.target) {
                    member.rtt.sample(took);
                }
            }
            Stage::Again | Stage::Indirect { .. } | Stage::Last { .. } => self.praise_self(now),
            Stage::Relay { to, asker, seq } => {
                self.send(now, to, asker, &Item::Relayed(Relayed { seq }));
            }
            Stage::Heal => {}
        }
        self.observe(now, ack.observed);
        if ack.stranger || epoch > probe.incarnation.boot_epoch() {
            self.pull_from(now, letter);
        } else {
            self.compare_digest(now, letter, ack.digest);
        }
    }

    pub(super) fn handle_ping_req(&mut self, now: Time, letter: &Letter, request: PingReq) {
        let known = self.members.contains(letter.sender.node);
        let Some(addr) = request.addr.resolve(None) else {
            return;
        };
        if !known || self.probes.len() >= MAX_PROBES || self.me.leaving || letter.reply != Reply::Datagram {
            return;
        }
        let target = request.target;
        let known = self.members.get(target).map(|member| member.incarnation);
        let longest = self.settings.period * (MAX_HEALTH + 1);
        let timeout = (Duration::from_millis(request.wait_ms.into()) * 4 / 5).min(longest);
        let probe = Probe {
            target,
            incarnation: known.unwrap_or(Incarnation::first(rivven_types::BootEpoch(0))),
            sent: now,
            timeout,
            stage: Stage::Relay {
                to: letter.from,
                asker: letter.sender.node,
                seq: request.seq,
            },
        };
        self.launch(now, probe, addr, timeout);
    }

    pub(super) fn handle_relayed(&mut self, now: Time, letter: &Letter, relayed: Relayed) {
        let asked = self
            .probes
            .get(&relayed.seq)
            .is_some_and(|p| matches!(p.stage, Stage::Indirect { .. } | Stage::Last { .. }));
        if asked && self.members.contains(letter.sender.node) {
            self.finish_probe(relayed.seq);
            self.praise_self(now);
        }
    }

    pub(super) fn handle_nack(&mut self, letter: &Letter, nack: Nack) {
        let known = self.members.contains(letter.sender.node);
        let stage = self.probes.get_mut(&nack.seq).map(|probe| &mut probe.stage);
        if let Some(Stage::Indirect { asked, nacks } | Stage::Last { asked, nacks }) = stage
            && known
        {
            *nacks = (*nacks + 1).min(*asked);
        }
    }
}
