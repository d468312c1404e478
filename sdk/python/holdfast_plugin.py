"""Target plugins for Holdfast in Python.

Subclass Plugin, and put `Target = export(MyPlugin)` at the end of plugin.py. A plugin keeps no state: every call is a fresh
instance. Raise a Fault to say no; any other exception is logged and answered as `internal`, never a trap. Modules are imported
when the plugin is built, so import at the top of a file only; there is no print, use log().
"""

import json
import traceback

from componentize_py_types import Err
from wit_world.imports import endpoint as _endpoint
from wit_world.imports import log as _log
from wit_world.imports import types as _types
from wit_world.imports.types import (  # noqa: F401  what plugins use
    Abilities,
    Artifact,
    Context,
    Evidence,
    Generation,
    GenerationState,
    Instance,
    Page,
    Phase,
    Problem,
    Proof,
    Query,
    Report,
    RouteEntry,
    RouteState,
    Routing,
    Share,
    Sizing,
)

PAGES_MAX = 1000
SWAPS_MAX = 5
MESSAGE_MAX = 300


class Fault(Exception):
    """Why a verb did not do what was asked; use the class that says who has to act."""

    wit = _types.Fault_Internal

    def as_wit(self):
        return self.wit(str(self)[:MESSAGE_MAX])


class Invalid(Fault):
    """Committer or operator must change something; never retried unchanged."""

    wit = _types.Fault_Invalid


class Failed(Fault):
    """The release itself failed: counts towards quarantine."""

    wit = _types.Fault_Failed


class Conflict(Fault):
    """Something that is not ours is in the way, or this number belongs to another release."""

    wit = _types.Fault_Conflict


class Denied(Fault):
    wit = _types.Fault_Denied


class Exhausted(Fault):
    """Quota, disk, capacity."""

    wit = _types.Fault_Exhausted


class Absent(Fault):
    """No such generation, or job."""

    wit = _types.Fault_Absent


class Unavailable(Fault):
    wit = _types.Fault_Unavailable


class Internal(Fault):
    pass


class Fenced(Fault):
    """The target has seen this higher fence."""

    def __init__(self, fence):
        super().__init__(f"the target has seen fence {fence}")
        self.fence = fence

    def as_wit(self):
        return _types.Fault_Fenced(self.fence)


class Pending(Exception):
    """Not done yet, and no failure: the host calls again with the same arguments."""

    def __init__(self, after_ms, message="", resume=""):
        super().__init__(message)
        self.wait = _types.Wait(resume, after_ms, message)


def log(message, level="info"):
    _log.write(getattr(_log.Level, level.upper()), str(message))


def _fault_of(status, text):
    message = f"HTTP {status}: {text}"
    if status in (400, 405, 422):
        return Invalid(message)
    if status in (401, 403):
        return Denied(message)
    if status in (404, 410):
        return Absent(message)
    if status in (409, 412):
        return Conflict(message)
    if status in (413, 429, 507):
        return Exhausted(message)
    return Unavailable(message)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {header.name.lower(): header.value for header in response.headers}
        self.body = response.body

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Unavailable(f"the endpoint's answer is not JSON: {error}") from error

    def expect_success(self):
        if 200 <= self.status < 300:
            return self
        raise _fault_of(self.status, self.body[:MESSAGE_MAX].decode("utf-8", "replace"))


