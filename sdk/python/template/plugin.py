"""A target plugin over an API that keeps JSON documents: a unit for each generation, and for each workload one document with
its shares, which is also where fences are compared."""

from holdfast_plugin import (
    Absent,
    Conflict,
    Endpoint,
    Evidence,
    GenerationState,
    Page,
    Phase,
    Plugin,
    Proof,
    RouteState,
    Share,
    export,
    main_artifact,
    may_write,
    weighted,
)

API = Endpoint("api")
STRANGERS_MAX = 50


def unit_path(generation):
    return f"/units/{generation.name}"


def workload_path(generation):
    return f"/workloads/{generation.key}"


def claim(ctx, generation, change=lambda workload: None):
    """Every verb that writes begins here: whose the workload is, and whether somebody newer is at work."""

    def swap(there):
        workload = there or {"owner": ctx.owner, "workload": generation.workload, "fence": 0, "shares": {}, "applied": {}}
        may_write(ctx, "the workload", workload["owner"], workload["fence"])
        workload["fence"] = ctx.fence
        change(workload)
        return workload

    API.swap(workload_path(generation), swap)


class Store(Plugin):
    def abilities(self, config, template):
        return weighted()

    def observe(self, ctx, config, query):
        units, strangers = API.list_by_stamp("/units", lambda item: item["document"].get("record", {}).get("owner") == ctx.owner)
        workloads, _ = API.list_by_stamp("/workloads", lambda item: item["document"].get("owner") == ctx.owner)
        documents = [item["document"] for item in units]
        routes = [item["document"] for item in workloads]
        fences = [unit["record"]["fence"] for unit in documents] + [workload["fence"] for workload in routes]
        asked_for = lambda workload: query.workload in (None, workload)  # noqa: E731
        return Page(
            owner=None,
            high_fence=max(fences, default=0),
            generations=[state(unit) for unit in documents if asked_for(unit["record"]["workload"])],
            routes=[route_state(workload) for workload in routes if asked_for(workload["workload"])],
            strangers=[item["path"] for item in strangers][:STRANGERS_MAX],
            more=None,
        )

    def launch(self, ctx, config, subject, template, size):
        claim(ctx, subject)
        artifact = main_artifact(subject)

        def swap(there):
            if there and there["record"]["release_id"] != subject.release_id:
                raise Conflict(f"{subject.name} is there, of another release")
            record = {
                "owner": ctx.owner,
                "workload": subject.workload,
                "fence": ctx.fence,
                "number": subject.number,
                "release_id": subject.release_id,
                "artifact": artifact.name,
                "digest": artifact.digest,
            }
            return {"record": record, "size": size, "running": (there or {}).get("running", "")}

        API.swap(unit_path(subject), swap)

    def scale(self, ctx, config, subject, template, size):
        claim(ctx, subject)

        def swap(unit):
            if unit is None:
                raise Absent(f"{subject.name} is not there")
            unit["size"] = size
            unit["record"]["fence"] = ctx.fence
            return unit

        API.swap(unit_path(subject), swap)

    def route(self, ctx, config, entries):
        shares = {str(entry.generation.number): entry.live for entry in entries}
        claim(ctx, entries[0].generation, lambda workload: workload.update(shares=shares))

    def retire(self, ctx, config, subject, last):
        workload = API.find(workload_path(subject))
        if workload is None:
            return
        number = str(subject.number)
        if not last and workload["applied"].get(number, 0) > 0:
            raise Conflict(f"{subject.name} has traffic")
        claim(ctx, subject, lambda workload: workload["shares"].pop(number, None))
        API.remove(unit_path(subject))
        if last:
            API.remove(workload_path(subject))


def state(unit):
    record, running = unit["record"], unit.get("running", "")
    phase = Phase.PARKED if unit["size"] == 0 else Phase.READY if running else Phase.STARTING
    ready = unit["size"] if phase == Phase.READY else 0
    # What it was asked to run proves nothing.
    proofs = [Proof(record["artifact"], running, Evidence.REPORTED, ready)] if running else []
    return GenerationState(
        workload=record["workload"],
        number=record["number"],
        release_id=record["release_id"],
        fence=record["fence"],
        phase=phase,
        reason="",
        message="",
        wanted=unit["size"],
        ready=ready,
        restarts=0,
        proofs=proofs,
        fingerprint="",
        objects=[f"{record['workload']} g{record['number']}"],
        instances=[],
    )


def route_state(workload):
    applied = workload.get("applied", {})
    return RouteState(
        workload=workload["workload"],
        fence=workload["fence"],
        shares=[Share(int(number), live) for number, live in applied.items()],
        settled=applied == workload["shares"],
        fingerprint="",
    )


Target = export(Store)
