"""The pickles of the explainable-generation literature: a miniature, hostile pickles, bombs, and damage."""

import copyreg
import decimal
import io
import os
import pathlib
import pickle
import struct
import sys
import time
import tracemalloc

import numpy as np
import pytest

from tests.data.readers.mutations import check_mutations
from xrec_jax.data import catalog
from xrec_jax.data.readers import tripadvisor
from xrec_jax.errors import UserError

ANN, BOB, CY = ('7B555091EC0818119062CF726B9EF5FF', '0A2C1D5B7E9F4C3D8A6B0F1E2D3C4B5A',
                'FFEE00112233445566778899AABBCCDD')


def review(user, item, rating, *template, predicted):
    return {'user': user, 'item': item, 'rating': rating, 'template': template, 'predicted': predicted}


REVIEWS = [
    review(ANN, '1068719', 5, 'pool', 'great', 'the pool is great , and so is the café', 1, predicted='room'),
    review(BOB, '305813', 2, 'staff', 'rude', 'staff was rude &amp; slow', -1, predicted='staff'),
    review(ANN, '305813', 4, 'location', 'perfect', 'the "location" is\tperfect', 1, predicted='pool'),
    review(CY, '1068719', 1, 'room', 'dirty', 'a dirty room', -1, predicted='location')]


def load(folder: pathlib.Path, **options):
    return catalog.load('tripadvisor', folder, **options)


def publish(folder: pathlib.Path, reviews=REVIEWS, protocol: int = 3) -> pathlib.Path:
    """Writes reviews.pickle as the authors do (Python 3.6, protocol 3); bytes are taken as they are."""
    folder.mkdir(exist_ok=True)
    (folder / 'reviews.pickle').write_bytes(reviews if isinstance(reviews, bytes) else pickle.dumps(reviews, protocol))
    return folder


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_the_miniature_gives_the_tables_by_hand(tmp_path, protocol):
    dataset = load(publish(tmp_path, protocol=protocol))
    assert dataset.interactions.to_pylist() == [
        {'user_id': ANN, 'item_id': '1068719', 'rating': 5.0, 'timestamp': None, 'aspects': ['pool'],
         'review': 'the pool is great , and so is the café'},
        {'user_id': BOB, 'item_id': '305813', 'rating': 2.0, 'timestamp': None, 'aspects': ['staff'],
         'review': 'staff was rude &amp; slow'},
        {'user_id': ANN, 'item_id': '305813', 'rating': 4.0, 'timestamp': None, 'aspects': ['location'],
         'review': 'the "location" is\tperfect'},
        {'user_id': CY, 'item_id': '1068719', 'rating': 1.0, 'timestamp': None, 'aspects': ['room'],
         'review': 'a dirty room'}]
    assert dataset.users.to_pylist() == [{'user_id': user, 'profile': []} for user in (ANN, BOB, CY)]
    assert dataset.items.to_pylist() == [
        {'item_id': item, 'title': None, 'attributes': [], 'details': []} for item in ('1068719', '305813')]
    assert (dataset.rating_scale, dataset.domain.consumed) == ((1.0, 5.0), 'stayed at')


@pytest.mark.parametrize('name, items', [('peter-yelp', 'places'), ('peter-movies', 'movies')])
def test_the_other_pickles_of_the_family_are_read_alike(tmp_path, name, items):
    dataset = catalog.load(name, publish(tmp_path))
    assert (dataset.name, dataset.domain.items) == (name, items)
    assert dataset.interactions.equals(load(tmp_path).interactions)


def test_aspects_may_be_the_three_terms_of_recpie(tmp_path):
    dataset = load(publish(tmp_path), aspects=('feature', 'adjective', 'predicted'))
    assert dataset.interactions['aspects'].to_pylist() == [
        ['pool', 'great', 'room'], ['staff', 'rude', 'staff'], ['location', 'perfect', 'pool'],
        ['room', 'dirty', 'location']]
    with pytest.raises(UserError, match='unknown "features". Did you mean "feature"?'):
        load(tmp_path, aspects=('features',))