class Endpoint:
    """A client for one alias. Nothing is retried in the guest; a lost compare-and-swap is read again."""

    def __init__(self, alias):
        self.alias = alias

    def send(self, method, path, body=None, headers=()):
        wanted = [_endpoint.Header("accept", "application/json")]
        content = _endpoint.Content_Empty()
        if body is not None:
            wanted.append(_endpoint.Header("content-type", "application/json"))
            content = _endpoint.Content_Bytes(json.dumps(body).encode())
        wanted.extend(_endpoint.Header(name, value) for name, value in headers)
        try:
            return Answer(_endpoint.send(self.alias, _endpoint.Request(method, path, wanted, content, 0)))
        except Err as error:
            fail = error.value
            if isinstance(fail, _endpoint.Fail_Denied):
                raise Denied(fail.value) from error
            if isinstance(fail, _endpoint.Fail_TooLarge):
                raise Exhausted(fail.value) from error
            if isinstance(fail, _endpoint.Fail_Lost):
                raise Unavailable(f"sent, but no answer came: {fail.value}") from error
            raise Unavailable(fail.value) from error

    def get(self, path):
        return self.send("GET", path).expect_success().json()

    def find(self, path):
        """None where there is nothing."""
        return self._read(path)[0]

    def put(self, path, body):
        return self.send("PUT", path, body).expect_success()

    def remove(self, path):
        """What is not there is gone already."""
        answer = self.send("DELETE", path)
        if answer.status not in (404, 410):
            answer.expect_success()

    def list(self, first, items=lambda page: page["items"], following=lambda page: page.get("next")):
        """Every item of a paged list. A short list would mean that the rest is gone, so too long a one is a fault."""
        found, path = [], first
        for _ in range(PAGES_MAX):
            page = self.get(path)
            try:
                found.extend(items(page))
                path = following(page)
            except (KeyError, TypeError, AttributeError) as error:
                raise Unavailable(f"the list {first} is not what was expected: {error!r}") from error
            if not path:
                return found
        raise Unavailable(f"the list {first} has more than {PAGES_MAX} pages")

    def list_by_stamp(self, first, is_ours, **how):
        """What carries our stamp, and what does not."""
        everything = self.list(first, **how)
        return [one for one in everything if is_ours(one)], [one for one in everything if not is_ours(one)]

    def create_or_match(self, path, wanted, is_same):
        """Creates what is not there; what is there has to be the same thing."""
        answer = self.send("PUT", path, wanted, [("if-none-match", "*")])
        if answer.status not in (409, 412):
            answer.expect_success()
        elif not is_same(self.get(path)):
            raise Conflict(f"{path} is there already, and is something else")

    def swap(self, path, change):
        """Compare-and-swap. `change` sees what is there (None: nothing), each time anew, and gives what shall be (None: leave it)."""
        for _ in range(SWAPS_MAX):
            there, etag = self._read(path)
            wanted = change(there)
            if wanted is None:
                return
            condition = [("if-match", etag)] if etag else [] if there is not None else [("if-none-match", "*")]
            answer = self.send("PUT", path, wanted, condition)
            if answer.status != 412:
                answer.expect_success()
                return
        raise Unavailable(f"others wrote {path} {SWAPS_MAX} times in between")

    def _read(self, path):
        answer = self.send("GET", path)
        if answer.status in (404, 410):
            return None, None
        document = answer.expect_success().json()
        if not isinstance(document, dict):
            raise Unavailable(f"{path} is not a JSON object")
        return document, answer.headers.get("etag")


def may_write(ctx, what, owner, fence):
    """What a verb looks at first, on each object that it is about to write."""
    if owner != ctx.owner:
        raise Conflict(f"{what} belongs to another installation")
    if fence > ctx.fence:
        raise Fenced(fence)


def main_artifact(generation):
    for artifact in generation.artifacts:
        if artifact.name == "main":
            return artifact
    if generation.artifacts:
        return generation.artifacts[0]
    raise Invalid("the release has no artifact")


def weighted(**different):
    """Generations side by side with any share, as many instances as planned, fenced by compare-and-swap."""
    claims = dict(
        routing=Routing.WEIGHTED,
        most_live=16,
        finest_share=1,
        sizing=Sizing.PLANNED,
        overlap=True,
        staged=True,
        seamless=True,
        guarded=True,
        probed=False,
    )
    return Abilities(**{**claims, **different})


def document(**different):
    """One document that says what runs: nothing beside what is live."""
    claims = dict(routing=Routing.SINGLE, most_live=1, finest_share=10_000, sizing=Sizing.UNSIZED, overlap=False, staged=False, guarded=False)
    return weighted(**{**claims, **different})


