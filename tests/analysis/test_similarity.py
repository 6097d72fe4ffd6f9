"""Embeddings of items over training: which pairs are watched, and what their cosines are."""

import numpy as np
import pytest

from xrec_jax.analysis import similarity


def test_pairs_are_of_the_same_attributes_or_of_none_in_common():
    attributes = [['war'], ['war'], ['war', 'love'], ['love'], [], ['love', 'war'], ['space'], ['war']]
    eligible = np.array([True] * 7 + [False])
    found = similarity.pairs(attributes, eligible)
    assert {tuple(pair) for pair in found['similar']} == {(0, 1), (2, 5)}
    assert {tuple(pair) for pair in found['dissimilar']} == {(0, 3), (1, 3), (0, 6), (1, 6), (2, 6), (3, 6), (5, 6)}
    assert len(similarity.pairs(attributes, eligible, most=3)['dissimilar']) == 3


def test_cosines_are_of_centred_embeddings():
    embeddings = np.array([[3.0, 1], [1, 3], [3, 3], [1, 1]])  # the mean is (2, 2)
    found = similarity.cosines(embeddings, np.array([[0, 1], [2, 3], [0, 2]]))
    np.testing.assert_allclose(found, [-1, -1, 0], atol=1e-12)


def test_the_gap_between_similar_and_dissimilar_by_epoch():
    rows = [{'fit': 'a', 'epoch': epoch, 'pairs': kind, 'cosine': value, 'low': value, 'high': value, 'count': 3}
            for epoch, values in enumerate([(0.0, 0.0), (0.75, -0.25)])
            for kind, value in zip(('similar', 'dissimilar'), values)]
    assert similarity.separation(rows) == {'a': [0.0, 1.0]}
    assert len(similarity.draw(rows).axes) == 2
    assert similarity.half_way([0.0, 0.25, 0.5, 1.0, 0.75]) == 2
    assert similarity.half_way([-0.25, -0.5]) == 0  # it only falls


def test_a_config_read_back_has_tuples(tmp_path):
    (tmp_path / 'config.json').write_text('{"fit": {"mlp": [8, 4]}, "schedule": ["fit(a)"]}')
    config = similarity.read_config(tmp_path)
    assert config.fit.mlp == (8, 4) and config.schedule == ('fit(a)',)
    with pytest.raises(similarity.UserError, match='folder of a run'):
        similarity.read_config(tmp_path / 'none')
