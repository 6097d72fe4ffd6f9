"""Turns under limits, by a clock of the test's own."""

import pytest

from xrec_jax.language.pacing import Pace


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_no_limit_no_waiting():
    pace = Pace(clock=Clock())
    assert [pace.turn(10 ** 6) for _ in range(3)] == [0, 0, 0]


def test_requests_are_spaced():
    clock = Clock()
    pace = Pace(requests=30, clock=clock)
    assert [pace.turn(1) for _ in range(3)] == [0, 2, 4]
    clock.now += 5
    assert pace.turn(1) == 1
    clock.now += 60
    assert [pace.turn(1) for _ in range(2)] == [0, 2]  # a rest is not saved up


def test_tokens_are_spaced_by_what_requests_took():
    clock = Clock()
    pace = Pace(tokens=600, clock=clock)  # ten a second
    assert [pace.turn(20), pace.turn(50), pace.turn(10)] == [0, 2, 7]
    pace.correct(-30)
    assert pace.turn(10) == pytest.approx(5)
    pace.correct(10)
    assert pace.turn(10) == pytest.approx(7)


def test_the_tighter_limit_rules():
    pace = Pace(requests=60, tokens=600, clock=Clock())
    assert [pace.turn(5), pace.turn(30), pace.turn(5)] == [0, 1, 4]


def test_hold_stops_all_those_with_a_turn_too():
    clock = Clock()
    pace = Pace(requests=60, clock=clock)
    pace.turn(1)
    assert pace.held() == 0
    pace.hold(10)
    pace.hold(3)
    assert (pace.held(), pace.turn(1), pace.turn(1)) == (10, 10, 11)
    clock.now += 10
    assert pace.held() == 0


def test_many_threads_share_the_limit():
    import concurrent.futures
    pace = Pace(requests=60, clock=Clock())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(pace.turn, [1] * 50)) == list(range(50))
