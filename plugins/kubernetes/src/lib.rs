//! The target plugin for one namespace of a Kubernetes cluster. A generation is a Deployment of its own whose pod template is
//! never changed; traffic is the selector of one Service, or the weights of one HTTPRoute.

mod api;
mod capacity;
mod explain;
mod health;
mod job;
mod objects;
mod observe;
mod preview;
mod shared;
mod stamp;
mod template;
mod traffic;
mod verbs;

use api::Api;
use holdfast_plugin::{
    Capacity, Change, Context, Diagnosis, Excerpt, Fault, Generation, Jobs, Page, Preview, Problem, Progress, Query, Report,
    RouteEntry, Target, export_target,
};
use template::{Config, Template};

struct Kubernetes;
export_target!("plugin.json", Kubernetes: jobs, preview, diagnosis, capacity);

fn config(ctx: &Context) -> Result<Config, Fault> {
    holdfast_plugin::config(&ctx.config)
}

fn api(ctx: &Context) -> Result<Api, Fault> {
    Ok(Api::new(&config(ctx)?.namespace))
}

fn template(subject: &Generation) -> Result<Template, Fault> {
    holdfast_plugin::template(&subject.template).map_err(|problem| Fault::Invalid(format!("{}: {}", problem.at, problem.message)))
}

impl Target for Kubernetes {
    fn check(ctx: Context, subject: Generation) -> Result<Report, Fault> {
        let (problems, template) = template::check(&ctx.config, &subject);
        // Where the template cannot be read at all, nothing depends on what it could do.
        let abilities = template.unwrap_or_default().abilities();
        Ok(Report { problems, abilities })
    }

    fn observe(ctx: Context, query: Query) -> Result<Page, Fault> {
        observe::observe(&ctx, &config(&ctx)?, &query)
    }

    fn launch(ctx: Context, subject: Generation, size: u32) -> Result<Progress, Fault> {
        verbs::launch(&api(&ctx)?, &ctx, &subject, &template(&subject)?, size)
    }

    fn scale(ctx: Context, subject: Generation, size: u32) -> Result<Progress, Fault> {
        verbs::scale(&api(&ctx)?, &ctx, &subject, size)
    }

    fn route(ctx: Context, entries: Vec<RouteEntry>) -> Result<Progress, Fault> {
        traffic::route(&api(&ctx)?, &ctx, &entries)
    }

    fn retire(ctx: Context, subject: Generation, last: bool) -> Result<Progress, Fault> {
        let config = config(&ctx)?;
        verbs::retire(&Api::new(&config.namespace), &ctx, &config, &subject, last)
    }
}

impl Jobs for Kubernetes {
    fn check_job(_: Context, subject: Generation, _: String, text: String) -> Result<Vec<Problem>, Fault> {
        Ok(template::check_job(&text, &subject))
    }

    fn run(ctx: Context, subject: Generation, name: String, text: String) -> Result<Progress, Fault> {
        job::run(&api(&ctx)?, &ctx, &subject, &name, &text)
    }
}

impl Preview for Kubernetes {
    fn diff(ctx: Context, current: Option<Generation>, wanted: Generation) -> Result<Vec<Change>, Fault> {
        preview::changes(&api(&ctx)?, &ctx, current.as_ref(), &wanted)
    }
}

impl Diagnosis for Kubernetes {
    fn explain(ctx: Context, subject: Generation) -> Result<Vec<Excerpt>, Fault> {
        explain::explain(&api(&ctx)?, &ctx, &subject)
    }
}

impl Capacity for Kubernetes {
    fn room(ctx: Context, subject: Generation) -> Result<Option<u32>, Fault> {
        capacity::room(&api(&ctx)?, &template(&subject)?)
    }
}
