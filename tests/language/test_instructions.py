"""LLMXRec's instructions: what each part says, what is left out, and the published texts byte for byte."""

import collections
import json
import pathlib

import pyarrow.parquet as pq
import pytest

from xrec_jax.data import catalog, tables
from xrec_jax.data.domains import BOOKS, GAMES, MOVIES, NEWS
from xrec_jax.errors import UserError
from xrec_jax.language import instructions
from xrec_jax.language.instructions import Item, Parts, Recommendation

SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
real = pytest.mark.skipif(not (SHARED / 'llmxrec').is_dir(), reason='needs ../shared/data/llmxrec')

FILMS = Recommendation(
    MOVIES,
    (Item('Alien', ('Horror', 'Sci-Fi')), Item('Fargo', ('Crime', 'Drama')), Item('Unknown One')),
    Item('Aliens', ('Action',)),
    {'age': '30', 'gender': 'female', 'occupation': 'writer', 'zip': '1'})


# ------------------------------------------------------------------------------------------ parts


def test_whole_instruction():
    assert instructions.explain(FILMS) == (
        'The history films watched by the customer are:\n'
        '1: Alien\nThe class of the movie is Horror Sci-Fi.\n'
        '2: Fargo\nThe class of the movie is Crime Drama.\n'
        '3: Unknown One\n'
        '\n'
        "The age of the customer is 30, the gender is female and the customer's occupation is writer. As a recommender "
        "system in the movie domain, based on the customer's historical viewing records, historical viewing movie "
        'information and user information, tell the customer why he or she needs to watch this movie, and what are the '
        'advantages of this movie.\n'
        'Give reasons why the customer needs to watch this movie with the following title and class:\n'
        'Aliens.\nThe class of the movie is Action.\n'
        '\n'
        "Use ONLY the information mentioned above, especially the history record. You're responding to the CUSTOMER. "
        'Directly tell the customer the reason. Respond in SHORT and CONCISE language. Your response should be WITHIN '
        '75 words.\n\n')


def test_parts_switch_off_one_by_one():
    def lines(**changed):
        return instructions.explain(FILMS, Parts(**changed)).splitlines()

    whole = lines()
    assert lines(history=0) == whole[7:]
    assert lines(history=1) == [whole[0], '1: Unknown One', *whole[6:]]
    assert lines(history_categories=False) == [line for line in whole if 'class' not in line or line in whole[-6:]]
    assert lines(candidate_categories=False)[-5:-2] == [
        'Give reasons why the customer needs to watch this movie with the following title:', 'Aliens.', '']
    assert lines(profile=())[7] == whole[7].partition('writer. ')[2]
    assert lines(role=False)[7] == whole[7].partition(' As a rec')[0]
    assert lines(role=False, profile=()) == whole[:7] + whole[8:]
    assert lines(rules=False) == whole[:-3]
    assert lines(words_at_most=20)[-2] == whole[-2].replace('75', '20')
    thought = lines(thought=True)
    assert thought[:8] + thought[9:] == whole and thought[8].startswith('Think step by step')


def test_profile_that_is_not_whole_is_told_fact_by_fact():
    def told(keys, **profile):
        person = Recommendation(BOOKS, (), Item('It'), profile)
        return instructions.explain(person, Parts(profile=keys, role=False, rules=False)).splitlines()[0]

    assert told(('age', 'gender'), age='30', gender='male', zip='1') == (
        'The age of the customer is 30. The gender of the customer is male.')
    assert told(('age', 'interests'), interests=('crime', 'war')) == 'The interests of the customer are crime, war.'
    assert told(('age', 'gender', 'occupation', 'town'), age='9', gender='male', occupation='none', town='Rome') == (
        "The age of the customer is 9, the gender is male and the customer's occupation is none. "
        'The town of the customer is Rome.')
    assert told(('age',), gender='male').startswith('Give reasons')


def test_other_domains_speak_of_their_items():
    book = Recommendation(BOOKS, (Item('Emma', ('novel', 'love')),), Item('It'))
    text = instructions.explain(book)
    assert text.startswith('The history books read by the customer are:\n1: Emma\n'
                           'The categories of the book are novel, love.\n\nAs a recommender')
    assert 'needs to read this book with the following title:\nIt.\n' in text
    assert not {'movie', 'watch', 'game'} & set(text.replace('.', ' ').split())


