//! The store as a whole: against scripts, and against a naive model.

mod model;
mod scripts;
