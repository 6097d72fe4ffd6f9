"""The report in a real browser: what it asks for, what filters leave, what cards show, and who can use it.

Chromium as the system has it (Debian: `apt-get install chromium`), driven by Playwright, checked by axe.
"""

import collections
import os
import re
import shutil

import pytest

from tests.reporting import made
from tests.reporting.test_page import write_run
from xrec_jax import report

playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed (pip install playwright)')
axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-playwright-python is not installed')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium on this machine')


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as running:
        # Root may not use Chromium's sandbox.
        yield running.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'] if os.geteuid() == 0 else [])


@pytest.fixture(scope='module')
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    runs = [made.write_explanations(write_run(folder / 'a', 0)), write_run(folder / 'b', 0, 0.1, 0.9),
            made.write_explanations(write_run(folder / 'c', 1), count=3)]
    report.write_report(runs, 'html', folder / 'report.html')
    return (folder / 'report.html').as_uri()


@pytest.fixture(scope='module')
def seen(browser, url):
    """(the page, what went wrong in it or was asked of the network)"""
    opened, wrong = browser.new_page(viewport={'width': 1200, 'height': 900}), []
    opened.set_default_timeout(10_000)
    opened.on('console', lambda message: wrong.append(message.text))
    opened.on('pageerror', lambda error: wrong.append(str(error)))
    opened.on('request', lambda request: wrong.append(request.url) if request.url != url else None)
    opened.goto(url)
    return opened, wrong


@pytest.fixture
def page(seen):
    """The page with nothing filtered; whatever a test does, no error and no request may come of it."""
    opened, wrong = seen
    opened.get_by_role('combobox', name='run', exact=True).select_option(index=0)
    opened.get_by_role('button', name='reset').click()
    opened.wait_for_timeout(20)
    yield opened
    assert not wrong


def count(page) -> int:
    return int(re.match(r'\d+', page.get_by_role('status').text_content())[0])


def expected(wanted) -> int:
    """How many of the test and valid examples, which both phases explain, are so."""
    return sum(bool(wanted(n)) for n in range(24)) * 2


def test_a_page_of_cards_is_shown_and_the_next_ones_by_a_button(page):
    assert page.get_by_role('status').text_content() == '52 of 52 explanations'
    assert page.locator('.card').count() == 20
    first = page.locator('.card h3').first.text_content()
    assert first == 'user u0 → Heat (1995)'
    nav = page.locator('nav.pages').first
    nav.get_by_role('button', name='last').click()
    assert page.locator('.card').count() == 12 and 'page 3 of 3' in nav.text_content()
    assert nav.get_by_role('button', name='next').get_attribute('aria-disabled') == 'true'
    nav.get_by_role('button', name='back').click()
    assert 'page 2 of 3' in nav.text_content() and page.locator('.card').count() == 20


def test_filters_leave_what_they_say(page):
    page.get_by_role('combobox', name='split', exact=True).select_option('test')
    assert count(page) == 24
    page.get_by_role('combobox', name='split', exact=True).select_option('')
    page.get_by_role('combobox', name='label', exact=True).select_option('disliked')
    assert count(page) == expected(lambda n: n % 3 == 0) + 2  # of train 0 and 3
    page.get_by_role('button', name='reset').click()
    page.get_by_role('searchbox', name='user', exact=True).fill('u3')
    assert count(page) == expected(lambda n: n % 7 == 3) + 1
    page.get_by_role('searchbox', name='user', exact=True).fill('')
    page.get_by_role('searchbox', name='item or title', exact=True).fill('usual susp')
    assert count(page) == expected(lambda n: n % 5 == 1) + 1
    page.get_by_role('searchbox', name='words in it', exact=True).fill('no such words')
    assert count(page) == 0 and page.locator('.card').count() == 0