def test_items_are_shown_as_published():
    shown = instructions.shown_item
    assert shown(MOVIES, 'Toy Story (1995)', ["children's", 'film-noir', 'sci-fi']) == Item(
        'Toy Story', ("Children's", 'Film-Noir', 'Sci-Fi'))
    assert shown(MOVIES, '2001: A Space Odyssey (1968)').title == '2001: A Space Odyssey'
    assert shown(BOOKS, 'Emma (1815)', ['novel']) == Item('Emma (1815)', ('novel',))
    assert shown(GAMES, 'Rust', (), {'price': 'free'}).facts == {'price': 'Free to Play'}
    assert shown(BOOKS, 'Two\nlines', ['a\nb']) == Item('Two lines', ('a b',))


def test_texts_are_taken_as_they_are():
    text = instructions.explain(Recommendation(MOVIES, (Item('{{ 7 * 7 }} <b> & "x"'),), Item('{% if %}')))
    assert '1: {{ 7 * 7 }} <b> & "x"\n' in text and '{% if %}.\n' in text


def test_parts_from_a_config():
    assert instructions.parts({'history': 10, 'profile': ['age']}) == Parts(history=10, profile=('age',))
    with pytest.raises(UserError, match='"histroy" is no part.*Did you mean "history"'):
        instructions.parts({'histroy': 10})
    with pytest.raises(UserError, match='history=-1 should be 0 or more'):
        instructions.parts({'history': -1})


# ------------------------------------------------------------------------------------- attributes


def test_attribute_prompts_hide_what_is_asked():
    facts = {'price': '9.99', 'popularity': '4'}
    game = Recommendation(GAMES, (Item('Rust', ('Indie',), facts),), Item('Portal', ('Puzzle',), facts))
    price = instructions.attributes(game, 'price')
    assert 'The price of the game is 9.99.' in price.partition('Portal.')[0] and 'popularity' not in price
    assert '9.99' not in price.partition('Portal.')[2] and '"Game price": "<Free to Play or' in price
    popularity = instructions.attributes(game, 'popularity')
    assert 'The tags of the game are [Indie]. And the popularity of the game is 4.\n' in popularity
    assert 'popularity of the game is' not in popularity.partition('Portal.')[2] and '9.99' not in popularity
    assert 'Puzzle' not in instructions.attributes(game, 'category')
    interest = instructions.attributes(game, 'interest')
    assert 'Indie' not in interest and 'Puzzle' in interest


def test_attribute_answers_are_json_with_the_keys_of_the_prompt():
    profile = {'age': 24, 'gender': 'male', 'occupation': 'writer'}
    for task, domain, values in (
            ('customer', MOVIES, profile), ('customer', MOVIES, {'gender': 'male'}), ('popularity', MOVIES,
            {'popularity': 5}), ('price', GAMES, {'price': 'Free to Play'}), ('category', NEWS, {'category': 'sports'}),
            ('interest', NEWS, {'interest': 'sports, news'})):
        prompt = instructions.attributes(Recommendation(domain, (), Item('It')), task, names=tuple(values))
        asked = json.loads(prompt[prompt.rindex('{'):])
        answer = json.loads(instructions.attribute_answer(task, domain, values))
        assert list(asked) == list(answer) and list(answer.values()) == list(values.values())
    assert list(answer) == ['user interest']
    text = instructions.attributes(FILMS, 'customer', names=('age', 'gender'))
    assert 'You must infer age and gender.' in text and 'occupation' not in text


def test_unknown_attributes_name_the_nearest():
    with pytest.raises(UserError, match='"prize" is no attribute task.*"price"'):
        instructions.attributes(FILMS, 'prize')
    with pytest.raises(UserError, match='attribute task "price" has no "age"'):
        instructions.attribute_answer('price', GAMES, {'age': 3})


# -------------------------------------------------------------------------------- judge and frames


def test_judge_is_taken_apart_again():
    parts = ('What\nis best?\n\n', 'the first\nof two', ' 2 ')
    assert instructions.judged(instructions.judge(*parts)) == parts
    assert instructions.judged(instructions.judge(*parts, question=False)) == parts
    assert instructions.judge(*parts).endswith('Do not return any other information.')
    with pytest.raises(UserError, match="not a judge's instruction"):
        instructions.judged('Which is better?')


def test_score_prompt_asks_for_the_three_scores():
    text = instructions.scores('I', 'E')
    assert json.loads(text[text.rindex('{'):]).keys() == {'reasonability', 'attractiveness', 'redundancy'}
    assert '\nI\n' in text and '\nE\n' in text


