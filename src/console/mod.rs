//! The console: a page in the binary that shows keys, their history, and how the cluster is.
//!
//! The page is plain JavaScript in `page/`, served as it is written: there is nothing to build. It asks the JSON gateway
//! for everything that etcd's API has, under the name of whoever logged in, and `data` for the rest: how all members are,
//! and the last minutes of this one.

mod assets;
mod data;

pub(crate) use data::router;
