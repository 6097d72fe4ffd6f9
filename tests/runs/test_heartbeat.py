"""Which process is named when all stand still."""

from xrec_jax.runs import heartbeat


def beats(now, **counts):
    return {int(name[1:]): {'count': count, 'time': now, 'host': f'host{name[1:]}'} for name, count in counts.items()}


def test_the_process_that_does_not_come_to_the_boundary_is_named_once():
    watch = heartbeat.Watch(patience=100)
    assert not watch(beats(0, p0=5, p1=5, p2=4), 0)
    assert not watch(beats(90, p0=5, p1=5, p2=4), 90)
    (line,) = watch(beats(110, p0=5, p1=5, p2=4), 110)
    assert line.startswith('process 2 on host2 holds the others up: for 110 s it has been in step 5')
    assert not watch(beats(120, p0=5, p1=5, p2=4), 120)
    assert not watch(beats(130, p0=6, p1=6, p2=5), 130)  # slow, but moving
    assert watch(beats(240, p0=6, p1=6, p2=5), 240)  # and again


def test_a_long_step_of_all_is_no_hang():
    watch = heartbeat.Watch(patience=100)
    assert not watch(beats(0, p0=5, p1=5), 0)
    assert not watch(beats(5000, p0=5, p1=5), 5000)


def test_a_process_that_is_gone_is_named():
    watch = heartbeat.Watch(patience=100)
    watch(beats(0, p0=5, p1=5), 0)
    (line,) = watch(beats(150, p0=5) | beats(10, p1=5), 150)
    assert line == 'process 1 on host1 has not been heard of for 140 s'


def test_a_beat_says_where_the_process_is(tmp_path):
    before = heartbeat._count
    heartbeat.arrived()
    heartbeat.beat(tmp_path)
    assert heartbeat.read(tmp_path)[0]['count'] == before + 1
