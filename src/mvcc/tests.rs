//! Tests of the whole store: scripts with their expected results, and random histories that a naive
//! model judges.

mod model;
mod scripts;
