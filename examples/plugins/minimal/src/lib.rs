//! The smallest complete plugin: a service that runs what one JSON document says, behind `GET` and `PUT /document`.

use holdfast_plugin::*;
use serde::{Deserialize, Serialize};

const SERVICE: Endpoint = Endpoint::new("service");

#[derive(Serialize, Deserialize)]
struct Document {
    live: bool,
    record: Record,
}

struct Minimal;
export_target!("plugin.json", Minimal);

impl TargetPlugin for Minimal {
    type Config = Nothing;
    type Template = Nothing;

    fn abilities(_: &Nothing, _: &Nothing) -> Abilities {
        Abilities::document()
    }

    fn observe(call: &Call<Nothing>, query: &Query) -> Result<Page, Fault> {
        let mut page = Page::default();
        if let Some(Document { live, record }) = SERVICE.find("/document")?
            && page.takes(call, query, &record)
            && live
        {
            page.routes.push(record.clone().whole_route());
            page.generations.push(record.state(Phase::Ready, 1));
        }
        Ok(page)
    }

    fn route(call: &Call<Nothing>, entries: &[RouteEntry]) -> Result<Progress, Fault> {
        let chosen = entries.iter().find(|entry| entry.live > 0).or(entries.first());
        chosen.map_or(Ok(Progress::Done), |entry| write(call, &entry.generation, entry.live > 0))
    }

    fn retire(call: &Call<Nothing>, subject: &Generation, last: bool) -> Result<Progress, Fault> {
        let there: Option<Document> = SERVICE.find("/document")?;
        match there.filter(|there| last && there.record.workload == subject.workload) {
            Some(_) => write(call, subject, false),
            None => Ok(Progress::Done),
        }
    }
}

/// Owner and fence are looked at first, and another workload's document is left alone while it is live.
fn write(call: &Call<Nothing>, subject: &Generation, live: bool) -> Result<Progress, Fault> {
    let record = Record::of(call, subject)?;
    let foreign = |there: &Document| there.live && there.record.workload != subject.workload;
    SERVICE.replace("/document", &Document { live, record }, |there| match foreign(there) {
        true => Err(Fault::Conflict("it is another workload's".into())),
        false => there.record.may_write(call, "the document"),
    })?;
    Ok(Progress::Done)
}
