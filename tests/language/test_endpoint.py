"""Asking an endpoint: a server of the test's own that is busy, breaks off, talks nonsense, or refuses."""

import collections
import contextlib
import email.utils
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip('openai', reason='needs openai: pip install -r requirements.txt')

from xrec_jax.errors import UserError
from xrec_jax.language import endpoint as endpoints
from xrec_jax.language.endpoint import Endpoint, ask

SECRET = 'sk-test-5up3r53cr3t'
QUICK = {'retries': 4, 'backoff_s': 0.001, 'timeout_s': 20.0}


def error(status, code=None, message='no', headers=()):
    body = {'error': {'message': message, 'code': code, 'type': 'x', 'param': None}}
    return status, json.dumps(body).encode(), dict(headers)


def reply(text, finish='stop', usage=(7, 3), **message):
    body = {'id': 'x', 'object': 'chat.completion', 'model': 'm', 'choices': [
        {'index': 0, 'finish_reason': finish, 'message': {'role': 'assistant', 'content': text} | message}]}
    if usage:
        body['usage'] = {'prompt_tokens': usage[0], 'completion_tokens': usage[1], 'total_tokens': sum(usage)}
    return 200, json.dumps(body).encode(), {}


class Stub:
    """An endpoint whose `answer(request, n)` says what the n-th request for a prompt gets."""

    def __init__(self, answer):
        self.requests = []  # bodies, in order
        self.counts = collections.Counter()
        self.secrets = []
        stub, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                prompt = body['messages'][-1]['content']
                with lock:
                    stub.requests.append(body)
                    stub.secrets.append(self.headers['Authorization'])
                    stub.counts[prompt] += 1
                    number = stub.counts[prompt]
                self.send(*answer(prompt, number))

            def do_GET(self):
                self.send(200, json.dumps({'object': 'list', 'data': [{'id': 'stub-model'}]}).encode(), {})

            def send(self, status, data, headers, length=None):
                with contextlib.suppress(ConnectionError):  # the client may have gone
                    self.send_response(status)
                    for name, value in ({'Content-Type': 'application/json'} | headers).items():
                        self.send_header(name, value)
                    self.send_header('Content-Length', str(len(data) + headers.get('X-Missing', 0)))
                    self.end_headers()
                    self.wfile.write(data)
                    if headers.get('X-Missing'):
                        self.close_connection = True

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}/v1'
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve(monkeypatch):
    stubs = []

    def start(answer=lambda prompt, number: reply(f'to {prompt}')):
        stubs.append(Stub(answer))
        monkeypatch.setenv('OPENAI_BASE_URL', stubs[-1].url)
        return stubs[-1]

    monkeypatch.setenv('OPENAI_API_KEY', SECRET)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    yield start
    for stub in stubs:
        stub.close()


def model(**settings):
    return Endpoint('stub-model', **(QUICK | settings))


# ------------------------------------------------------------------------------------- what works


def test_answers_come_in_the_order_of_the_prompts(serve, tmp_path):
    stub = serve()
    prompts = [f'prompt {n}' for n in range(20)]
    answers = ask(model(role='Be brief.', parameters={'temperature': 0.5, 'top_k': 3}), prompts, tmp_path / 'a.jsonl')
    assert answers.texts == [f'to prompt {n}' for n in range(20)]
    body = stub.requests[0]
    assert body['model'] == 'stub-model' and (body['temperature'], body['top_k']) == (0.5, 3)
    assert body['messages'][0] == {'role': 'system', 'content': 'Be brief.'}
    assert stub.secrets[0] == f'Bearer {SECRET}'