def test_rows_of_several_blocks_keep_their_order_and_number(tmp_path, monkeypatch):
    monkeypatch.setattr(tripadvisor, 'ROWS', 3)
    many = REVIEWS * 3
    assert load(publish(tmp_path, many)).interactions['review'].to_pylist() == [row['template'][2] for row in many]
    many[7] = REVIEWS[0] | {'rating': 0}
    with pytest.raises(UserError, match='review 8, field rating'):
        load(publish(tmp_path, many))


# ------------------------------------------------------------------------------- other than reviews


@pytest.mark.parametrize('row, message', [
    ({}, ", field user: None should be a text that is not empty"),
    ([1], ': should be a dictionary, is [1]'),
    (REVIEWS[1] | {'user': 7}, ', field user: 7 should be a text'),
    (REVIEWS[1] | {'item': ' '}, ", field item: ' ' should be a text that is not empty"),
    (REVIEWS[1] | {'rating': 6}, ', field rating: 6 should be a number from 1 to 5'),
    (REVIEWS[1] | {'rating': float('nan')}, ', field rating: nan should be'),
    (REVIEWS[1] | {'rating': 1 << 900}, ', field rating: '),
    (REVIEWS[1] | {'rating': True}, ', field rating: True should be'),
    (REVIEWS[1] | {'rating': '4'}, ", field rating: '4' should be"),
    (REVIEWS[1] | {'template': ('staff', 'rude', 'staff was rude')}, ', field template: ('),
    (REVIEWS[1] | {'template': ['a', 'b', 'c', 1]}, ', field template: ['),
    (REVIEWS[1] | {'template': ('staff', 'rude', None, 1)}, ', field template: ('),
])
def test_each_fault_is_told_by_file_review_and_field(tmp_path, row, message):
    publish(tmp_path, [REVIEWS[0], row, *REVIEWS[2:]])
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert f'{tmp_path}/reviews.pickle, review 2{message}' in str(error.value)
    dataset = load(tmp_path, on_bad_row='skip')
    assert dataset.recipe['rows_skipped'] == {'reviews.pickle': 1} and dataset.interactions.num_rows == 3


def test_predicted_is_needed_only_where_it_is_asked_for(tmp_path):
    publish(tmp_path, [{key: value for key, value in row.items() if key != 'predicted'} for row in REVIEWS])
    assert load(tmp_path).interactions.num_rows == 4
    with pytest.raises(UserError, match='review 1, field predicted: None should be a text'):
        load(tmp_path, aspects=('predicted',))


@pytest.mark.parametrize('content, message', [
    (pickle.dumps({'reviews': REVIEWS}, 3), 'should be a list of reviews, is {'),
    (pickle.dumps([], 3), 'should be a list of reviews, is []'),
    (pickle.dumps(REVIEWS, 0), 'byte 1: LIST is no instruction of plain data pickled by protocol 1 to 5'),
    (pickle.dumps(REVIEWS, 3)[:-30], 'ends in the middle; the file is truncated'),
    (pickle.dumps(REVIEWS, 3) + b'x', 'ends, and not all that stands in it is part of one list'),
    (pickle.dumps(REVIEWS, 3) * 2, 'ends, and not all that stands in it'),
    (pickle.dumps(REVIEWS, 3).replace('é'.encode(), b'\xe9 '), 'a text is not UTF-8'),
    (b'', 'byte 0: ends in the middle'),
    (b'{"user": 1}', 'byte 0: '),
    (b'\x80\x06].', 'byte 0: PROTO'),
])
def test_a_file_that_is_no_list_of_reviews_is_told(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, content))
    assert f'{tmp_path}/reviews.pickle' in str(error.value) and message in str(error.value)


# ------------------------------------------------------------------------------------- the machine


