//! When a group begins anew with one member: after a restore of a backup, or the recovery of a lost quorum.

use std::collections::{BTreeMap, VecDeque};

use rivven_types::{ClusterId, InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

/// Refoundings that are remembered. Beyond it the oldest are forgotten.
pub const MAX_REFOUNDINGS: usize = 16;

/// By how much every number that serves as a name or as a fencing token jumps when a group begins anew.
///
/// What came after the backup, or was committed without the survivor, is lost, and with it every revision,
/// session and lease named there. None of them is given out a second time: a lost end of the history has
/// fewer entries than this.
pub const REFOUNDING_GAP: u64 = 1 << 40;

/// Why a group began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefoundingCause {
    /// A backup was restored as a new cluster.
    Restored,
    /// The quorum was lost, and the log of one survivor was declared to be the truth.
    Recovered,
}

impl RefoundingCause {
    /// Name as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Recovered => "recovered",
        }
    }
}

/// That a group began anew with one member: kept in the replicated state, for whoever asks what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Refounding {
    /// Why.
    pub cause: RefoundingCause,
    /// When, in milliseconds since 1970 by the clock of the machine where it was done.
    pub at_ms: u64,
    /// The node that the group began anew with.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
    /// The cluster that the history comes from; that of the group itself for a recovery.
    pub cluster: ClusterId,
    /// Who voted before.
    pub voters: Vec<NodeId>,
    /// Term of the last entry taken over.
    pub last_term: u64,
    /// Index of the last entry taken over.
    pub last_index: u64,
}

/// The command that begins a group anew. Never proposed: it is appended to a log that no node has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refound {
    pub(crate) record: Refounding,
    /// Where the node is reached.
    pub(crate) addr: PeerAddr,
    /// Every other member, with the data directory that it was bound to; and the node itself, if it was another one.
    pub(crate) lost: BTreeMap<NodeId, Option<InstanceId>>,
}

/// The refoundings of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refoundings {
    /// How many there were.
    count: u64,
    /// The newest, oldest first.
    kept: VecDeque<Refounding>,
}

impl Refoundings {
    pub(crate) fn add(&mut self, record: Refounding) {
        self.count = self.count.saturating_add(1);
        self.keep(record);
    }