def test_tokens_and_cost_are_counted(serve, tmp_path):
    serve()
    told = []
    answers = ask(model(prices=(2.0, 10.0)), ['a', 'b', 'a'], tmp_path / 'a.jsonl',
                  progress=lambda count=1, note='': told.append((count, note)))
    counts = {key: answers.summary[key] for key in ('prompts', 'asked', 'prompt_tokens', 'completion_tokens', 'cost')}
    assert counts == {'prompts': 3, 'asked': 2, 'prompt_tokens': 14, 'completion_tokens': 6,
                      'cost': pytest.approx((14 * 2 + 6 * 10) / 1e6)}
    assert told[0] == (0, '') and sorted(count for count, _ in told[1:]) == [1, 2] and '20 tokens' in told[-1][1]
    again = ask(model(prices=(2.0, 10.0)), ['a', 'b', 'c'], tmp_path / 'a.jsonl')
    assert again.summary['cost_of_this_run'] == pytest.approx((7 * 2 + 3 * 10) / 1e6)
    assert again.summary['cost'] == pytest.approx((21 * 2 + 9 * 10) / 1e6)
    assert ask(model(), ['a'], tmp_path / 'a.jsonl').summary['cost'] is None  # no prices


def test_unknown_token_counts_make_no_cost(serve, tmp_path):
    serve(lambda prompt, number: reply('x', usage=None))
    summary = ask(model(prices=(1, 1)), ['a'], tmp_path / 'a.jsonl').summary
    assert summary['cost'] is None and summary['answers_without_token_count'] == 1


def test_what_was_answered_is_not_asked_again(serve, tmp_path, monkeypatch):
    stub = serve()
    ask(model(), ['a', 'b'], tmp_path / 'a.jsonl')
    told = []
    answers = ask(model(), ['c', 'b', 'b', 'a'], tmp_path / 'a.jsonl', lambda count=1, note='': told.append(count))
    assert answers.texts == ['to c', 'to b', 'to b', 'to a'] and told == [3, 1]
    assert stub.counts == {'a': 1, 'b': 1, 'c': 1}
    with monkeypatch.context() as without:
        without.delenv('OPENAI_API_KEY')
        assert ask(model(), ['a', 'c'], tmp_path / 'a.jsonl').texts == ['to a', 'to c']
    ask(model(parameters={'temperature': 1.0}), ['a'], tmp_path / 'a.jsonl')
    assert stub.counts['a'] == 2  # other parameters, another answer


def test_refused_cut_and_too_long_answers_are_told_apart(serve, tmp_path):
    replies = {
        'cut': reply('half', 'length'), 'filter': reply('', 'content_filter'), 'no': reply(None, refusal='I will not.'),
        'unsafe': error(400, 'content_filter'), 'long': error(400, 'context_length_exceeded'),
        'long too': error(400, None, "This model's maximum context length is 9 tokens."), 'fine': reply('yes')}
    stub = serve(lambda prompt, number: replies[prompt])
    answers = ask(model(prices=(1, 1)), list(replies), tmp_path / 'a.jsonl')
    assert [row.finish for row in answers.rows] == [
        'length', 'refused', 'refused', 'refused', 'too_long', 'too_long', 'stop']
    assert answers.texts == ['half', '', 'I will not.', '', '', '', 'yes']
    assert {key: answers.summary[key] for key in ('cut', 'refused', 'too_long', 'empty', 'retries')} == {
        'cut': 1, 'refused': 3, 'too_long': 2, 'empty': 4, 'retries': 0}
    assert answers.summary['cost'] == pytest.approx(4 * 10 / 1e6)
    assert max(stub.counts.values()) == 1


# --------------------------------------------------------------------------------- what is tried again

PASSING = {
    'busy': error(429, 'rate_limit_exceeded', headers={'Retry-After': '0'}),
    'fault': error(500),
    'overloaded': (503, b'<html>try later</html>', {'Content-Type': 'text/html'}),
    'half': (200, reply('to half')[1][:20], {}),
    'nonsense': (200, b'{"choices": []}', {}),
    'no text': (200, b'{"choices": [{"message": {"content": [1]}}]}', {}),
    'list': (200, b'[]', {}),
    'page': (200, b'<html>welcome</html>', {'Content-Type': 'text/html'}),
    'dropped': (200, b'{"choices"', {'X-Missing': 500}),
}