def test_rewards_and_predictions_filter_too(page):
    reward = lambda n: abs(made.score_of('04-explain-final', n) - (n % 3 == 0))
    page.get_by_role('spinbutton', name='reward from', exact=True).fill('0.5')
    page.get_by_role('spinbutton', name='to', exact=True).fill('0.6')
    assert count(page) == expected(lambda n: 0.5 <= round(reward(n), 4) <= 0.6) + sum(
        0.5 <= round(reward(n), 4) <= 0.6 for n in range(4))
    page.get_by_role('button', name='reset').click()
    right = lambda n: (made.score_of('04-explain-final', n) >= 0.5) == (n % 3 > 0)
    before = lambda n: (made.score_of('01-explain-icl', n) >= 0.5) == (n % 3 > 0)
    page.get_by_role('combobox', name='which is', exact=True).select_option('right')
    assert count(page) == expected(right)
    page.get_by_role('combobox', name='which is', exact=True).select_option('right, and ICL wrong')
    assert count(page) == expected(lambda n: right(n) and not before(n)) > 0
    page.get_by_role('combobox', name='prediction by', exact=True).select_option('Aug')
    page.get_by_role('combobox', name='which is', exact=True).select_option('wrong')
    assert count(page) == expected(lambda n: n % 2 == 0)


def test_cards_are_sorted_and_the_unknown_come_last(page):
    page.get_by_role('combobox', name='sorted', exact=True).select_option('prediction, highest first')
    shown = page.locator('.card .side:last-child .scores').all_text_contents()
    values = [float(re.search(r'Ours ([\d.]+)', text)[1]) for text in shown]
    assert values == sorted(values, reverse=True) and values[0] == 0.63
    page.get_by_role('combobox', name='sorted', exact=True).select_option('user')
    page.get_by_role('searchbox', name='user', exact=True).fill('u')
    users = [text.split(' →')[0] for text in page.locator('.card h3').all_text_contents()]
    assert users == sorted(users)
    page.get_by_role('searchbox', name='user', exact=True).fill('')
    page.get_by_role('combobox', name='sorted', exact=True).select_option('reward, most gained first')
    page.locator('nav.pages').first.get_by_role('button', name='last').click()
    assert page.locator('.card .chips').all_text_contents()[-1].count('train') == 1  # no reward before


# The words of a card that are marked as changed; a word may be in several elements, one behind the other.
CHANGED = """(card, tag) => [...card.querySelectorAll('.text')].map(text => [...text.childNodes].map(
  node => node.nodeName === tag ? node.textContent : ' ').join('')).join(' ').split(/\\s+/).filter(word => word)"""


def card(page, n: int, split: str = 'test'):
    """The card of an example."""
    one = made.example(n, split)
    page.get_by_role('combobox', name='split', exact=True).select_option(split)
    page.get_by_role('searchbox', name='user', exact=True).fill(one['user_id'])
    page.get_by_role('searchbox', name='item or title', exact=True).fill(one['item_id'])
    assert count(page) == 1
    return page.locator('.card')


def test_a_card_shows_what_changed_and_what_is_named(page):
    one = card(page, 10)
    assert one.locator('.text').all_text_contents() == [made.text_of(phase, 10) for phase in made.PHASES]
    gone, new = (one.evaluate(CHANGED, tag) for tag in ('DEL', 'INS'))
    old, now = (collections.Counter(made.text_of(phase, 10).split()) for phase in made.PHASES)
    assert collections.Counter(gone) == old - now and collections.Counter(new) == now - old
    assert one.locator('.text mark.item').all_text_contents() == ['The Usual Suspects']  # "Usual Suspects, The (1995)"
    assert one.locator('.text mark.attribute').all_text_contents() == ['crime']
    assert one.locator('.past mark.item').all_text_contents() == ['Usual Suspects, The (1995)']
    page.get_by_role('checkbox', name='what is named', exact=True).uncheck()
    page.get_by_role('checkbox', name='changed words', exact=True).uncheck()
    assert not page.locator('.card :is(mark, ins, del)').count()
    page.get_by_role('combobox', name='compared with', exact=True).select_option('nothing')
    assert one.locator('.text').all_text_contents() == [made.text_of('04-explain-final', 10)]


def test_a_card_has_history_label_and_scores(page):
    one = card(page, 10)
    want = made.example(10, 'test')
    for opinion, good in (('liked', True), ('disliked', False)):
        titles = one.locator(f'.past li.{opinion} > :first-child').all_text_contents()
        assert titles == [past['title'] for past in reversed(want['history']) if past['liked'] == good]
    assert 'and 3 older ones' in one.text_content() and 'liked in truth, 5 stars' in one.text_content()
    scores = one.locator('.scores').all_text_contents()
    assert scores[0] == f'ICL {made.score_of("01-explain-icl", 10)} ✗ wrongreward 0.35'
    assert 'Ours 0.45 ✗ wrong' in scores[1] and 'Aug 0.1 ✗ wrong' in scores[1] and 'DeepFM 0.26' in scores[2]