def plain(rng, depth: int, shared: list):
    """A random thing of plain data; `shared` makes references to what came before."""
    kind = int(rng.integers(12 if depth else 8))
    if kind == 0 and shared:
        return shared[int(rng.integers(len(shared)))]
    if kind < 3:
        return [None, True, False, 0, -1, 255, 256, 65535, 65536, (1 << 31) - 1, -(1 << 31), 1 << 31, -(1 << 200)][
            rng.integers(13)]
    if kind == 3:
        return float(rng.normal()) * 10.0 ** int(rng.integers(-300, 300))
    if kind < 8:
        text = ''.join('A\n\0é€😀'[n] for n in rng.integers(6, size=int(rng.choice([0, 1, 5, 300]))))
    elif kind < 10:
        many = rng.random() < .03  # more than pickle puts into a list at a time
        text = [plain(rng, 0 if many else depth - 1, shared) for _ in range(1100 if many else int(rng.integers(4)))]
    elif kind == 10:
        text = tuple(plain(rng, depth - 1, shared) for _ in range(int(rng.integers(6))))
    else:
        text = {str(int(rng.integers(99))): plain(rng, depth - 1, shared) for _ in range(int(rng.integers(5)))}
    shared.append(text)
    return text


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_plain_data_is_read_as_pickle_reads_it(protocol):
    rng = np.random.Generator(np.random.Philox(protocol))
    sizes = []
    for _ in range(100):
        thing = [plain(rng, 3, shared := []) for _ in range(4)]
        data = pickle.dumps(thing, protocol)
        found = tripadvisor.unpickled(data, 'x')
        assert repr(found) == repr(pickle.loads(data)) == repr(thing)  # repr tells 1 from 1.0 and True
        sizes.append(len(data))
    assert max(sizes) > 10_000


def test_things_that_are_one_stay_one():
    inner = ['x']
    found = tripadvisor.unpickled(pickle.dumps([inner, (inner, inner), inner], 4), 'x')
    assert found[0] is found[1][0] is found[1][1] is found[2]


