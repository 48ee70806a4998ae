"""Every Redis key, lifetime and limit of the wire, in one place.

Names that come from outside (models, tenants) are percent-quoted, so that no name can run into the
next part of a key and `|` can separate fields in a hash value. Beside the lanes of `LANES` every
worker W has two of its own, `interactive.W` and `batch.W`, for requests whose images it may know.

    galen:leases              zset   worker -> end of its lease, Redis time in ms
    galen:workers             hash   worker -> WorkerRecord
    galen:models              hash   model -> WorkerRecord of the last worker that served it
    galen:work:M:L:T          stream of requests of model M, lane L, tenant T; group `workers`
    galen:turns:M:L           zset   tenant with waiting requests -> tokens it was given, as far as
                                     was last known; the least first
    galen:given:M:L           hash   tenant -> tokens that it was given, from this lane and from
                                     workers' own ones; `|` -> those of the tenant served last, then
    galen:depth               hash   M|L -> waiting requests, those in workers' own lanes included
    galen:claimed             hash   M|L -> requests that workers took, ever
    galen:bell:M:C            list   one element wakes one idle worker of M with room for class C
    galen:wake:W              list   an element wakes worker W
    galen:alone-owner:M       string the worker that runs empty, to run suspects alone
    galen:affine:W            hash   of W's own lanes: class -> waiting requests, room.CLASS -> how
                                     many more W had room for after its last claim (-1: it claims
                                     nothing), model -> M
    galen:affine_workers:M    set    workers in whose own lanes requests wait
    galen:running:W           hash   request -> attempt|strikes|entry|gateway|stream, held by W
    galen:control:W           list   cancellations and orders for worker W
    galen:inflight:G          hash   request -> attempt|entry|depth field|stream, sent by gateway G
    galen:gateway:G           string the gateway's lease
    galen:events:G            stream of EventBatches for gateway G
    galen:image:SHA           string a packed image
    galen:unloaded            set    models that were unloaded: nothing may be sent to them
    galen:host_leases         zset   host -> end of its lease, Redis time in ms
    galen:hosts               hash   host -> HostRecord
    galen:orders:H            list   orders to load and unload models for the agent of host H
    galen:order_reply:O       string the agent's reply to order O
    galen:limit:K             hash   what key K has left of this minute: requests, tokens, as of .at
    galen:limit_running:K     zset   request of key K under way -> when it counts no more, in ms
    galen:limit_spent:K:YM    string tokens that key K has used in a month
    galen:dead                stream of dead letters (no payload: it would hold a patient's text)
    galen:epoch               string drawn once per data set; another value: data were lost
    galen:fenced_writes       string count of writes refused to workers without a lease
    galen:fenced_renewals     string count of renewals refused because the lease was over
"""

from urllib.parse import quote, urlsplit

PREFIX = "galen:"
GROUP = "workers"

LEASE_MS = 3_000
"""A worker that does not renew for so long loses its requests (reliability goal: 5 s in all)."""
HEARTBEAT_S = 1.0
GATEWAY_LEASE_MS = 6_000
"""Longer than a worker's: a gateway that is late for a moment must not lose its streams."""
GATEWAY_STATE_MS = 60_000
"""A dead gateway's reply stream and in-flight table vanish after this."""
BLOCK_S = 1.0
"""Longest blocking read; a socket times out SOCKET_MARGIN_S later."""
SOCKET_MARGIN_S = 3.0
COMMAND_TIMEOUT_S = 2.0
CONTROL_TTL_S = 60
WORK_TTL_MS = 7_200_000
"""A sub-queue that nobody adds to or drains for so long is given up: it holds patients' text."""
IMAGE_TTL_S = 900
HOST_LEASE_MS = 6_000
ORDER_TTL_S = 60
"""Of an order that no agent takes, and of a reply that nobody reads."""
DELIVERY_LIMIT = 2
"""Workers that may die with a request before it goes to the dead letters."""
BELL_CAP = 16
DEAD_LETTERS_KEPT = 10_000

LANES = ("resume", "interactive", "batch_resume", "batch")
"""In the order in which they are drained; later attempts go before first ones of their lane."""
ALONE_LANE = "alone"
INTERACTIVE, BATCH = "interactive", "batch"
"""The classes of lanes. Those of `BATCH` begin with that word; all others are `INTERACTIVE`."""

LEASES = PREFIX + "leases"
WORKERS = PREFIX + "workers"
MODELS = PREFIX + "models"
DEPTH = PREFIX + "depth"
CLAIMED = PREFIX + "claimed"
UNLOADED = PREFIX + "unloaded"
HOST_LEASES = PREFIX + "host_leases"
HOSTS = PREFIX + "hosts"
DEAD = PREFIX + "dead"
EPOCH = PREFIX + "epoch"
FENCED_WRITES = PREFIX + "fenced_writes"
FENCED_RENEWALS = PREFIX + "fenced_renewals"


