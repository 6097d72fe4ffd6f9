"""The HTTP app: what it answers, what it refuses, that nothing from outside makes it fail."""

import asyncio
import threading

import pytest

httpx = pytest.importorskip('httpx', reason='asks the app: pip install httpx')

from bench.serve import make_workdir, requests  # noqa: E402
from xrec_jax import api, serve  # noqa: E402
from xrec_jax.errors import UserError  # noqa: E402


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return api.load(str(make_workdir(tmp_path_factory.mktemp('serve') / 'run', num_users=12, per_user=3, k=5)))


@pytest.fixture(scope='module')
def app(run):
    return serve.make_app(run, run.stored_lists())


def get(app, *paths):
    """The answers to some paths, asked together."""

    async def ask():
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url='http://x') as client:
            return await asyncio.gather(*map(client.get, paths))

    return asyncio.run(ask())


def test_stored_answers(app):
    pair, best, explained, health = get(app, '/explanations?user=u3&item=i2', '/users/u3/recommendations?k=2',
                                        '/users/u3/recommendations?k=5&explain=true', '/health')
    assert pair.status_code == 200 and pair.headers['content-type'] == 'application/json'
    assert [row['item_id'] for row in pair.json()['explanations']] == ['i2']
    assert [(row['rank'], row['item_id'], row['title'], row['explanations']) for row in best.json()['recommendations']] == [
        (1, 'i0', 'Item i0', None), (2, 'i1', 'Item i1', None)]
    assert [len(row['explanations']) for row in explained.json()['recommendations']] == [1, 1, 1, 0, 0]
    assert health.json() == {'status': 'ok', 'workdir': 'run', 'generates': False, 'lists': 12, 'explanations': 36}


@pytest.mark.parametrize('path, status, told', [
    ('/explanations?user=u3&item=i9', 404, 'i0, i1, i2'),
    ('/explanations?user=u999&item=i0', 404, 'started with --generate'),
    ('/explanations?user=u3', 422, 'item'),
    ('/explanations?user=&item=i0', 422, 'at least 1 character'),
    (f'/explanations?user={"u" * 201}&item=i0', 422, 'at most 200 characters'),
    ('/users/nobody/recommendations', 404, 'no list'),
    ('/users/u3/recommendations?k=0', 422, 'greater than or equal to 1'),
    ('/users/u3/recommendations?k=6', 422, 'less than or equal to 5'),
    ('/users/..%2F..%2Fconfig.json/recommendations', 404, 'no list'),
    ('/..%2Fconfig.json', 404, 'Not Found'),
    ('/users/%00%ff/recommendations', 404, 'no list'),
])
def test_what_is_not_there_or_wrong_is_told(app, path, status, told):
    answer, = get(app, path)
    assert answer.status_code == status and told in answer.text


def test_requests_are_counted_by_route_and_status(run):
    app = serve.make_app(run, run.stored_lists())
    get(app, '/health', '/health', '/users/a/recommendations', '/users/b/recommendations', '/nothing/here')
    answer, = get(app, '/metrics')
    assert answer.headers['content-type'].startswith('text/plain; version=0.0.4')
    lines = answer.text.splitlines()
    assert 'xrec_requests_total{route="/health",status="200"} 2.0' in lines
    assert 'xrec_requests_total{route="/users/{user:path}/recommendations",status="404"} 2.0' in lines
    assert 'xrec_request_seconds_count{route="other"} 1.0' in lines and '/nothing' not in answer.text


class Writing:
    """A run that writes what it is asked for, as the real one does, with no model."""

    def __init__(self, run, wait=None):
        self.workdir, self.dataset, self.store, self.writer = run.workdir, self, None, None
        self.users = self.items = self
        self.wait, self.batches = wait, []

    def column(self, _):
        return self

    def to_pylist(self):
        return [str(n) for n in range(400)]

    def keep(self, rows):
        self.kept = sorted(row['text'] for row in rows)

    def write(self, pairs, keep):
        assert not keep
        if self.wait:
            assert self.wait.wait(10)
        self.batches.append(len(pairs))
        if ('13', '13') in pairs:
            raise UserError('unlucky')
        return [{'user_id': user, 'item_id': item, 'text': f'{user} {item}'} for user, item in pairs]


def test_what_is_missing_is_written_together_when_asked_for(run):
    writing = Writing(run)
    paths = [f'/explanations?user={n}&item=1' for n in range(30)]
    answers = get(serve.make_app(writing, None, generate=True), *paths, paths[0], '/explanations?user=x&item=1')
    assert [answer.status_code for answer in answers] == [200] * 31 + [404]
    assert [answer.json()['explanations'][0]['text'] for answer in answers[:2]] == ['0 1', '1 1']
    assert sum(writing.batches) == 30 and len(writing.batches) < 10  # each pair once, many at a time
    assert 'do not have both ids' in answers[-1].json()['hint']
    assert writing.kept == sorted(f'{n} 1' for n in range(30))  # when the server ends


def test_too_many_that_wait_are_sent_away(run):
    go = threading.Event()
    threading.Timer(1.0, go.set).start()
    answers = get(serve.make_app(Writing(run, go), None, generate=True),
                  *(f'/explanations?user={n}&item=2' for n in range(300)))
    count = [answer.status_code for answer in answers].count
    assert count(200) == serve.MOST_WAITING and count(429) == 300 - serve.MOST_WAITING


def test_a_text_that_fails_leaves_the_others_alone(run):
    app = serve.make_app(Writing(run), None, generate=True)

    async def ask():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url='http://x') as client:
            return [(await client.get(f'/explanations?user={n}&item={n}')).status_code for n in (13, 14)]

    assert asyncio.run(ask()) == [500, 200]


def test_the_bench_asks_for_what_there_is(run, app):
    paths = requests(run, 40, seed=0)
    assert {answer.status_code for answer in get(app, *paths)} <= {200, 404}
    assert 10 < sum(path.startswith('/users') for path in paths) < 30


def test_fuzzed_from_its_own_page_it_never_fails(app):
    schemathesis = pytest.importorskip('schemathesis', reason='fuzzes the app: pip install schemathesis')
    hypothesis = pytest.importorskip('hypothesis')
    schema = schemathesis.openapi.from_asgi('/openapi.json', app)
    asked = []

    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=15, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(hypothesis.HealthCheck))
        def fuzz(case):
            asked.append(case.path)
            case.call_and_validate()

        fuzz()
    assert set(asked) == {'/users/{user}/recommendations', '/explanations', '/health', '/metrics'}
