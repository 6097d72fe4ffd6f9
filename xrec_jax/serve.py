"""Serves what a run has stored over HTTP: recommendations and explanations.

    python -m xrec_jax.serve --workdir RUN                    # http://127.0.0.1:8000/docs tells and tries everything
    python -m xrec_jax.serve --workdir RUN --generate         # pairs without an explanation are written when asked for

    GET /users/{user}/recommendations?k=10&explain=true       the run's list for a user, with its explanations
    GET /explanations?user=U&item=I                           the explanations of a pair; 404 where there are none
    GET /health, /metrics                                     for load balancers and Prometheus

Lists of --top_k items are made and stored once, before the server listens. Without --generate neither data nor models
are read after that. Ids come in as texts that are looked up in tables, never as names of files.
"""

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from absl import flags
import fastapi
import prometheus_client
import pydantic
import uvicorn

from xrec_jax import api, cli
from xrec_jax.api import Pair, Run
from xrec_jax.errors import UserError
from xrec_jax.runs import compile_cache, progress
from xrec_jax.runs.lists import Lists

MOST_ID = 200  # characters of an id
MOST_WAITING = 256  # pairs that wait to be written
BATCH = 64  # of them that are written together
BUCKETS = (.0005, .001, .002, .005, .01, .02, .05, .1, .5, 1, 5, 30)  # seconds
NO_LIST = 'there is no list for this user'

Id = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=MOST_ID)]


# ------------------------------------------------------------------ what comes back, for the OpenAPI page


class Explanation(pydantic.BaseModel):
    user_id: str
    item_id: str
    kind: str = pydantic.Field(description='what the text is for: reason, positive or negative')
    text: str
    split: str | None = pydantic.Field(description='of the example that the pair is; or what else it was asked for')
    in_form: bool | None = pydantic.Field(description='whether it has the form that was asked for')
    llm_score: float | None = pydantic.Field(description='does the frozen model expect a like after it?')
    truncated: bool | None
    phase: str = pydantic.Field(description='of the run, that wrote it; "asked": written on demand')


class Explanations(pydantic.BaseModel):
    user: str
    item: str
    explanations: list[Explanation]


class Recommendation(pydantic.BaseModel):
    rank: int
    item_id: str
    title: str
    score: float
    explanations: list[Explanation] | None = pydantic.Field(description='with explain=true: those that are stored')


class Recommendations(pydantic.BaseModel):
    user: str
    predictor: str
    recommendations: list[Recommendation]


class Problem(pydantic.BaseModel):
    detail: str
    hint: str


class Health(pydantic.BaseModel):
    status: str
    workdir: str
    explanations: int
    lists: int
    generates: bool


# ---------------------------------------------------------------------------------------- the app