MOST_MODEL_NAME = 200
"""Characters; see `why_no_model_name`."""


def why_no_redis_address(url: str) -> str | None:
    """Return one line on an address that is none of a Redis; None where it may be one.

    It never quotes the address, which may hold a password.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in {"redis", "rediss", "unix"} or not rest:
        return "it must begin with redis://, rediss:// or unix:// and name a place"
    try:
        _ = urlsplit(url).port
    except ValueError:
        return "its port is no number from 0 to 65535; write redis://HOST:6379/0"
    return None


def why_no_model_name(name: str) -> str | None:
    """Return why no model may be called this, in one line; None where one may.

    A name stands in URLs, where `.` and `..` vanish, in log lines, tables and pasted commands.
    """
    has_dots = any(part in (".", "..") for part in name.split("/"))
    is_visible = name.isprintable() and " " not in name  # the only space that is printable
    if 0 < len(name) <= MOST_MODEL_NAME and is_visible and not has_dots:
        return None
    return (
        f"{name[:80]!r} cannot be a model's name: take 1 to {MOST_MODEL_NAME} letters, digits and "
        "signs; no spaces, no control characters, no `.` or `..` between slashes"
    )


def quoted(name: str) -> str:
    """Return `name` with everything but letters, digits and `_.-~` percent-quoted."""
    return quote(name, safe="")


def work(model: str, lane: str, tenant: str) -> str:
    """Stream of the waiting and running requests of one sub-queue."""
    return f"{PREFIX}work:{quoted(model)}:{lane}:{quoted(tenant)}"


def turns(model: str, lane: str) -> str:
    """Sorted set of the tenants whose turn will come."""
    return f"{PREFIX}turns:{quoted(model)}:{lane}"


def given(model: str, lane: str) -> str:
    """Hash of the tokens that tenants were given."""
    return f"{PREFIX}given:{quoted(model)}:{lane}"


def depth_field(model: str, lane: str) -> str:
    """Field of `DEPTH` that counts the waiting requests of a lane."""
    return f"{quoted(model)}|{lane}"


def bell(model: str, lane_class: str) -> str:
    """List on which the model's workers wait that have room for `interactive`, or for `batch`."""
    return f"{PREFIX}bell:{quoted(model)}:{lane_class}"


def wake(worker_id: str) -> str:
    """List on which one worker waits, whatever it has room for."""
    return f"{PREFIX}wake:{worker_id}"


def alone_owner(model: str) -> str:
    """String that names the worker which runs empty for suspects."""
    return f"{PREFIX}alone-owner:{quoted(model)}"


def affine(worker_id: str) -> str:
    """Hash about a worker's own lanes."""
    return f"{PREFIX}affine:{worker_id}"


def affine_workers(model: str) -> str:
    """Set of workers in whose own lanes requests wait."""
    return f"{PREFIX}affine_workers:{quoted(model)}"


def running(worker_id: str) -> str:
    """Hash of what a worker holds."""
    return f"{PREFIX}running:{worker_id}"


def control(worker_id: str) -> str:
    """List of cancellations and orders for a worker."""
    return f"{PREFIX}control:{worker_id}"


def orders(host_id: str) -> str:
    """List of orders for the agent of a host."""
    return f"{PREFIX}orders:{quoted(host_id)}"


def order_reply(order_id: str) -> str:
    """String with the reply to an order."""
    return f"{PREFIX}order_reply:{quoted(order_id)}"


def inflight(gateway_id: str) -> str:
    """Hash of what a gateway has sent and not had answered."""
    return f"{PREFIX}inflight:{gateway_id}"


def gateway_lease(gateway_id: str) -> str:
    """String that lives as long as its gateway."""
    return f"{PREFIX}gateway:{gateway_id}"


def events(gateway_id: str) -> str:
    """Reply stream of a gateway."""
    return f"{PREFIX}events:{gateway_id}"


def image(sha256: str) -> str:
    """A packed image."""
    return f"{PREFIX}image:{sha256}"


def limit_buckets(key_id: str) -> str:
    """Hash of what an API key has left of this minute."""
    return f"{PREFIX}limit:{quoted(key_id)}"


def limit_running(key_id: str) -> str:
    """Sorted set of an API key's requests under way."""
    return f"{PREFIX}limit_running:{quoted(key_id)}"


def limit_spent(key_id: str, month: str) -> str:
    """String with the tokens that an API key has used in a month (2026-11)."""
    return f"{PREFIX}limit_spent:{quoted(key_id)}:{month}"
