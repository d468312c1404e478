//! Compiling: one component at a time, in a thread of its own, for so long and no longer.

use holdfast_core::ids::Digest;
use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::outcome::LoadError;

pub(crate) struct Compiler {
    engine: Engine,
    /// Held while something compiles: a large component takes all cores and some hundred MiB.
    turn: Mutex<Refused>,
}

/// Components that took too long. A thread cannot be ended from outside, so each is tried once in the life of the daemon.
#[derive(Default)]
struct Refused(BTreeSet<Digest>);

pub(crate) enum CompileError {
    Invalid(String),
    TooLong(Duration),
}

impl CompileError {
    pub fn named(self, name: &str) -> LoadError {
        let name = name.to_owned();
        match self {
            CompileError::Invalid(message) => LoadError::Invalid { name, message },
            CompileError::TooLong(limit) => LoadError::CompileTime {
                name,
                limit_ms: limit.as_millis() as u64,
            },
        }
    }
}

impl Compiler {
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            turn: Mutex::default(),
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn compile(&self, digest: &Digest, bytes: &[u8], limit: Duration) -> Result<Component, CompileError> {
        let mut refused = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.0.contains(digest) {
            return Err(CompileError::TooLong(limit));
        }
        let (engine, bytes) = (self.engine.clone(), bytes.to_vec());
        let (done, compiled) = sync_channel(1);
        let spawned = std::thread::Builder::new().name("compile".into()).spawn(move || {
            // Nobody waits any more when it took too long.
            let _ = done.send(Component::new(&engine, bytes));
        });
        spawned.map_err(|error| CompileError::Invalid(format!("no thread to compile it: {error}")))?;
        match compiled.recv_timeout(limit) {
            Ok(component) => component.map_err(|error| CompileError::Invalid(format!("{error:#}"))),
            Err(RecvTimeoutError::Timeout) => {
                refused.0.insert(digest.clone());
                Err(CompileError::TooLong(limit))
            }
            Err(RecvTimeoutError::Disconnected) => Err(CompileError::Invalid("the compiler panicked over it".into())),
        }
    }
}
