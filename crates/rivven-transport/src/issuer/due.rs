//! When to renew a certificate, decided from its dates alone.

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::{RECHECK, now};
use crate::identity::{IdentityWatch, Validity};

/// Pause between two reminders of one certificate.
const REMIND_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// When a certificate is to be renewed: at two thirds of its life, as time since the beginning of 1970.
#[must_use]
pub fn renew_at(validity: Validity) -> Duration {
    at(validity, 2, 3)
}

/// When a node that drew `share` asks: at [`renew_at`], or up to a twenty-fourth of the life later, which is
/// before [`remind_at`] still.
pub(super) fn attempt_at(validity: Validity, share: u16) -> Duration {
    let life = validity.not_after.saturating_sub(validity.not_before);
    renew_at(validity).saturating_add(life / 24 * u32::from(share) / u32::from(u16::MAX))
}

/// When an operator is to be told that nobody has renewed a certificate: at three quarters of its life, so
/// that a working issuer is never complained about.
#[must_use]
pub fn remind_at(validity: Validity) -> Duration {
    at(validity, 3, 4)
}

/// Tells the operator, once a day, that the certificate in use runs out and nobody has renewed it.
pub(crate) async fn remind(identity: IdentityWatch) {
    loop {
        let current = identity.current();
        let left = remind_at(current.validity()).saturating_sub(now());
        if !left.is_zero() {
            sleep(left.min(RECHECK)).await;
            continue;
        }
        let hours = current.validity().not_after.saturating_sub(now()).as_secs() / 3600;
        warn!(
            node_id = current.node(),
            hours_left = hours,
            "this node's certificate runs out; replace it with `rivven-node cert issue --ca DIR --node ID`"
        );
        sleep(REMIND_INTERVAL).await;
    }
}

fn at(validity: Validity, part: u32, of: u32) -> Duration {
    let life = validity.not_after.saturating_sub(validity.not_before);
    validity.not_before.saturating_add(life / of * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_the_reminder_and_both_before_the_end() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        let month = Validity {
            not_before: days(100),
            not_after: days(130),
        };
        assert_eq!(renew_at(month), days(120));
        assert_eq!(attempt_at(month, 0), days(120));
        assert_eq!(
            attempt_at(month, u16::MAX),
            days(121) + Duration::from_secs(6 * 3600)
        );
        assert_eq!(remind_at(month), days(122) + Duration::from_secs(12 * 3600));
        let reversed = Validity {
            not_before: days(2),
            not_after: days(1),
        };
        assert_eq!(renew_at(reversed), days(2));
    }
}
