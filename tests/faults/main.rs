//! Faults: what the clients of a cluster were told, judged against what a store may say.

mod history;
mod linearize;
mod replay;
mod watches;
