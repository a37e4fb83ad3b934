//! etcd's JSON gateway: the gRPC services under `/v3/`, for clients that speak HTTP and JSON.
//!
//! ```text
//! POST /v3/kv/range {"key":"Zm9v"} --> value --> message --> the gRPC services --> message --> JSON
//!                                    scanner    decode         (in process)       encode
//! ```
//!
//! A call becomes a gRPC call in this process, through the same services, checks, counters and limits as those of
//! gRPC clients. Nothing here knows what a method means: a path leads to a method, and the tables of `schema` say
//! of what its messages consist.

mod call;
mod decode;
mod encode;
mod headers;
mod number;
mod refusal;
mod reply;
mod request;
mod routes;
mod scanner;
mod schema;
#[cfg(test)]
mod tests;
mod tokens;
mod websocket;

pub(crate) use call::Shared;
pub(crate) use routes::routes;
