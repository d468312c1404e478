//! Everything that will happen, by time. Equal times keep the order in which they were put in.

use holdfast_core::engine::{Call, Input};
use std::collections::BTreeMap;

pub enum Event {
    /// An answer reaches a daemon, if that run of it still lives.
    Deliver {
        daemon: usize,
        life: u64,
        input: Box<Input>,
    },
    /// An effect lands on its target, and answers or not.
    Land(Landing),
    /// The target is read now; the page travels on.
    Read {
        daemon: usize,
        life: u64,
        target: String,
        begun: u64,
    },
    /// A daemon's writer gets to what was queued.
    Write {
        daemon: usize,
        life: u64,
    },
    /// A daemon looks at Git.
    Fetch {
        daemon: usize,
        life: u64,
    },
    Commit,
    Person,
    Crash {
        daemon: usize,
    },
    Start {
        daemon: usize,
    },
    Disk {
        daemon: usize,
    },
    /// The world of one target changes by itself.
    Weather,
    /// The second daemon comes into play.
    Second,
    /// A tag appears in the registry.
    Tag,
}

pub struct Landing {
    pub daemon: usize,
    pub life: u64,
    pub call: Call,
    pub answers: bool,
}

#[derive(Default)]
pub struct Heap {
    serial: u64,
    events: BTreeMap<(u64, u64), Event>,
}

impl Heap {
    pub fn push(&mut self, t: u64, event: Event) {
        self.serial += 1;
        self.events.insert((t, self.serial), event);
    }

    pub fn next_time(&self) -> Option<u64> {
        self.events.first_key_value().map(|((t, _), _)| *t)
    }

    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((t, _), event)| (t, event))
    }
}