class Runs:
    """Makes the folder it is given when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Plain:
    pass


class Slotted:
    __slots__ = ('x',)


class WithArguments:
    def __getnewargs_ex__(self):
        return (), {}


def persistent(protocol: int) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return 'id' if obj is Plain else None

    file = io.BytesIO()
    Pickler(file, protocol).dump([*REVIEWS, Plain])
    return file.getvalue()


def extension() -> bytes:
    copyreg.add_extension(os.system.__module__, 'system', 77)
    try:
        return pickle.dumps([*REVIEWS, os.system], 2)
    finally:
        copyreg.remove_extension(os.system.__module__, 'system', 77)


@pytest.mark.parametrize('protocol', range(6))
def test_a_pickle_that_runs_a_program_does_not_run_it(tmp_path, protocol):
    ran = tmp_path / 'ran'
    data = pickle.dumps([*REVIEWS, Runs(ran)], protocol)
    publish(tmp_path, data)
    for policy in ('raise', 'skip'):
        with pytest.raises(UserError) as error:
            load(tmp_path, on_bad_row=policy)
        assert not ran.exists()
    if protocol >= 2:
        name = f'{os.mkdir.__module__}.mkdir'
        assert f'asks for {name}; only lists' in str(error.value) and 'do not trust this file' in str(error.value)
    pickle.loads(data)
    assert ran.exists()  # it would have


HEAD = b'\x80\x03'


@pytest.mark.parametrize('data, message', [
    (b"cos\nsystem\n(S'touch ran'\ntR.", 'byte 0: GLOBAL asks for os.system'),
    (HEAD + b'cbuiltins\neval\n(X\x05\x00\x00\x00ran=1tR.', 'byte 2: GLOBAL asks for builtins.eval'),
    (HEAD + b'cbuiltins\ngetattr\n(c__builtin__\n__import__\nX\x04\x00\x00\x00evaltR.',
     'byte 2: GLOBAL asks for builtins.getattr'),
    (b'\x80\x04\x8c\x08builtins\x8c\x04eval\x93(\x8c\x05ran=1tR.', 'byte 18: STACK_GLOBAL asks for builtins.eval'),
    (b'\x80\x04\x8c\x02os\x8c\x0b' + b'path.system\x93.', 'STACK_GLOBAL asks for os.path.system'),
    (HEAD + b'(ios\nsystem\n.', 'byte 3: INST asks for os.system'),
    (HEAD + b'(]o.', 'byte 4: OBJ makes an object'),
    (HEAD + b'](tR.', 'byte 5: REDUCE calls a function'),
    (HEAD + b']}b.', 'byte 4: BUILD sets the state of an object'),
    (HEAD + b'])\x81.', 'byte 4: NEWOBJ makes an object'),
    (b'\x80\x04])}\x92.', 'byte 5: NEWOBJ_EX makes an object'),
    (HEAD + b'\x82\x4d.', 'byte 2: EXT1 asks for a registered extension'),
    (HEAD + b'\x83\x4d\x00.', 'byte 2: EXT2 asks'),
    (HEAD + b'\x84\x4d\x00\x00\x00.', 'byte 2: EXT4 asks'),
    (HEAD + b'Pid\n.', 'byte 2: PERSID asks for a persistent object'),
    (HEAD + b'KaQ.', 'byte 4: BINPERSID asks for a persistent object'),
    (extension(), 'EXT1 asks for a registered extension'),
    (persistent(2), 'BINPERSID asks for a persistent object'),
    (pickle.dumps([*REVIEWS, np.array([1])], 3), 'GLOBAL asks for numpy'),
    (pickle.dumps([*REVIEWS, np.float64(1)], 4), 'STACK_GLOBAL asks for numpy'),
    (pickle.dumps(Plain(), 2), 'GLOBAL asks for tests.data.readers.test_tripadvisor.Plain'),
    (pickle.dumps(Plain(), 4), 'STACK_GLOBAL asks for tests.data.readers.test_tripadvisor.Plain'),
    (pickle.dumps(WithArguments(), 4), 'STACK_GLOBAL asks for'),
    (pickle.dumps(Slotted(), 2), 'GLOBAL asks for'),
    (pickle.dumps([*REVIEWS, Plain()], 1), 'GLOBAL asks for copy_reg._reconstructor'),
    (pickle.dumps([decimal.Decimal(1)], 4), 'asks for decimal.Decimal'),
    (pickle.dumps([b'x'], 3), 'SHORT_BINBYTES is no instruction'),
    (pickle.dumps([bytearray(b'x')], 5), 'BYTEARRAY8 is no instruction'),
    (pickle.dumps([{1}], 4), 'EMPTY_SET is no instruction'),
    (pickle.dumps([{1}], 3), 'GLOBAL asks for builtins.set'),
    (b'\x80\x05\x97.', 'NEXT_BUFFER is no instruction'),
    (HEAD + b']02.', 'POP is no instruction'),
    (HEAD + b']2.', 'DUP is no instruction'),
    (HEAD + b'\xff.', '0xff is no instruction'),
], ids=lambda x: x[:40] if isinstance(x, str) else None)
def test_no_instruction_but_those_of_plain_data_is_known(tmp_path, data, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, data))
    assert f'{tmp_path}/reviews.pickle, byte' in str(error.value) and message in str(error.value)
    assert os.listdir(tmp_path) == ['reviews.pickle']


def test_not_even_a_module_is_imported(tmp_path):
    """Python imports the module of a class before it looks for the class in it."""
    module = next(name for name in ('this', 'nturl2path', 'sndhdr') if name not in sys.modules)
    with pytest.raises(UserError, match=f'GLOBAL asks for {module}.x'):
        load(publish(tmp_path, HEAD + f'c{module}\nx\n.'.encode()))
    assert module not in sys.modules


# ------------------------------------------------------------------------------------------ bombs


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value)) + value.encode()


DEEP = 100_000  # enough to end the process where C recurs
LAUGHS = HEAD + b']q\x00' + b''.join(b'](' + b'h' + bytes([n]) + (b'h' + bytes([n])) * 9 + b'eq' + bytes([n + 1])
                                     for n in range(30))


@pytest.mark.parametrize('data, message', [
    (HEAD + b']r\xff\xff\xff\xff.', 'should be a list of reviews'),  # a place in the memo that C would make room for
    (HEAD + b'X\xff\xff\xff\xff.', 'ends in the middle'),
    (b'\x80\x04\x8d' + b'\xff' * 7 + b'\x0f.', 'BINUNICODE8 is no instruction'),
    (b'\x80\x04\x95' + b'\xff' * 8 + b'].', 'should be a list of reviews'),  # the length of a frame is a hint
    (HEAD + b'\x8b\xff\xff\xff\x7f.', 'LONG4 is no instruction'),
    (HEAD + b']' * DEEP + b'a' * (DEEP - 1) + b'.', 'holds more containers than fit a file of its size'),
    (HEAD + b'(' * DEEP, 'holds more containers than fit a file of its size'),
    (HEAD + b'](' + b'}' * DEEP + b'e.', 'holds more containers than fit a file of its size'),
    (HEAD + b'N' + b'\x85' * DEEP + b'.', 'holds more containers than fit a file of its size'),
    # Nested as deep as the size allows, under a text that makes room.
    (HEAD + b']' + text('x' * 20 * DEEP) + b'a' + b']' * DEEP + b'a' * DEEP + b'.',
     "review 1: should be a dictionary, is 'xxx"),
    (HEAD + b']' + text('x' * 20 * DEEP) + b'0', 'POP is no instruction'),
    # The hash of a tuple so deep ends the process.
    (HEAD + b']}N' + b'\x85' * DEEP + text('x' * 20 * DEEP) + b'sa.', 'SETITEM makes no sense there'),
    (HEAD + b']}]Nsa.', 'SETITEM makes no sense there'),
    (HEAD + b'](' + b'}' + b'(' + text('user') + b'N' + text('user') + b'Nue.', 'SETITEMS makes no sense there'),
    (HEAD + b'](}(' + text('user') + b'ue.', 'SETITEMS makes no sense there'),
    (HEAD + b')Na.', 'APPEND makes no sense there'),
    (HEAD + b'h\x07.', 'BINGET makes no sense there'),
    (HEAD + b'e.', 'APPENDS makes no sense there'),
    (HEAD + b'(].', 'ends, and not all'),
    (HEAD + b']].', 'ends, and not all'),
    (HEAD + b'.', 'ends, and not all'),
], ids=lambda x: x[:40] if isinstance(x, str) else None)
def test_bombs_are_told_in_little_time_and_memory(tmp_path, data, message):
    load(publish(tmp_path))  # what is imported late
    publish(tmp_path, data)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UserError) as error:
        load(tmp_path)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in str(error.value) and len(str(error.value)) < 1000
    assert seconds < 20 and peak < 6 * len(data) + (32 << 20), (seconds, peak)


def test_a_thing_of_a_billion_references_is_not_written_out(tmp_path):
    """Lists of lists that refer to one list tenfold: little in memory, endless as text."""
    start = time.process_time()
    with pytest.raises(UserError) as error:
        load(publish(tmp_path, LAUGHS.replace(HEAD, HEAD + b']', 1) + b'.'))
    assert time.process_time() - start < 5 and len(str(error.value)) < 1000


def test_a_file_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tripadvisor, 'MAX_BYTES', 1000)
    with pytest.raises(UserError, match='reviews.pickle: is longer than 1,000 bytes'):
        load(publish(tmp_path, REVIEWS * 100))


def test_damage_is_told_or_stays_in_its_review(tmp_path):
    """A text stands once in a pickle and is referred to again: its damage shows in each review that has it.

    No text is in more than two of these reviews, but for the keys, whose damage is told.
    """
    for protocol in (3, 4):
        check_mutations(load, {'reviews.pickle': pickle.dumps(REVIEWS, protocol)}, tmp_path, touched=2)
