//! The `holdfast` program: adapters to the world, the shell that drives the engine, the API, the command line, the demo.

pub mod adapters;
pub mod api;
pub mod builtin;
pub mod cli;
pub mod demo;
pub mod http;
pub mod operator;
pub mod plugin_note;
pub mod shell;