    /// What is added to an index that serves as a name.
    pub(crate) const fn offset(&self) -> u64 {
        self.count.saturating_mul(REFOUNDING_GAP)
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Refounding> {
        self.kept.iter()
    }

    pub(crate) fn starting_at(count: u64) -> Self {
        let kept = VecDeque::new();
        Self { count, kept }
    }

    pub(crate) fn keep(&mut self, record: Refounding) {
        if self.kept.len() == MAX_REFOUNDINGS {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        ApplyCtx, KvCommand, KvResponse, KvStore, MemberRole, SessionId, StateMachine,
        membership::{DEFAULT_PRIORITY, MemberCommand},
        system::{Features, System, SystemCommand, SystemResponse},
    };

    fn disk(byte: u8) -> InstanceId {
        InstanceId::from_bytes([byte; 16])
    }

    fn join(node: NodeId, byte: u8) -> MemberCommand {
        MemberCommand::Join {
            node,
            instance: disk(byte),
            addr: format!("node{node}:1").parse().unwrap(),
            zone: "z".into(),
            role: MemberRole::Auto,
            priority: DEFAULT_PRIORITY,
        }
    }

    /// Node 2 goes on with directory `own`; nodes 1, 3 and 4 were members beside it, and 4 is known by nothing else.
    fn refound(cause: RefoundingCause, own: u8) -> Refound {
        Refound {
            record: Refounding {
                cause,
                at_ms: 1,
                node: 2,
                instance: disk(own),
                cluster: ClusterId::from_bytes([7; 16]),
                voters: vec![1, 2, 3],
                last_term: 3,
                last_index: 9,
            },
            addr: "new:1".parse().unwrap(),
            lost: BTreeMap::from([(1, Some(disk(1))), (3, Some(disk(33))), (4, None)]),
        }
    }

    /// Members 1, 2 and 3, of which 3 was last bound to another directory; node 9 was removed.
    fn before() -> System {
        let mut system = System::default();
        for (node, byte) in [(1, 1), (2, 2), (3, 3), (9, 9)] {
            system.members.apply(join(node, byte)).unwrap();
        }
        system.members.apply(MemberCommand::Forget { node: 9 }).unwrap();
        system
    }

    #[test]
    fn a_recovery_leaves_one_member_and_shuts_the_others_out_by_their_disks() {
        let mut system = before();
        system.refound(refound(RefoundingCause::Recovered, 2));
        let own = system.members.get(2).unwrap();
        assert_eq!(system.members.len(), 1);
        assert_eq!((own.instance, own.zone.as_str()), (Some(disk(2)), "z"));
        assert_eq!(system.members.fenced(), [9, 1, 3, 33].map(disk).into());
        // A removed id stays removed, and one whose disk nobody knows is told from its past by nothing else.
        assert_eq!(system.members.removed(), BTreeSet::from([9, 4]));
        assert!(system.members.admit(1, disk(1)).is_err());
        assert_eq!(system.members.admit(1, disk(100)), Ok(()));
    }

    #[test]
    fn a_restore_shuts_out_the_old_disk_of_its_own_id_too_and_frees_every_id() {
        let mut system = before();
        let mut restored = refound(RefoundingCause::Restored, 20);
        // The membership may know of it what the records do not.
        restored.lost.insert(2, Some(disk(22)));
        system.refound(restored);
        let own = system.members.get(2).unwrap();
        assert_eq!((own.instance, own.zone.as_str()), (Some(disk(20)), ""));
        assert_eq!(system.members.fenced(), [9, 1, 3, 33, 2, 22].map(disk).into());
        assert!(system.members.removed().is_empty());
        assert_eq!(system.members.admit(9, disk(90)), Ok(()));
    }

    #[test]
    fn names_jump_with_every_refounding_and_records_are_bounded() {
        let mut system = before();
        let open = |system: &mut System, index| match system
            .apply(index, SystemCommand::OpenSession { ttl_ms: 5_000 })
        {
            Ok(SystemResponse::SessionOpened { session }) => session,
            other => panic!("{other:?}"),
        };
        assert_eq!(open(&mut system, 10), SessionId(10));
        for _ in 0..=MAX_REFOUNDINGS {
            system.refound(refound(RefoundingCause::Recovered, 2));
        }
        let times = MAX_REFOUNDINGS as u64 + 1;
        assert_eq!(open(&mut system, 10), SessionId(10 + times * REFOUNDING_GAP));
        assert_eq!(system.refoundings.iter().len(), MAX_REFOUNDINGS);

        let mut bytes = Vec::new();
        system.encode(&mut bytes).unwrap();
        let decoded = |mut bytes: &[u8]| System::decode(Features::default(), &mut bytes);
        let restored = decoded(&bytes).unwrap();
        assert_eq!(restored.refoundings, system.refoundings);
        for cut in 0..bytes.len() {
            assert!(decoded(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn revisions_and_leases_jump_and_the_history_of_the_map_ends() {
        let mut store = KvStore::new();
        let ctx = ApplyCtx::new(1, 1);
        store.apply(&ctx, KvCommand::put("k", "1"));
        store.apply(&ctx, KvCommand::GrantLease { ttl_ms: 60_000 });
        store.refounded(&ctx);
        let KvResponse::Leased { lease, .. } = store.apply(&ctx, KvCommand::GrantLease { ttl_ms: 60_000 })
        else {
            panic!("no lease");
        };
        assert_eq!(lease.0, REFOUNDING_GAP + 2);
        assert!(matches!(
            store.apply(&ctx, KvCommand::put("k", "2")),
            KvResponse::Written { revision, .. } if revision == REFOUNDING_GAP + 2
        ));
        assert!(store.get_at("k", 1).is_err());
        let mut bytes = Vec::new();
        KvStore::encode_snapshot(&store, &mut bytes).unwrap();
        let copy = KvStore::decode_snapshot(&mut bytes.as_slice()).unwrap();
        assert_eq!(copy.revision(), store.revision());
    }

    /// The bytes of version 0, written out: a change of these is a change of the format.
    #[test]
    fn the_command_is_that_of_version_0_and_nobody_may_propose_it() {
        let command = SystemCommand::Refound(Box::new(Refound {
            lost: BTreeMap::from([(1, None)]),
            ..refound(RefoundingCause::Recovered, 5)
        }));
        assert_eq!(command.check().unwrap_err().code, "unknown-namespace");
        let bytes = postcard::to_allocvec(&command).unwrap();
        let expected = [
            b"\x06\x01\x01\x02".to_vec(),
            vec![5; 16],
            vec![7; 16],
            b"\x03\x01\x02\x03\x03\x09".to_vec(),
            postcard::to_allocvec(&"new:1".parse::<PeerAddr>().unwrap()).unwrap(),
            b"\x01\x01\x00".to_vec(),
        ];
        assert_eq!(bytes, expected.concat());
    }
}
