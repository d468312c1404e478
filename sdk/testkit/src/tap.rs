//! Between a plugin and its target: counts, cuts, faults, and lies.

use holdfast_host::{Exchange, SendFail, Sending, Wire, WireRequest};
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What happens to one request, counted from 0 since the plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing was sent.
    Unreachable,
    /// It had its effect; the answer is lost.
    LostAfter,
    /// It never arrived; that is not known either.
    LostBefore,
    TooLarge,
    /// The target refuses with this status.
    Status(u16, Vec<u8>),
    /// It had its effect; the answer is 200, and something that is not what it should be.
    Garbage,
}

/// Rewrites answers: what the target says of itself is changed in the members that are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    Digest {
        members: Vec<String>,
        from: String,
        to: String,
    },
    /// The shares of a map change places.
    Shares {
        members: Vec<String>,
    },
    /// Every text in it becomes long.
    Long {
        bytes: usize,
    },
}

type Hook = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

#[derive(Default)]
struct Plan {
    trouble: Option<(usize, Trouble)>,
    lie: Option<Lie>,
    /// Before this request, something else happens on the target.
    meanwhile: Option<(usize, Hook)>,
    sent: Vec<WireRequest>,
}

pub struct Tap {
    inner: Arc<dyn Wire>,
    plan: Mutex<Plan>,
}

impl Tap {
    pub fn new(inner: Arc<dyn Wire>) -> Self {
        Self {
            inner,
            plan: Mutex::default(),
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was planned and what was sent.
    pub fn clear(&self) {
        *self.plan() = Plan::default();
    }

    pub fn trouble(&self, at: usize, trouble: Trouble) {
        self.clear();
        self.plan().trouble = Some((at, trouble));
    }

    pub fn lie(&self, lie: Lie) {
        self.clear();
        self.plan().lie = Some(lie);
    }

    pub fn meanwhile(&self, at: usize, hook: Hook) {
        self.clear();
        self.plan().meanwhile = Some((at, hook));
    }

    /// Requests since the last plan.
    pub fn sent(&self) -> Vec<WireRequest> {
        self.plan().sent.clone()
    }

    /// The same target, unobserved.
    pub fn inner(&self) -> Arc<dyn Wire> {
        self.inner.clone()
    }
}

impl Wire for Tap {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a> {
        Box::pin(async move {
            let (trouble, lie, hook) = {
                let mut plan = self.plan();
                let at = plan.sent.len();
                plan.sent.push(request.clone());
                let trouble = plan
                    .trouble
                    .clone()
                    .filter(|(when, _)| *when == at)
                    .map(|(_, trouble)| trouble);
                let hook = plan.meanwhile.take_if(|(when, _)| *when == at).map(|(_, hook)| hook);
                (trouble, plan.lie.clone(), hook)
            };
            if let Some(hook) = hook {
                hook().await;
            }
            let lost = || SendFail::Lost("the connection was cut by the test".into());
            match trouble {
                None => {}
                Some(Trouble::Unreachable) => return Err(SendFail::Unreachable("refused by the test".into())),
                Some(Trouble::LostBefore) => return Err(lost()),
                Some(Trouble::LostAfter) => {
                    // Its effect remains, whatever came back.
                    let _ = self.inner.send(request).await;
                    return Err(lost());
                }
                Some(Trouble::TooLarge) => return Err(SendFail::TooLarge("the answer is too large, says the test".into())),
                Some(Trouble::Status(status, body)) => return Ok(answer(status, body)),
                Some(Trouble::Garbage) => {
                    let _ = self.inner.send(request).await;
                    return Ok(answer(200, b"<html>the proxy says hello".to_vec()));
                }
            }
            let exchange = self.inner.send(request).await?;
            Ok(match lie {
                Some(lie) => told(&lie, exchange),
                None => exchange,
            })
        })
    }
}

fn answer(status: u16, body: Vec<u8>) -> Exchange {
    Exchange {
        status,
        headers: vec![("content-type".into(), "application/json".into())],
        body,
    }
}

fn told(lie: &Lie, exchange: Exchange) -> Exchange {
    let Ok(mut body) = serde_json::from_slice::<Value>(&exchange.body) else {
        return exchange;
    };
    rewrite(lie, &mut body, false);
    Exchange {
        body: body.to_string().into_bytes(),
        ..exchange
    }
}

/// `inside`: below a member that the lie is about.
fn rewrite(lie: &Lie, value: &mut Value, inside: bool) {
    let members = match lie {
        Lie::Digest { members, .. } | Lie::Shares { members } => members.as_slice(),
        Lie::Long { .. } => &[],
    };
    match (lie, &mut *value) {
        (Lie::Digest { from, to, .. }, Value::String(text)) if inside && text == from => to.clone_into(text),
        (Lie::Shares { .. }, Value::Object(shares)) if inside => {
            let mut reversed: Vec<Value> = shares.values().cloned().collect();
            reversed.reverse();
            shares.values_mut().zip(reversed).for_each(|(share, other)| *share = other);
        }
        (Lie::Long { bytes }, Value::String(text)) if text.contains(' ') => *text = "long ".repeat(bytes / 5),
        (_, Value::Object(fields)) => {
            for (name, field) in fields {
                rewrite(lie, field, inside || members.contains(name));
            }
        }
        (_, Value::Array(items)) => items.iter_mut().for_each(|item| rewrite(lie, item, inside)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lies_are_told_where_they_are_meant() {
        let members = |name: &str| vec![name.to_owned()];
        let digest = Lie::Digest {
            members: members("running"),
            from: "a".into(),
            to: "b".into(),
        };
        for (lie, before, after) in [
            (
                &digest,
                json!({ "wanted": "a", "running": ["a", "x"] }),
                json!({ "wanted": "a", "running": ["b", "x"] }),
            ),
            (
                &Lie::Shares {
                    members: members("applied"),
                },
                json!({ "shares": { "1": 9, "2": 1 }, "applied": { "1": 9, "2": 1 } }),
                json!({ "shares": { "1": 9, "2": 1 }, "applied": { "1": 1, "2": 9 } }),
            ),
        ] {
            let mut value = before;
            rewrite(lie, &mut value, false);
            assert_eq!(value, after);
        }
    }
}
