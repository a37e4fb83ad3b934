//! Channels whose waiters are woken in an order that follows from what happened before.
//!
//! tokio's other channels wake who has waited longest. Its `watch` draws the order by lot, from a generator that cannot be
//! seeded; a server does not care, and a simulation could not repeat a run. So the server has tokio's `watch`, and tests
//! have it with an order.

#[cfg(test)]
pub(crate) mod watch;

#[cfg(not(test))]
pub(crate) use tokio::sync::watch;
