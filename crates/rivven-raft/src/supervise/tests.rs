//! What follows the end of a core, by what ended it.

use super::*;

fn full() -> StoreError {
    StoreError::Full {
        path: "log".into(),
        source: io::ErrorKind::StorageFull.into(),
    }
}

fn check(log: Option<StoreError>, fault: Option<Fault>, not_restored: u32) -> Next {
    after(log.as_ref(), fault.as_ref(), not_restored, || "last words".into())
}

#[test]
fn only_a_lack_of_room_and_a_useless_snapshot_are_outlived() {
    assert!(matches!(check(Some(full()), None, 0), Next::AwaitRoom(cause) if cause.contains("make room")));
    let closed = StoreError::Closed { path: "log".into() };
    assert!(matches!(check(Some(closed), None, 0), Next::Stop(cause) if cause.contains("closed")));
    // The first error is what counts, however many calls met it since.
    let poisoned = StoreError::Poisoned {
        cause: Arc::new(full()),
    };
    assert!(matches!(check(Some(poisoned), None, 0), Next::AwaitRoom(_)));
    let fault = Fault::Full("no room".into());
    assert_eq!(check(None, Some(fault), 0), Next::AwaitRoom("no room".into()));
    let fault = || Some(Fault::NotRestored("set aside".into()));
    assert_eq!(check(None, fault(), 1), Next::Again("set aside".into()));
    assert!(matches!(check(None, fault(), MAX_NOT_RESTORED), Next::Stop(cause) if cause.contains("replace")));
    assert_eq!(check(None, None, 0), Next::Stop("last words".into()));
}
