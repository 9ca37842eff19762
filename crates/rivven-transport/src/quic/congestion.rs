//! Congestion control: Cubic, beside which bulk connections are bound by the delay that they cause.

mod delay;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn::{
    Connection,
    congestion::{Controller, ControllerFactory, Cubic, CubicConfig},
};
use quinn_proto::RttEstimator;

use delay::DelayBound;

/// Makes the controller of every connection.
///
/// Which connection is for bulk is known once its hello was read, long after its controller was made: see
/// [`give_way`].
#[derive(Debug, Default)]
pub(super) struct Congestion;

impl ControllerFactory for Congestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Courteous {
            loss: Cubic::new(Arc::new(CubicConfig::default()), now, current_mtu),
            delay: DelayBound::new(now, current_mtu),
            gives_way: Arc::default(),
        })
    }
}

/// Has `connection` leave the path to others: its queue stays short, on the network as before a processor.
///
/// Control calls travel on another connection, but through the same links and sockets. Where nothing is ever
/// lost, as between two processes of one machine, Cubic alone fills every buffer before them.
pub(super) fn give_way(connection: &Connection) {
    if let Ok(controller) = connection.congestion_state().into_any().downcast::<Courteous>() {
        controller.gives_way.store(true, Ordering::Relaxed);
    }
}

/// Cubic (RFC 9438), and [`DelayBound`] once it gives way.
#[derive(Clone)]
struct Courteous {
    loss: Cubic,
    delay: DelayBound,
    /// Shared with the copies that [`Connection::congestion_state`] gives out.
    gives_way: Arc<AtomicBool>,
}

impl Courteous {
    fn gives_way(&self) -> bool {
        self.gives_way.load(Ordering::Relaxed)
    }
}

impl Controller for Courteous {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        let mut unused = app_limited;
        if self.gives_way() {
            self.delay.on_ack(now.saturating_duration_since(sent), bytes);
            // A window that is not what holds the sender back must not grow, or a loss would find it without
            // any relation to the path (RFC 9438, section 5.8).
            unused |= self.loss.window() > self.delay.window();
        }
        self.loss.on_ack(now, sent, bytes, unused, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        if self.gives_way() {
            let used = !app_limited && self.loss.window() >= self.delay.window();
            self.delay.on_end_acks(now, used);
        }
        self.loss.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.loss.on_congestion_event(now, sent, persistent, lost_bytes);
        self.delay.on_loss(self.loss.window());
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.loss.on_mtu_update(new_mtu);
        self.delay.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let loss = self.loss.window();
        if self.gives_way() {
            loss.min(self.delay.window())
        } else {
            loss
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.loss.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
