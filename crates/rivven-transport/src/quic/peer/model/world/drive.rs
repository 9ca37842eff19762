//! What the drivers of [`Peer`] do, step by step: the tasks that dial, accept, and speak on a connection.

use super::*;

impl World {
    /// What either node may do next.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for end in End::BOTH {
            let node = &self.nodes[end.0];
            match node.dial {
                None if !node.closing && node.way().is_needed(&node.own) => steps.push(Step::Begin(end)),
                Some(Dial::Handshake(_)) => steps.push(Step::Greet(end)),
                None | Some(Dial::Greeting(_)) => {}
            }
            if node.waiting().load(Ordering::SeqCst) > 0 && node.way().is_up() {
                steps.push(Step::HandOver(end));
            }
            for at in 0..self.connections.len() {
                self.steps_of(at, end, &mut steps);
            }
        }
        steps
    }

    fn steps_of(&self, at: usize, end: End, steps: &mut Vec<Step>) {
        let connection = &self.connections[at];
        let (side, other) = (&connection.sides[end.0], &connection.sides[end.other().0]);
        if side.is_over() {
            return;
        }
        let open = side.half().is_none_or(|half| half.is_open());
        if open && !connection.lost && side.closing.is_some() {
            steps.push(Step::HearClose(at, end));
        }
        let silent = connection.lost || (other.is_over() && side.closing.is_none() && side.inbox.is_empty());
        if open && silent && !matches!(side.stage, Stage::Opening(_)) {
            steps.push(Step::Notice(at, end));
        }
        match &side.stage {
            Stage::Greeting if !connection.lost && !side.inbox.is_empty() => steps.push(Step::Hear(at, end)),
            Stage::Opening(_) => steps.push(Step::Offer(at, end)),
            Stage::Up(half) if !half.is_open() => steps.push(Step::Forget(at, end)),
            Stage::Up(half) => {
                if !connection.lost && !side.inbox.is_empty() {
                    steps.push(Step::Hear(at, end));
                }
                if half.has_left() && !side.said {
                    steps.push(Step::SayGoAway(at, end));
                }
                if side.said && side.calls == 0 && !side.finished {
                    steps.push(Step::Finish(at, end));
                }
                if side.finished && side.peer_finished {
                    steps.push(Step::CloseDone(at, end));
                }
                let served = matches!(&other.stage, Stage::Up(half) if half.is_open());
                if side.calls > 0 && served && !connection.lost {
                    steps.push(Step::Answer(at, end));
                }
            }
            Stage::Greeting | Stage::Over => {}
        }
    }

    pub(super) fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Begin(end) => {
                let node = &mut self.nodes[end.0];
                node.way().note(Link::Dialing);
                node.dial = Some(Dial::Handshake(node.own));
            }
            Step::Greet(end) => self.greet(end),
            Step::HandOver(end) => return self.hand_over(end),
            Step::Hear(at, end) => self.hear(at, end),
            Step::Offer(at, end) => self.offer(at, end),
            Step::SayGoAway(at, end) => {
                let side = &mut self.connections[at].sides[end.0];
                side.said = true;
                let why = side.half().and_then(|half| *lock(&half.left));
                self.say(at, end, Word::GoAway(why.unwrap()));
            }
            Step::Finish(at, end) => {
                self.connections[at].sides[end.0].finished = true;
                self.say(at, end, Word::Finish);
            }
            Step::CloseDone(at, end) => self.close(at, end, Close::Done),
            Step::HearClose(at, end) => {
                let why = self.connections[at].sides[end.0].closing;
                self.end(at, end, why.unwrap());
            }
            Step::Notice(at, end) => self.end(at, end, Close::Silent),
            Step::Forget(at, end) => self.forget(at, end),
            Step::Answer(at, end) => {
                self.connections[at].sides[end.0].calls -= 1;
                self.answered += 1;
            }
        }
        Ok(())
    }

    /// A node as it names itself.
    fn identity(end: End, boot_epoch: BootEpoch) -> PeerIdentity {
        PeerIdentity {
            node: end.id(),
            instance: InstanceId::from_bytes([u8::try_from(end.id()).unwrap(); 16]),
            boot_epoch,
        }
    }

    /// `claim` as `end` understands it.
    fn understood(&self, end: End, mut claim: Claim) -> Claim {
        if self.plant == Plant::Tie && end == End(1) {
            claim.by_lower = !claim.by_lower;
        }
        claim
    }

    /// The handshake is done: says hello, if the connection is still wanted.
    fn greet(&mut self, end: End) {
        let node = &mut self.nodes[end.0];
        let Some(Dial::Handshake(own)) = node.dial.take() else {
            return;
        };
        let epoch = BootEpoch(node.epoch);
        let Some(mut claim) = node.peer.claim(MAIN, (end.id(), epoch), &own) else {
            if node.way().is_needed(&node.own) {
                node.way().note(Link::Failed(DialError::Needless));
            }
            return;
        };
        if self.plant == Plant::Forgetful {
            claim.seen = Default::default();
        }
        let at = self.connections.len();
        node.dial = Some(Dial::Greeting(at));
        if matches!(self.nodes[end.other().0].dial, Some(Dial::Greeting(_))) {
            self.crossed += 1;
        }
        self.connections.push(Connection {
            dialler: end,
            claim,
            own,
            sides: [Side::new(), Side::new()],
            lost: false,
        });
        self.say(at, end, Word::Hello(claim, epoch));
    }

    /// A call that waited takes the connection in use.
    fn hand_over(&mut self, end: End) -> Result<(), String> {
        let node = &self.nodes[end.0];
        let Some(half) = node.way().in_use() else {
            return Ok(());
        };
        node.waiting().fetch_sub(1, Ordering::SeqCst);
        let side = &mut self.connections[half.connection].sides[end.0];
        let at = half.connection;
        if side.heard {
            return Err(format!(
                "{end:?} calls on connection {at}, whose peer said go away"
            ));
        }
        // A shutdown ends the wait of every call of its node.
        if half.has_left() && !node.closing {
            return Err(format!("{end:?} calls on connection {at}, which it has left"));
        }
        if !half.has_left() {
            side.calls += 1;
        }
        Ok(())
    }

    fn hear(&mut self, at: usize, end: End) {
        let Some(word) = self.connections[at].sides[end.0].inbox.pop_front() else {
            return;
        };
        match word {
            Word::Hello(claim, epoch) => self.accept(at, end, claim, epoch),
            Word::Answer(epoch) => {
                let (claim, own) = (self.connections[at].claim, self.connections[at].own);
                let admitted = self.nodes[end.0].peer.admit(&Self::identity(end.other(), epoch));
                if admitted.is_err() {
                    self.refuse(at, end, Close::Refused);
                    self.dial_failed(end, DialError::Unreachable(String::new()));
                } else {
                    self.open(at, end, claim, own, epoch);
                }
            }
            Word::GoAway(why) => {
                let side = &mut self.connections[at].sides[end.0];
                side.heard = true;
                let Some(half) = side.half().cloned() else { return };
                if self.plant != Plant::Deaf {
                    self.nodes[end.0].peer.left_by_peer(MAIN, &half, why);
                }
                half.leave(Leave::Replaced);
            }
            Word::Finish => self.connections[at].sides[end.0].peer_finished = true,
        }
    }

    fn accept(&mut self, at: usize, end: End, claim: Claim, epoch: BootEpoch) {
        let node = &self.nodes[end.0];
        let admitted = node.peer.admit(&Self::identity(end.other(), epoch));
        let understood = self.understood(end, claim);
        if admitted.is_err() || node.closing {
            self.refuse(at, end, Close::Refused);
        } else if node.peer.would_lose(MAIN, &understood) {
            self.refuse(at, end, Close::Superseded);
        } else {
            let own = node.own;
            let answer = Word::Answer(BootEpoch(node.epoch));
            self.say(at, end, answer);
            self.open(at, end, claim, own, epoch);
        }
    }

    /// Both hellos are passed at `end`.
    fn open(&mut self, at: usize, end: End, claim: Claim, own: u32, with: BootEpoch) {
        let half = Half {
            connection: at,
            claim: self.understood(end, claim),
            own,
            with,
            open: AtomicBool::new(true),
            left: Mutex::default(),
        };
        self.connections[at].sides[end.0].stage = Stage::Opening(Arc::new(half));
    }

    fn offer(&mut self, at: usize, end: End) {
        let connection = &mut self.connections[at];
        let dialled = connection.dialler == end;
        let side = &mut connection.sides[end.0];
        let Some(half) = side.half().cloned() else { return };
        side.stage = Stage::Up(Arc::clone(&half));
        let node = &mut self.nodes[end.0];
        let mut with = Self::identity(end.other(), half.with);
        if self.plant == Plant::Late {
            with = node.peer.identity().unwrap_or(with);
        }
        node.peer.offer(MAIN, &half, &with, dialled);
        if dialled {
            node.dial = None;
        }
        if node.closing {
            half.leave(Leave::Shutdown);
        }
    }

    /// Closes a connection that nobody has used.
    fn refuse(&mut self, at: usize, end: End, why: Close) {
        let [side, other] = self.sides(at, end);
        side.stage = Stage::Over;
        other.closing.get_or_insert(why);
    }

    /// Closes a connection that is up.
    fn close(&mut self, at: usize, end: End, why: Close) {
        let [side, other] = self.sides(at, end);
        if let Some(half) = side.half() {
            half.open.store(false, Ordering::Relaxed);
        }
        other.closing.get_or_insert(why);
    }

    fn sides(&mut self, at: usize, end: End) -> [&mut Side; 2] {
        let [zero, one] = &mut self.connections[at].sides;
        if end == End(0) { [zero, one] } else { [one, zero] }
    }

    /// `end` learns that the connection has ended.
    fn end(&mut self, at: usize, end: End, why: Close) {
        let dialled = self.connections[at].dialler == end;
        let side = &mut self.connections[at].sides[end.0];
        side.ended = Some(why);
        if let Some(half) = side.half() {
            half.open.store(false, Ordering::Relaxed);
            return;
        }
        side.stage = Stage::Over;
        if dialled {
            let error = match why {
                Close::Superseded => DialError::Needless,
                Close::Done | Close::Refused | Close::Silent => DialError::Unreachable(String::new()),
            };
            self.dial_failed(end, error);
        }
    }

    fn dial_failed(&mut self, end: End, error: DialError) {
        let node = &mut self.nodes[end.0];
        node.dial = None;
        if error != DialError::Needless || node.way().is_needed(&node.own) {
            node.way().note(Link::Failed(error));
        }
    }

    /// The task of a connection that has ended takes note.
    fn forget(&mut self, at: usize, end: End) {
        let [side, other] = self.sides(at, end);
        let Some(half) = side.half().cloned() else { return };
        let peaceful = match side.ended {
            Some(Close::Done | Close::Superseded) => true,
            Some(Close::Refused | Close::Silent) => false,
            None => half.has_left(),
        };
        side.stage = Stage::Over;
        let failed = std::mem::take(&mut side.calls);
        if side.ended.is_none() {
            other.closing.get_or_insert(Close::Superseded);
        }
        self.failed += failed;
        let then = if peaceful {
            Link::Idle
        } else {
            Link::Failed(DialError::Unreachable(String::new()))
        };
        self.nodes[end.0].peer.forget(MAIN, &half, then);
    }
}
