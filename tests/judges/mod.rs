//! Judges of what clients saw: checkers that do not know the cluster, for the histories of `tests/faults`, which
//! are of real processes, and for those of the simulator in `src/sim`. So reality and simulation are held to one law.

pub(crate) mod history;
pub(crate) mod linearize;
pub(crate) mod model;
pub(crate) mod replay;
pub(crate) mod watches;
pub(crate) mod wire;
