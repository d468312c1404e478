//! The plugin host against guests that mean harm: limits, worlds, endpoints, secrets. Each failure has its class, ends in
//! time, and leaves the next call working.

mod connections;
mod content;
mod endpoints;
mod guests;
mod limits;
mod optional;
mod secrets;
mod server;
mod tls;
