//! SWIM membership with Lifeguard: a pure state machine and a UDP driver.