def test_frames_end_where_the_answer_begins():
    role = instructions.role('judge')
    assert role.startswith('You are a discriminator') and not role.endswith('\n')
    assert instructions.chat('Do.', role='Be.') == 'Be.\n\nDo.'
    assert instructions.chat('Do.', 'llama2', 'Be.') == '[INST] <<SYS>>\nBe.\n<</SYS>>\n\nDo. [/INST]'
    assert instructions.chat('Do.', 'llama2') == '[INST] Do. [/INST]'
    assert instructions.chat('Do.', 'alpaca').endswith('### Instruction:\nDo.\n\n### Response:\n')
    with pytest.raises(UserError, match='no frame "alpacca".*"alpaca"'):
        instructions.chat('Do.', 'alpacca')
    with pytest.raises(UserError, match='no role "jugde".*"judge"'):
        instructions.role('jugde')


# ------------------------------------------------------------------------------ published material


def test_parse_is_the_inverse_of_explain():
    news = Recommendation(NEWS, (Item('3: A title', ('sports', 'tennis')),), Item('B. C', ('news', 'newsus')))
    games = Recommendation(GAMES, (Item('1: One', ('A', 'B C')), Item('The tags')), Item('Rust', ('Indie',)))
    films = Recommendation(MOVIES, FILMS.history, FILMS.candidate, dict(list(FILMS.profile.items())[:3]))
    for thing in (news, games, films):
        assert instructions.parse(instructions.explain(thing)) == thing
    with pytest.raises(UserError, match='not a published instruction'):
        instructions.parse('Tell me a joke.')
    with pytest.raises(UserError, match='no candidate'):
        instructions.parse('The history films watched by the customer are:\n1: Alien\n\nWhy?')


def published(dataset, generator='GPT4', recommender='BPR-MF'):
    rows = pq.read_table(SHARED / 'llmxrec' / 'explanations.parquet', filters=[
        ('dataset', '=', dataset), ('generator', '=', generator), ('recommender', '=', recommender)])
    return rows['instruction'].to_pylist()


@real
@pytest.mark.skipif(not (SHARED / 'ml-100k').is_dir(), reason='needs ../shared/data/ml-100k')
def test_ml_100k_users_get_the_published_instruction_byte_for_byte():
    """History and profile from the raw files; of the published text only who it is for and the candidate."""
    dataset = catalog.load('ml-100k', SHARED / 'ml-100k')
    items = [instructions.shown_item(dataset.domain, title, genres) for title, genres in zip(
        dataset.items['title'].to_pylist(), dataset.items['attributes'].to_pylist())]
    profiles = [dict(profile) for profile in dataset.users['profile'].to_pylist()]
    histories = collections.defaultdict(list)
    for user, item in zip(*(tables.codes(dataset.interactions[key]) for key in ('user_id', 'item_id'))):
        histories[user].append(items[item])
    of_profile = collections.defaultdict(list)
    for user, profile in enumerate(profiles):
        of_profile[tuple(profile[key] for key in ('age', 'gender', 'occupation'))].append(user)

    found, users = 0, set()
    texts = published('ml-100k')
    for text in texts:
        told = instructions.parse(text)
        titles = {item.title for item in told.history}
        user = min(of_profile[tuple(told.profile.values())],
                   key=lambda user: len(titles ^ {item.title for item in histories[user][-50:]}))
        users.add(user)
        candidate = next(item for item in items if item[:2] == told.candidate[:2])
        found += instructions.explain(Recommendation(
            dataset.domain, tuple(histories[user]), candidate, profiles[user])) == text
    assert len(users) == len(texts) == 943
    # The other 5 have one of two films in their history whose titles RecBole's copy of the data spells otherwise:
    # "unkonwn" (with the class "unknown"), and "Land Before Time III: …" without "(V)".
    assert found == 938


@real
def test_published_instructions_of_all_three_datasets_come_back_byte_for_byte():
    for dataset in ('ml-100k', 'mind_small_dev', 'steam'):
        texts = [text for text in published(dataset)[::5] if 'The tags of the game are nan.' not in text]
        assert len(texts) > 180
        for text in texts:
            assert instructions.explain(instructions.parse(text)) == text


@real
def test_published_attribute_prompts_come_back_byte_for_byte():
    count = collections.Counter()
    for line in (SHARED / 'llmxrec' / 'attributes_train.jsonl').read_text().splitlines():
        text = json.loads(line)['instruction']
        asked = [task for task in ('price', 'popularity') if f'You must infer {task}.' in text]
        task = asked[0] if asked else 'customer'
        same = instructions.attributes(instructions.parse(text), task) == text
        assert same or 'The tags of the game are nan.' in text
        count[task] += same
    assert count == {'customer': 300, 'popularity': 300, 'price': 288}


@real
def test_published_judge_records_come_back_byte_for_byte():
    for name in ('judge_train', 'judge_test'):
        for line in (SHARED / 'llmxrec' / f'{name}.jsonl').read_text().splitlines():
            text = json.loads(line)['instruction']
            assert instructions.judge(*instructions.judged(text), question=False) == text