_JSON_TYPES = {"string": str, "boolean": bool, "object": dict, "array": list, "integer": int, "number": (int, float)}


def problems_of(schema, value, at):
    """What does not fit, each at its JSON pointer. Of JSON Schema: type, properties, required, additionalProperties, items, enum."""
    wanted = schema.get("type")
    known = _JSON_TYPES.get(wanted)
    is_number = isinstance(value, bool) and wanted in ("integer", "number")
    if known and (not isinstance(value, known) or is_number):
        return [Problem(at, f"this has to be of type {wanted}", "")]
    if "enum" in schema and value not in schema["enum"]:
        return [Problem(at, f"this has to be one of {', '.join(map(str, schema['enum']))}", "")]
    found = []
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        for name, field in value.items():
            place = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            if name in fields:
                found += problems_of(fields[name], field, place)
            elif schema.get("additionalProperties") is False:
                found.append(Problem(place, f"unknown field {name}", f"known are {', '.join(fields) or 'none'}"))
        found += [Problem(at, f"missing field {name}", "") for name in schema.get("required", []) if name not in value]
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += problems_of(schema["items"], item, f"{at}/{index}")
    return found


class Plugin:
    """What a target can do. Each method's promise stands in sdk/wit, in the comments of `interface target`."""

    #: JSON Schemas; `config` also stands in plugin.json.
    config = {"type": "object", "additionalProperties": False}
    template = {"type": "object", "additionalProperties": False}

    def abilities(self, config, template):
        raise NotImplementedError

    def problems(self, ctx, config, subject, template):
        """What the schemas cannot say."""
        return []

    def observe(self, ctx, config, query):
        raise NotImplementedError

    def launch(self, ctx, config, subject, template, size):
        raise Invalid("nothing can be staged on this target")

    def scale(self, ctx, config, subject, template, size):
        raise Invalid("nothing can be sized on this target")

    def route(self, ctx, config, entries):
        raise NotImplementedError

    def retire(self, ctx, config, subject, last):
        raise NotImplementedError


def _answered(verb):
    """An exception is a fault, and never a trap."""

    def call(*arguments):
        try:
            return verb(*arguments)
        except Fault as fault:
            raise Err(fault.as_wit()) from None
        except Exception as error:  # noqa: BLE001  whatever the plugin's own code does
            log(traceback.format_exc(), "error")
            raise Err(_types.Fault_Internal(f"{type(error).__name__}: {error}"[:MESSAGE_MAX])) from None

    return call


def _done(verb):
    def call(*arguments):
        try:
            verb(*arguments)
        except Pending as pending:
            return _types.Progress_Pending(pending.wait)
        return _types.Progress_Done()

    return _answered(call)


def export(plugin_class):
    """What componentize-py looks for under the name Target."""
    plugin = plugin_class()

    def check(_, ctx, subject):
        config, template = json.loads(ctx.config), json.loads(subject.template)
        found = problems_of(plugin.config, config, "/config") + problems_of(plugin.template, template, "/template")
        if found:
            return Report(found, document())
        return Report(plugin.problems(ctx, config, subject, template), plugin.abilities(config, template))

    def observe(_, ctx, query):
        return plugin.observe(ctx, json.loads(ctx.config), query)

    def sized(method):
        return lambda _, ctx, subject, size: method(ctx, json.loads(ctx.config), subject, json.loads(subject.template), size)

    def route(_, ctx, entries):
        plugin.route(ctx, json.loads(ctx.config), entries)

    def retire(_, ctx, subject, last):
        plugin.retire(ctx, json.loads(ctx.config), subject, last)

    methods = {
        "check": _answered(check),
        "observe": _answered(observe),
        "launch": _done(sized(plugin.launch)),
        "scale": _done(sized(plugin.scale)),
        "route": _done(route),
        "retire": _done(retire),
    }
    return type("Target", (), methods)