@pytest.mark.parametrize('kind', PASSING)
def test_passing_errors_are_tried_again(serve, tmp_path, kind):
    stub = serve(lambda prompt, number: PASSING[kind] if number < 3 else reply('at last'))
    answers = ask(model(concurrency=1), ['a'], tmp_path / 'a.jsonl')
    assert answers.texts == ['at last'] and stub.counts['a'] == 3 and answers.summary['retries'] == 2


def test_slow_answer_is_tried_again(serve, tmp_path):
    done = threading.Event()

    def answer(prompt, number):
        if number == 1:
            done.wait(60)
        return reply('at last')

    stub = serve(answer)
    assert ask(model(timeout_s=1.0), ['a'], tmp_path / 'a.jsonl').texts == ['at last']
    assert stub.counts['a'] > 1
    done.set()


def test_endpoint_that_never_recovers(serve, tmp_path):
    stub = serve(lambda prompt, number: reply('fine') if prompt == 'a' else error(500, message=f'{SECRET} broke'))
    with pytest.raises(UserError) as raised:
        ask(model(concurrency=1), ['a', 'b', 'c'], tmp_path / 'a.jsonl')
    message = str(raised.value)
    assert 'no answer after 5 tries; last error: status 500, ' in message and '*** broke' in message
    assert '1 of 3 answers came and are kept in' in message and 'asks for the other 2' in message
    assert SECRET not in message and SECRET not in (tmp_path / 'a.jsonl').read_text()
    assert stub.counts == {'a': 1, 'b': 5}  # nothing is asked after it


def test_no_server_there(serve, tmp_path, monkeypatch):
    serve().close()
    monkeypatch.setenv('OPENAI_BASE_URL', 'http://me:password@127.0.0.1:9/v1')
    with pytest.raises(UserError, match=r'http://127.0.0.1:9/v1: no answer after 2 tries.*refused') as raised:
        ask(model(retries=1), ['a'], tmp_path / 'a.jsonl')
    assert 'password' not in str(raised.value)


def test_waits_are_what_the_server_says_else_doubled(serve):
    serve()
    asker = endpoints._Asker(model(backoff_s=1.0), endpoints.Address.of_environment())

    response = asker.client.models.with_raw_response.list().http_response

    def pause(number, **headers):
        for name in ('retry-after', 'retry-after-ms'):
            response.headers.pop(name, None)
        response.headers.update(headers)
        return asker._pause(asker.openai.APIStatusError('x', body=None, response=response), number)

    for number in range(12):
        assert min(2 ** number, 120) / 2 <= pause(number) <= min(2 ** number, 120)
    assert pause(9, **{'retry-after': '7'}) == 7 and 0 < asker.pace.held() <= 7
    assert pause(9, **{'retry-after-ms': '1500', 'retry-after': '2'}) == 1.5
    assert pause(0, **{'retry-after': '9999'}) == 120
    assert pause(0, **{'retry-after': email.utils.formatdate(time.time() + 3600, usegmt=True)}) == 120
    assert pause(0, **{'retry-after': email.utils.formatdate(time.time() - 60, usegmt=True)}) == 0
    assert pause(0, **{'retry-after': 'soon'}) <= 1


# ------------------------------------------------------------------------------------- what ends a run

FINAL = {
    'key': (error(401, 'invalid_api_key', f'Incorrect API key provided: {SECRET}.'),
            r'does not take the key in OPENAI_API_KEY.*Incorrect API key provided: \*\*\*'),
    'forbidden': (error(403), 'forbids what was asked'),
    'model': (error(404, 'model_not_found', 'The model `stub-modle` does not exist'),
              'has no model "stub-modle".*Did you mean "stub-model"'),
    'quota': (error(429, 'insufficient_quota'), 'quota of the key in OPENAI_API_KEY is used up'),
    'parameter': (error(400, 'unsupported_parameter', "Use 'max_completion_tokens' instead."),
                  'refuses the request .*max_completion_tokens'),
}