def test_a_title_holds_no_attribute_and_a_short_word_is_no_title(page):
    one = card(page, 8)  # the target is "Crime Story (1996)", the history has "It"
    assert one.locator('.text mark.attribute').all_text_contents() == ['crime']
    assert one.locator('.text mark.item').all_text_contents() == ['The Usual Suspects']


def test_a_text_is_never_markup(page):
    one = card(page, 3)
    assert one.locator('.text').all_text_contents() == [made.HOSTILE] * 2
    assert not page.locator('img, .card b, .card script').count() and page.title().startswith('xrec_jax')


def test_runs_are_shown_one_at_a_time_and_reset_keeps_the_run(page):
    choice = page.get_by_role('combobox', name='run', exact=True)
    assert len(choice.locator('option').all()) == 2  # one of the three has no explanations
    choice.select_option(index=1)
    assert count(page) == 3 * 2 + 4
    page.get_by_role('searchbox', name='user', exact=True).fill('u0')
    page.get_by_role('button', name='reset').click()
    page.wait_for_timeout(20)
    assert count(page) == 10 and page.locator('.card').count() == 10


def test_all_can_be_done_with_the_keyboard(page):
    page.get_by_role('searchbox', name='user', exact=True).focus()
    page.keyboard.type('u1')
    assert count(page) == expected(lambda n: n % 7 == 1) + 1
    reached = set()
    page.locator('body').evaluate('body => { body.tabIndex = -1; body.focus(); }')
    for _ in range(60):
        page.keyboard.press('Tab')
        reached.add(page.evaluate('document.activeElement.name || document.activeElement.dataset.go || document.activeElement.type'))
    named = page.evaluate("[...document.querySelectorAll('#explanations :is(select, input)')].filter("
                          'one => !one.closest("[hidden]")).map(one => one.name)')
    assert set(named) <= reached
    page.get_by_role('button', name='reset').press('Enter')
    page.wait_for_timeout(20)
    following = page.locator('nav.pages').first.get_by_role('button', name='next')
    following.focus()
    for _ in range(2):
        page.keyboard.press('Enter')
    assert 'page 3 of 3' in page.locator('nav.pages').first.text_content()
    assert following.evaluate('button => button === document.activeElement')  # it keeps the focus at the end
    page.get_by_role('checkbox', name='changed words', exact=True).press('Space')
    assert not page.get_by_role('checkbox', name='changed words', exact=True).is_checked()


def test_axe_finds_no_fault(page):
    found = axe.Axe().run(page, context={'exclude': [['svg > g']]})
    assert not found.violations_count, found.generate_report()


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_all_texts_stand_out_in_either_theme(page, theme):
    page.emulate_media(color_scheme=theme)
    page.get_by_role('searchbox', name='user', exact=True).fill('u3')
    found = axe.Axe().run(page, context={'exclude': [['svg > g']]}, options={
        'runOnly': ['color-contrast'], 'resultTypes': ['violations', 'passes']})
    assert not found.violations_count, found.generate_report()
    looked_at = {node['html'].split()[0].strip('<>') for one in found.response['passes'] for node in one['nodes']}
    assert {'ins', 'del', 'mark', 'button'} <= {name.split('>')[0] for name in looked_at}


def test_without_scripts_tables_and_figures_stand_and_a_note_says_what_is_missing(browser, url, page):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(url)
    note = 'can be looked at with JavaScript'
    assert plain.get_by_text(note).is_visible() and plain.locator('figure svg').first.is_visible()
    assert not plain.locator('#explanations').is_visible() and not page.get_by_text(note).is_visible()
    context.close()


def test_a_figure_s_numbers_are_one_click_away(page):
    with page.expect_download() as waited:
        page.locator('figcaption a').first.click()
    assert waited.value.suggested_filename.endswith('.csv')
    assert open(waited.value.path()).readline().startswith('uncertainty,gain,')