def make_app(run: Run, lists: Lists | None, generate: bool = False) -> fastapi.FastAPI:
    """The app of a run with its stored `lists`; with `generate` it loads data and language model first."""
    writer, most = _Writer(run) if generate else None, lists.k if lists else 100
    meter = _Meter()

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        del app
        task = asyncio.create_task(writer.work()) if writer else None
        yield
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await writer.keep()

    app = fastapi.FastAPI(title='xrec_jax', description=__doc__.split('\n\n')[0], version='0.1.0', lifespan=lifespan)
    app.add_middleware(meter.middleware)

    def stored(user: str, item: str) -> list[dict]:
        found = run.store.find(user, item) if run.store else []
        return found or (writer.rows.get((user, item), []) if writer else [])

    missing = {404: {'model': Problem, 'description': 'There is none'}}
    full = {429: {'model': Problem, 'description': 'Too many pairs wait to be written'}} if generate else {}

    @app.get('/users/{user:path}/recommendations', response_model=Recommendations, responses=missing)
    async def recommendations(
            user: Id, k: Annotated[int, fastapi.Query(ge=1, le=most)] = min(10, most),
            explain: Annotated[bool, fastapi.Query(description='with the explanations that are stored')] = False):
        """The items that the run's predictor puts first for a user, best first."""
        found = lists.find(user, k) if lists else None
        if found is None:
            return _problem(404, NO_LIST, 'ids are those of the source data; the run ranks for the users that it has '
                            'examples of' if lists else 'the run has no predictor, or its data are not here')
        rows = [{'rank': rank, **one, 'explanations': stored(user, one['item_id']) if explain else None}
                for rank, one in enumerate(found, 1)]
        return _json({'user': user, 'predictor': lists.predictor, 'recommendations': rows})

    @app.get('/explanations', response_model=Explanations, responses=missing | full)
    async def explanations(user: Annotated[Id, fastapi.Query()], item: Annotated[Id, fastapi.Query()]):
        """Why a user would like an item, or would not."""
        found = stored(user, item)
        if not found and writer and writer.knows(user, item):
            if writer.full:
                return _problem(429, 'too many pairs wait to be written', 'ask again in a while')
            found = await writer.ask((user, item))
        if found:
            return _json({'user': user, 'item': item, 'explanations': found})
        return _problem(404, 'no explanation of this pair', _hint(run, user, generate))

    @app.get('/health', response_model=Health)
    async def health():
        """What is served."""
        return _json({'status': 'ok', 'workdir': run.workdir.name, 'generates': generate, 'lists': len(lists or ()),
                      'explanations': len(run.store.table) if run.store else 0})

    @app.get('/metrics', response_class=fastapi.responses.PlainTextResponse)
    async def metrics():
        """Requests by route and status, and their seconds, as Prometheus reads them."""
        return fastapi.Response(prometheus_client.generate_latest(meter.registry),
                                media_type='text/plain; version=0.0.4; charset=utf-8')

    return app


def _hint(run: Run, user: str, generate: bool) -> str:
    items = run.store.items_of(user, 10) if run.store else []
    if items:
        return f'of this user are explained, among others: {", ".join(items)}'
    if generate:
        return 'the data of the run do not have both ids'
    return 'ids are those of the source data; started with --generate, the server writes what is missing'


def _json(value: dict, status: int = 200) -> fastapi.Response:
    """As it is: the models above are what the page says, and are not gone through for each answer."""
    return fastapi.Response(json.dumps(value, ensure_ascii=False), status, media_type='application/json')


def _problem(status: int, detail: str, hint: str) -> fastapi.Response:
    return _json({'detail': detail, 'hint': hint}, status)


class _Writer:
    """Writes pairs when they are asked for: those that wait meanwhile are written together.

    What is written goes to the run's store once a minute, and when the server ends; till then it is in `rows`.
    """

    def __init__(self, run: Run):
        self.run = run
        run.writer  # now, and not at the first request
        self._users, self._items = (set(table.column(0).to_pylist()) for table in (run.dataset.users, run.dataset.items))
        self.rows: dict[Pair, list[dict]] = {}
        self._waiting: dict[Pair, asyncio.Future] = {}
        self._some = asyncio.Event()

    def knows(self, user: str, item: str) -> bool:
        return user in self._users and item in self._items

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MOST_WAITING

    async def ask(self, pair: Pair) -> list[dict]:
        """The explanations of a pair, once they are written."""
        if pair not in self._waiting:
            self._waiting[pair] = asyncio.get_running_loop().create_future()
            self._some.set()
        return await asyncio.shield(self._waiting[pair])

    async def work(self) -> None:
        """Writes for ever."""
        kept = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), api.KEEP_EVERY)
            if pairs := list(self._waiting)[:BATCH]:
                await self._write(pairs)
            if not self._waiting:
                self._some.clear()
            if time.monotonic() - kept >= api.KEEP_EVERY:
                await self.keep()
                kept = time.monotonic()

    async def _write(self, pairs: list[Pair]) -> None:
        try:
            written: dict[Pair, list[dict]] = {pair: [] for pair in pairs}
            for row in await asyncio.to_thread(self.run.write, pairs, keep=False):
                written[row['user_id'], row['item_id']].append(row)
        except Exception as error:  # those who asked are told, and the next pairs are written
            for pair in pairs:
                self._waiting.pop(pair).set_exception(error)
        else:
            self.rows |= written
            for pair in pairs:
                self._waiting.pop(pair).set_result(written[pair])

    async def keep(self) -> None:
        """Stores what was written."""
        if self.rows:
            rows = dict(self.rows)
            await asyncio.to_thread(self.run.keep, [row for of_pair in rows.values() for row in of_pair])
            for pair in rows:
                del self.rows[pair]