@pytest.mark.parametrize('kind', FINAL)
def test_final_errors_are_not_tried_again(serve, tmp_path, kind):
    answer, message = FINAL[kind]
    stub = serve(lambda prompt, number: answer)
    with pytest.raises(UserError, match=message) as raised:
        ask(Endpoint('stub-modle', concurrency=1, **QUICK), ['a', 'b'], tmp_path / 'a.jsonl')
    assert stub.counts == {'a': 1} and SECRET not in str(raised.value)
    assert '0 of 2 answers came' in str(raised.value)


def test_missing_and_odd_keys_come_before_any_request(monkeypatch, tmp_path):
    for secret, message in (('', 'OPENAI_API_KEY is not set'), ('sk-a\nb-very-secret', 'a character that no key has'),
                            ('sk-é-very-secret', 'a character that no key has')):
        monkeypatch.setenv('OPENAI_API_KEY', secret)
        with pytest.raises(UserError, match=message) as raised:
            ask(model(), ['a'], tmp_path / 'a.jsonl')
        assert 'secret' not in str(raised.value)
    monkeypatch.setenv('OPENAI_API_KEY', SECRET)
    monkeypatch.setenv('OPENAI_BASE_URL', 'localhost:8000')
    with pytest.raises(UserError, match='should begin with http'):
        ask(model(), ['a'], tmp_path / 'a.jsonl')


def test_key_is_in_no_repr(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', SECRET)
    assert SECRET not in repr(endpoints.Address.of_environment())


def test_settings_are_checked():
    made = endpoints.endpoint({'model': 'm', 'retries': 2})
    assert made == Endpoint('m', retries=2)
    for settings, message in (({'modle': 'm'}, 'no setting "modle".*"model"'), ({'model': ''}, 'model is empty'),
                              ({'model': 'm', 'concurrency': 0}, 'concurrency=0 should be 1'),
                              ({'model': 'm', 'parameters': {'stream': True}}, 'parameters.stream cannot be set')):
        with pytest.raises(UserError, match=message):
            endpoints.endpoint(settings)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openai', None)
    with pytest.raises(UserError, match='pip install openai'):
        endpoints._library()


# --------------------------------------------------------------------------------------- killed runs

RUN = '''
import sys
from xrec_jax.language.endpoint import Endpoint, ask
ask(Endpoint('stub-model', concurrency=2), [f'prompt {n}' for n in range(12)], sys.argv[1])
'''


@pytest.mark.parametrize('by', [signal.SIGKILL, signal.SIGINT])
def test_killed_run_keeps_its_answers_and_asks_only_for_the_rest(serve, tmp_path, by):
    path, enough = tmp_path / 'a.jsonl', threading.Event()
    release = threading.Event()

    def answer(prompt, number):
        if len(stub.requests) > 5:
            enough.set()
            release.wait(60)
        return reply(f'to {prompt}')

    stub = serve(answer)
    # Where a shell started pytest in the background, it ignores SIGINT, and so would the process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen([sys.executable, '-c', RUN, str(path)], stderr=subprocess.PIPE,
                           env=os.environ | {'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)})
    assert enough.wait(60)
    run.send_signal(by)
    if by == signal.SIGKILL:
        run.wait(60)
        release.set()
    else:  # what is under way is waited for
        release.set()
        run.wait(60)
        assert b'KeyboardInterrupt' in run.stderr.read()
    run.stderr.close()
    kept = path.read_bytes().count(b'\n')
    assert 3 <= kept < 12
    if by == signal.SIGKILL:
        with open(path, 'ab') as file:
            file.write(b'{"key": "0123", "text": "half an ans')
    stub.counts.clear()
    stub.requests.clear()
    answers = ask(model(), [f'prompt {n}' for n in range(12)], path)
    assert answers.texts == [f'to prompt {n}' for n in range(12)]
    assert sum(stub.counts.values()) == 12 - kept == answers.summary['asked']
