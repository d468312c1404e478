//! What goes wrong by itself: disks, networks, registries, and hands that touch a target without asking.

use crate::options::Fault;
use crate::world::World;
use holdfast_core::ids::GenNumber;

/// Far above what any ledger gives in a run.
pub(crate) const COPIED: GenNumber = 1_000;

impl World {
    pub(crate) fn trouble_disk(&mut self, daemon: usize) {
        let Some(ledger) = &self.daemons[daemon].ledger else { return };
        let disk = ledger.disk().clone();
        if self.faults.strikes(Fault::DiskError, 50) {
            disk.fail_sync(1 + self.faults.below(Fault::DiskError, 5));
            self.daemons[daemon].sync_failed = true;
            self.tell(|| "a sync will fail".to_owned());
        } else if self.faults.strikes(Fault::DiskFull, 100) {
            let room = self.faults.below(Fault::DiskFull, 20_000);
            disk.set_room(Some(room));
            self.tell(|| format!("{room} bytes are left on the disk"));
        }
    }

    /// Every few seconds.
    pub(crate) fn weather(&mut self) {
        if !self.faults.on {
            return;
        }
        let now = self.now;
        for daemon in &self.daemons {
            // Somebody makes room.
            if self.faults.strikes(Fault::DiskFull, 30) {
                daemon.disk.set_room(None);
                if let Some(ledger) = &daemon.ledger {
                    ledger.disk().set_room(None);
                }
            }
        }
        if self.faults.strikes(Fault::RegistryDown, 8) {
            self.registry.away_until = now + self.faults.below(Fault::RegistryDown, 60_000);
        }
        if self.faults.strikes(Fault::MetricsGap, 10) {
            self.metrics_away_until = now + self.faults.below(Fault::MetricsGap, 120_000);
        }
        if self.faults.strikes(Fault::GitAway, 8) {
            self.git.away_until = now + self.faults.below(Fault::GitAway, 40_000);
        }
        let names: Vec<String> = self.sites.keys().cloned().collect();
        for name in names {
            if self.faults.strikes(Fault::TargetAway, 4) {
                let away_ms = self.faults.below(Fault::TargetAway, 60_000);
                self.tell(|| format!("{name} is away for {away_ms} ms"));
                if let Some(site) = self.sites.get_mut(&name) {
                    site.away_until = now + away_ms;
                }
            }
            self.disturb(&name);
        }
        for daemon in 0..self.daemons.len() {
            let life = self.daemons[daemon].life;
            self.heap.push(now + 1, crate::heap::Event::Fetch { daemon, life });
        }
    }

    /// A foreign hand, or a machine that dies.
    fn disturb(&mut self, name: &str) {
        let head = self
            .daemons
            .iter()
            .map(|daemon| daemon.engine.state().fence(daemon.engine.state().size))
            .max();
        let states: Vec<_> = self.daemons.iter().map(|daemon| daemon.engine.state()).collect();
        let is_given_up = |workload: &str, number: GenNumber| {
            let units = states.iter().flat_map(|state| &state.workloads);
            let mut units = units.filter(|(id, _)| id.as_str() == workload);
            units.all(|(_, workload)| {
                workload
                    .units
                    .get(name)
                    .is_none_or(|unit| !unit.generations.contains_key(&number))
            })
        };
        let Some(site) = self.sites.get_mut(name) else { return };
        let (routing_is_ours, wide) = (site.abilities.most_live > 1, site.abilities.overlap);
        for (workload, held) in &mut site.held {
            let serving: Vec<GenNumber> = held.generations.keys().copied().collect();
            let Some(newest) = serving.last().copied() else { continue };
            let mut touched = true;
            if self.faults.strikes(Fault::ForeignEdit, 2) {
                match self.faults.below(Fault::ForeignEdit, 3) {
                    0 => {
                        if let Some(one) = held.generations.get_mut(&newest) {
                            one.edits += 1;
                            one.harmless = self.faults.below(Fault::ForeignEdit, 2) == 0;
                        }
                    }
                    1 if routing_is_ours => held.route.clear(),
                    _ => {
                        held.generations.remove(&newest);
                        held.route.remove(&newest);
                    }
                }
            } else if self.faults.strikes(Fault::InstanceLost, 3) {
                if let Some(one) = held.generations.get_mut(&newest) {
                    one.instances.pop();
                }
            } else if wide && self.faults.strikes(Fault::ExtraGeneration, 1) {
                // Somebody copies an object of ours, and counts on.
                if let Some(one) = held.generations.get(&newest).filter(|_| newest <= COPIED).cloned() {
                    held.generations.insert(newest + COPIED, one);
                }
            } else if wide && self.faults.strikes(Fault::ExtraGeneration, 2) {
                // Somebody restores an old object of ours.
                if let (Some(one), Some(first)) = (
                    held.generations.get(&newest).cloned(),
                    serving
                        .first()
                        .filter(|first| **first > 1 && **first <= COPIED && is_given_up(workload, **first - 1)),
                ) {
                    held.generations.insert(first - 1, one);
                }
            } else if self.faults.strikes(Fault::JobLost, 5) {
                if let Some(run) = held.jobs.values_mut().find(|run| run.ends > self.now) {
                    run.forgotten = true;
                }
            } else {
                touched = false;
            }
            if touched {
                held.disturbed = head.unwrap_or(0);
            }
        }
    }
}