class _Meter:
    """Counts requests and their seconds, by the routes of the app: paths from outside make no series of their own."""

    def __init__(self):
        self.registry = prometheus_client.CollectorRegistry()
        self._count = prometheus_client.Counter('xrec_requests', 'Requests', ('route', 'status'), registry=self.registry)
        self._seconds = prometheus_client.Histogram('xrec_request_seconds', 'Seconds of a request', ('route',),
                                                    registry=self.registry, buckets=BUCKETS)

    def middleware(self, app: Callable) -> Callable:
        """An ASGI app around `app`."""

        async def metered(scope: dict[str, Any], receive: Callable, send: Callable) -> None:
            if scope['type'] != 'http':
                return await app(scope, receive, send)
            start, status = time.perf_counter(), ['500']

            async def noting(message: dict[str, Any]) -> None:
                if message['type'] == 'http.response.start':
                    status[0] = str(message['status'])
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                route = getattr(scope.get('route'), 'path', 'other')
                self._count.labels(route, status[0]).inc()
                self._seconds.labels(route).observe(time.perf_counter() - start)

        return metered


# --------------------------------------------------------------------------------------- the command


def main(argv: list[str]) -> None:
    del argv
    args = flags.FLAGS
    compile_cache.use()
    run = api.load(args.workdir, args.data_dir or '')
    if args.generate:
        progress.say('loading data and language model')
    lists = made_lists(run, args.top_k, args.predictor)
    app = make_app(run, lists, args.generate)
    if not run.store and not lists and not args.generate:
        raise UserError(f'{run.workdir} has nothing to serve: no stored explanations, and no predictor that recommends.')
    stored = len(run.store.table) if run.store else 0
    progress.say(f'{stored:,} explanations, lists for {len(lists or ()):,} users; http://{args.host}:{args.port}/docs')
    gc.freeze()  # what is here stays: collections do not go through it, and answers do not wait for that
    uvicorn.run(app, host=args.host, port=args.port, log_level='warning', access_log=False, limit_concurrency=1000)


def made_lists(run: Run, k: int, predictor: str) -> Lists | None:
    """The stored lists, made first where there are none of `k` items; None where the run cannot make any."""
    stored = run.stored_lists(predictor)
    if stored and stored.k >= k:
        return stored
    try:
        return run.write_lists(k, predictor)
    except UserError as error:
        if predictor:
            raise
        progress.warn(f'no recommendations are served: {error}')
        return stored


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of the command, in `values`."""
    own = {'flag_values': values}
    flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True, **own)
    flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0 for all of the machine.', **own)
    flags.DEFINE_integer('port', 8000, 'Port to listen on.', lower_bound=1, upper_bound=65535, **own)
    flags.DEFINE_integer('top_k', 100, 'Items of a stored list, the most that k may be.', lower_bound=1,
                         upper_bound=10_000, **own)
    flags.DEFINE_string('predictor', '', 'Name of the fit that recommends; the last one without explanations by default.',
                        **own)
    flags.DEFINE_bool('generate', False, 'Write what is not stored when it is asked for, with the trained model.', **own)
    flags.DEFINE_string('data_dir', None, 'Where the raw data lie now, if not where the config of the run says.', **own)


if __name__ == '__main__':
    define_flags()
    cli.run(main)
