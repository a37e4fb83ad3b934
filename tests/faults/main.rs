//! Faults: what the clients of a cluster were told, judged against what a store may say.

mod history;
mod linearize;
mod model;
mod planted;
mod replay;
mod simulated;
mod watches;
