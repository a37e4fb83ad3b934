//! Tests of the tree, its listings and its watchers.

mod model;
mod rules;
