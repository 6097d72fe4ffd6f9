"""The cards of the browser: what a run's files come to, row by row."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.reporting import made
from tests.reporting.test_page import write_run
from xrec_jax.reporting import cards, collect, page


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return made.write_explanations(write_run(tmp_path_factory.mktemp('cards') / 'a'))


def of(folder, **options):
    return cards.of_run(collect.read_run(folder), 'a run', **options)


def test_a_card_has_texts_scores_label_and_history_of_its_example(folder):
    data = of(folder)
    assert data['phases'] == list(made.PHASES) and (data['before'], data['after']) == (0, 1)
    assert len(data['example']) == data['total'] == 24 * 2 + 4 and data['note'] == ''
    assert [data['splits'][split] for split in data['split']] == ['test'] * 24 + ['valid'] * 24 + ['train'] * 4
    for place in (3, 24, 30, 48):
        at = data['example'][place]
        split = data['splits'][data['split'][at]]
        n = place - {'test': 0, 'valid': 24, 'train': 48}[split]
        want = made.example(n, split)
        assert (data['user'][at], data['item'][at], data['liked'][at], data['rating'][at]) == (
            want['user_id'], want['item_id'], int(want['liked']), want['rating'])
        shown = [(data['items'][code // 3][0], bool(code % 3)) for code in data['history'][at]]
        assert shown == [(one['title'], one['liked']) for one in want['history']]
        title, words = data['items'][data['target'][at]]
        assert (title, [data['words'][word] for word in words]) == (want['title'], want['attributes'])
        assert data['texts'][1][place] == made.text_of('04-explain-final', n)
        assert data['llm_scores'][1][place] == made.score_of('04-explain-final', n)
        assert data['texts'][0][place] == (None if split == 'train' else made.text_of('01-explain-icl', n))
        score = data['scores'][data['scorers'].index('DeepFM')][at]
        assert score == (None if split == 'train' else round(0.25 + n / 1000, 4))


def test_scorers_know_what_they_read_and_whom_they_are_held_against(folder):
    data = of(folder)
    assert data['scorers'] == ['ICL', 'DeepFM', 'Aug', 'Ours'] and data['reads'] == [0, -1, 1, 1]
    assert [data['scorers'][other] for other in data['against']] == ['Ours', 'Aug', 'DeepFM', 'ICL']
    assert (data['scorers'][data['judging']], data['threshold'], data['above']) == ('Ours', 0.5, False)


def test_predicted_ratings_are_shown_in_stars_and_liked_from_the_threshold_on(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'a')
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    (tmp_path / 'a' / 'summary.json').write_text(json.dumps(summary | {'rating': summary['ctr']}))
    data = of(tmp_path / 'a')
    assert data['judged'] == 'rating' and data['threshold'] == 4.0
    assert data['scores'][data['scorers'].index('DeepFM')][0] == 1 + 4 * 0.25


def test_a_run_without_examples_shows_texts_and_says_what_is_missing(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'a', ignore=shutil.ignore_patterns('examples'))
    data = of(tmp_path / 'a')
    assert 'same train command' in data['note'] and len(data['example']) == 52
    assert set(data['target']) == {-1} and not any(data['history'])
    assert data['liked'][:3] == [0, 1, 1] and data['liked'][-1] == -1  # predictions know of test, nobody of train
    shutil.rmtree(tmp_path / 'a' / 'explanations')
    assert of(tmp_path / 'a') is None


def test_where_not_all_have_room_test_comes_first_and_the_rest_is_drawn_alike(folder):
    data, again = of(folder, most=30), of(folder, most=30)
    assert data == again and data['total'] == 52
    splits = [data['splits'][split] for split in data['split']]
    assert splits.count('test') == 24 and splits.count('valid') == 6 and len(splits) == 30
    assert sum(text is not None for text in data['texts'][0]) == 30


def test_two_kinds_and_two_recommenders_are_cards_of_their_own(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'a')
    rows = [made.example(n, 'top1') | {'group': group, 'kind': kind, 'text': f'{group} {kind} {n}'}
            for n, group in ((0, 'bpr'), (1, 'sasrec')) for kind in ('negative', 'positive')]
    schema = pq.read_schema(tmp_path / 'a' / 'explanations' / '01-explain-icl.parquet')
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / 'a' / 'explanations' / '05-explain-top.parquet')
    data = of(tmp_path / 'a')
    own = [n for n, text in enumerate(data['texts'][2]) if text is not None]
    assert [data['texts'][2][n] for n in own] == ['bpr positive 0', 'bpr negative 0', 'sasrec positive 1', 'sasrec negative 1']
    assert [data['kinds'][data['kind'][n]] for n in own] == ['positive', 'negative'] * 2
    assert len({data['example'][n] for n in own}) == 2 and data['groups'] == ['bpr', 'sasrec']


def test_nothing_in_a_text_ends_the_element_that_holds_it(folder):
    groups = collect.grouped([collect.read_run(folder)])
    text = page.render(groups)
    data = text.split('<script type="application/json" id="explanations-data">')[1].split('</script>')[0]
    assert not set(data) & set('<>&\u2028\u2029')
    run, = json.loads(data)['runs']
    assert made.HOSTILE in run['texts'][1]
    assert text.count('</script') == 2 and 'onerror="document' not in text.replace(data, '')
    assert '<script' not in page.render(groups, most_cards=0)


def test_numbers_that_are_none_are_left_out():
    assert cards.embedded([{'x': cards._rounded(np.float32('nan'), 3), 'y': cards._rounded(0.12345, 3)}]) == (
        '{"runs":[{"x":null,"y":0.123}]}')
