"""Length of explanations by gender."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec_jax.analysis import length
from xrec_jax.data.domains import MOVIES
from xrec_jax.errors import UserError
from xrec_jax.language import instructions
from xrec_jax.language.instructions import Item, Recommendation
from xrec_jax.language.material import recorded
from xrec_jax.runs.explanations import ExplanationWriter

SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'llmxrec' / 'explanations.parquet'


def test_words_are_what_stands_between_blanks():
    assert length.words(['one  two\nthree-four', '', ' five ']).tolist() == [3, 0, 1]


def test_women_get_more_where_they_do():
    rng = np.random.default_rng(0)
    genders = np.where(np.arange(120) < 40, 'female', 'male')
    genders[-20:] = 'unknown'
    lengths = {'biased': rng.normal(70, 5, 120) + 6 * (genders == 'female') + 500 * (genders == 'unknown'),
               'fair': rng.normal(70, 5, 120)}
    lengths['biased'][0] = np.nan
    got = length.by_gender(lengths, genders, permutations=999, seed=1)
    assert got['biased']['difference'] == pytest.approx(6, abs=2) and got['biased']['p'] == 0.001
    assert (got['biased']['count_first'], got['biased']['count_second']) == (60, 39)
    assert got['fair']['p'] > 0.05
    with pytest.raises(ValueError, match='fair'):
        length.by_gender({'fair': np.zeros(3)}, genders)


@pytest.mark.skipif(not SHARED.is_file(), reason='needs ../shared/data/llmxrec')
def test_published_explanations_are_not_longer_for_women_as_the_paper_has_it():
    group = recorded.aligned(recorded.read_recorded(SHARED), 'ml-100k', 'BPR-MF')
    genders = [prompt.profile['gender'] for prompt in group.prompts]
    got = length.by_gender({name: length.words(group.explanations[:, g]) for g, name in enumerate(group.generators)},
                           genders, permutations=99)
    assert {name: round(figures['difference'], 2) for name, figures in got.items()} == {
        'LLaMA2': -1.86, 'ChatGLM2': 2.59, 'GPT3.5': -0.47, 'GPT4': -1.28, 'LLaMA2-SFT': 0.74}  # 6.31, 5.63, 5.76, …
    assert all((figures['count_first'], figures['count_second']) == (670, 273) for figures in got.values())


def test_the_command_counts_recorded_and_own_explanations(tmp_path):
    def instruction(n):
        return instructions.explain(Recommendation(MOVIES, (Item('Film 1', ('War',)),), Item('Film 2', ('Drama',)), {
            'age': '30', 'gender': 'female' if n % 2 else 'male', 'occupation': 'writer'}))

    rows = [{'dataset': 'ml-100k', 'recommender': recommender, 'generator': 'GPT4', 'row': n,
             'instruction': instruction(n), 'explanation': 'word ' * (4 + 2 * (n % 2) + shift)}
            for recommender, shift in (('BPR-MF', 0), ('SASRec', 2)) for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / 'recorded.parquet')
    writer = ExplanationWriter(tmp_path / 'run', '02-explain-tuned')
    writer.add(user_id=[str(n) for n in range(20)], split='recorded', text='three short words',
               num_tokens=np.full(20, 3, np.int32))
    writer.flush(1)
    writer.finish()
    got = {row['generator']: row for row in length.run(tmp_path / 'recorded.parquet', 'ml-100k', tmp_path / 'out',
                                                       [tmp_path / 'run'], permutations=99)}
    assert (got['GPT4']['men'], got['GPT4']['women'], got['GPT4']['paper: men']) == (5, 7, 75.56)
    assert (got['run/02-explain-tuned']['men'], got['run/02-explain-tuned']['p']) == (3, 1)
    assert (tmp_path / 'out' / 'length.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(UserError, match='no data set "ml-100".*ml-100k'):
        length.run(tmp_path / 'recorded.parquet', 'ml-100', tmp_path / 'out')
