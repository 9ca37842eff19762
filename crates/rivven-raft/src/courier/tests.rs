//! What goes together.

use bytes::Bytes;

use super::*;

fn way(sizes: &[usize]) -> Way {
    let parcel = |(number, len): (u64, &usize)| Parcel {
        number,
        proposal: WireProposal {
            namespace: 1,
            body: Bytes::from(vec![0; *len]),
        },
        deadline: Instant::now(),
        answer: oneshot::channel().0,
    };
    Way {
        waiting: (0..).zip(sizes).map(parcel).collect(),
        ..Way::default()
    }
}

#[test]
fn what_waits_goes_together_within_the_limits_of_a_message() {
    let check = |sizes: &[usize], expected: &[usize]| {
        let mut way = way(sizes);
        let mut next = 0;
        for expected in expected {
            let taken = way.take();
            assert_eq!(taken.len(), *expected);
            for parcel in taken {
                assert_eq!(parcel.number, next, "in their order");
                next += 1;
            }
        }
        assert!(way.take().is_empty());
    };
    check(&[], &[]);
    check(&[10; 3], &[3]);
    check(&[10; MAX_BATCH + 1], &[MAX_BATCH, 1]);
    check(&[BATCH_BYTES, 1, BATCH_BYTES / 2, BATCH_BYTES / 2, 1], &[1, 2, 2]);
    check(&[4 << 20, 4 << 20], &[1, 1]);
}
