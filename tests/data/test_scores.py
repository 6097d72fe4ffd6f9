"""People's scores: cells, refusals, several raters, copies."""

import pathlib

import numpy as np
import pytest

from xrec_jax.data import scores
from xrec_jax.errors import UserError

REAL = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'llmxrec' / 'human_scores.csv'


def written(tmp_path, *rows, header='dataset,index,A,B', name='scores.csv') -> pathlib.Path:
    path = tmp_path / name
    path.write_text('\n'.join([header, *rows]) + '\n')
    return path


def test_cells_as_python_and_as_json_write_them(tmp_path):
    read = scores.read_scores(written(
        tmp_path, '''x,1,"{'reasonability': 5, 'attractiveness': 6, 'redundancy': 7.5}",''',
        '''y,3,"{""redundancy"": 1, ""attractiveness"": null}","{'attractiveness': None}"'''))
    assert (read.datasets, read.indices, read.generators) == (('x', 'y'), (1, 3), ('A', 'B'))
    np.testing.assert_array_equal(read.values, [
        [[5, 6, 7.5], [np.nan] * 3], [[np.nan, np.nan, 1], [np.nan] * 3]])
    assert scores.means(read)['x']['A'] == {'reasonability': 5, 'attractiveness': 6, 'redundancy': 7.5}
    assert np.isnan(scores.means(read)['y']['B']['redundancy'])
    with pytest.raises(UserError, match='"z"'):
        read.of('z')


@pytest.mark.parametrize('row, told', [
    ('''x,2,"{'reasonability': 11}",''', 'line 3, column A, reasonability: should be a number from 1 to 10, is 11'),
    ('''x,2,,"{'redundancy': 0}"''', 'line 3, column B, redundancy: should be a number from 1 to 10, is 0'),
    ('''x,2,,"{'redundancy': True}"''', 'line 3, column B, redundancy: should be a number from 1 to 10, is True'),
    ('''x,2,,"{'redundanzy': 2}"''', 'line 3, column B: "redundanzy" is no criterion. Did you mean "redundancy"?'),
    ('x,2,7,', 'line 3, column A: should be a dictionary'),
    ('x,2,{reasonability: 5},', 'line 3, column A: should be a dictionary'),
    ('x,1,,', 'line 3: item 1 of x stands in line 2 already'),
    ('x,two,,', "line 3, column index: should be a whole number, is 'two'"),
    ('x,2,', 'line 3: has 3 columns, the first line 4'),
])
def test_a_bad_row_is_refused_with_its_place(tmp_path, row, told):
    path = written(tmp_path, 'x,1,,', row)
    with pytest.raises(UserError) as refused:
        scores.read_scores(path)
    assert str(refused.value).startswith(f'{path}, {told}')


def test_a_file_without_generators_or_rows_is_refused(tmp_path):
    for header in ('dataset,index', 'index,dataset,A', 'dataset,index,A,A'):
        with pytest.raises(UserError, match='line 1: should be dataset,index'):
            scores.read_scores(written(tmp_path, 'x,1,,', header=header))
    with pytest.raises(UserError, match='no line below the first'):
        scores.read_scores(written(tmp_path))
    with pytest.raises(UserError, match='no such file'):
        scores.read_scores(tmp_path / 'none.csv')


def test_raters_are_matched_by_item_and_generator_not_by_place(tmp_path):
    one = scores.read_scores(written(tmp_path, '''x,1,"{'redundancy': 3}",''', '''x,2,,"{'redundancy': 4}"'''))
    two = scores.read_scores(written(tmp_path, '''x,2,"{'redundancy': 5}",''', '''x,1,,"{'redundancy': 6}"''',
                                     header='dataset,index,B,C', name='two.csv'))
    both = scores.raters([one, two])
    assert both.indices == (1, 2) and both.generators == ('A', 'B', 'C') and both.values.shape == (2, 2, 3, 3)
    nan = np.nan
    np.testing.assert_array_equal(both.values[..., 2], [[[3, nan, nan], [nan, 4, nan]], [[nan, nan, 6], [nan, 5, nan]]])


def test_rows_that_are_copies_are_counted(tmp_path):
    row = '''"{'redundancy': 3}",'''
    read = scores.read_scores(written(tmp_path, f'x,1,{row}', f'x,2,{row}', 'x,3,,', f'y,1,{row}'))
    assert scores.repeated(read) == {'x': {'items': 3, 'distinct': 2, 'commonest': 2},
                                     'y': {'items': 1, 'distinct': 1, 'commonest': 1}}


def test_a_scorer_learns_from_explanations_with_all_their_scores(tmp_path):
    whole = '''"{'reasonability': 5, 'attractiveness': 6, 'redundancy': 7}"'''
    read = scores.read_scores(written(tmp_path, f'''x,1,{whole},"{{'redundancy': 3}}"''', f'x,2,,{whole}'))
    items, generators, targets = scores.scorer_targets(read)
    assert items.tolist() == [0, 1] and generators.tolist() == [0, 1] and targets.tolist() == [[5, 6, 7]] * 2


@pytest.mark.skipif(not REAL.is_file(), reason='needs ../shared/data/llmxrec')
def test_published_scores():
    read = scores.read_scores(REAL)
    assert read.values.shape == (1500, 5, 3) and np.isfinite(read.values).all()
    assert read.generators == ('LLaMA2', 'ChatGLM2', 'GPT3.5', 'GPT4', 'LLaMA2-SFT')
    assert scores.means(read)['ml-100k']['LLaMA2-SFT'] == pytest.approx(
        {'reasonability': 8.044, 'attractiveness': 7.108, 'redundancy': 8.888})
    assert scores.repeated(read)['ml-100k'] == {'items': 500, 'distinct': 50, 'commonest': 151}  # a fault of the file
