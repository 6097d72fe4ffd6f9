"""How quick is the report's browser of explanations with many cards?

    python bench/report_page.py [--cards 10000] [--words 60] [--workdir RUN]

Makes a page of so many synthetic cards (or of a real run), opens it in Chromium from the disk, and prints JSON lines:
the page's size, the time until the cards are there, and for each of filtering, searching, sorting, turning a page and
toggling marks the median time of the script, and until the next frame is painted. Needs Chromium, and Playwright
(pip install playwright).
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from xrec_jax import report  # noqa: E402
from xrec_jax.reporting import cards, collect, page  # noqa: E402

CHANGE = """([name, value]) => new Promise(done => {
  const field = document.getElementById('explanations-filters').elements.namedItem(name), start = performance.now();
  if (field.type === 'checkbox') field.checked = !field.checked; else field.value = value;
  field.dispatchEvent(new Event('input', {bubbles: true}));
  const script = performance.now() - start;
  requestAnimationFrame(() => setTimeout(() => done([script, performance.now() - start])));
})"""
TURN = """go => new Promise(done => {
  const start = performance.now();
  document.querySelector(`.pages [data-go=${go}]`).click();
  const script = performance.now() - start;
  requestAnimationFrame(() => setTimeout(() => done([script, performance.now() - start])));
})"""
STEPS = {
    'filter by label': [('label', value) for value in ('1', '0', '')],
    'filter by user': [('user', value) for value in ('u1', 'u12', 'u123', 'u12', '')],
    'search in texts': [('words', value) for value in ('w', 'w1', 'w12', 'w12 ', '')],
    'filter by reward': [('least', value) for value in ('0.2', '0.5', '0.9', '')],
    'sort': [('sort', value) for value in ('reward-', 'gain-', 'score+', 'change-', 'length-', 'user+', '')],
    'toggle marks': [('marks', ''), ('changes', ''), ('marks', ''), ('changes', '')],
}


def synthetic(count: int, words: int) -> dict:
    """A run of so many cards as `cards.of_run` gives it: texts of so many words, histories of ten items."""
    random = np.random.default_rng(0)
    vocabulary = [f'w{n}' for n in range(2000)]
    items = [[f'Title {n} of {vocabulary[n]} ({1950 + n % 70})', [n % 20, (n * 7) % 20]] for n in range(1500)]

    def text(target: int, past: int) -> str:
        chosen = [vocabulary[n] for n in random.integers(0, 2000, words)]
        return ' '.join([*chosen[:words // 2], items[past // 3][0], f'genre{target % 20}', *chosen[words // 2:]])

    targets = random.integers(0, 1500, count).tolist()
    history = random.integers(0, 4500, (count, 10)).tolist()
    numbers = lambda: np.round(random.random(count), 4).tolist()
    return {
        'name': 'synthetic', 'phases': ['01-explain-icl', '10-explain-final'], 'before': 0, 'after': 1, 'total': count, 'note': '',
        'example': list(range(count)), 'kind': [0] * count,
        'texts': [[text(target, past[0]) for target, past in zip(targets, history)] for _ in range(2)],
        'rewards': [numbers(), numbers()], 'llm_scores': [numbers(), numbers()],
        'user': [f'u{n}' for n in random.integers(0, 3000, count)], 'item': [f'i{target}' for target in targets],
        'split': [0] * count, 'group': [-1] * count, 'target': targets, 'history': history, 'lengths': [10] * count,
        'liked': random.integers(0, 2, count).tolist(), 'rating': [3.0] * count, 'aspects': [[]] * count,
        'profile': ['age 30, gender female'] * count, 'scores': [numbers() for _ in range(4)],
        'scorers': ['ICL', 'DeepFM', 'Aug', 'LLM'], 'reads': [0, -1, 1, 1], 'against': [3, 2, 1, 0], 'judging': 2,
        'judged': 'click', 'threshold': 0.5, 'above': False, 'items': items, 'words': [f'genre{n}' for n in range(20)],
        'kinds': ['reason'], 'splits': ['test'], 'groups': []}


def write_synthetic(folder: pathlib.Path, count: int, words: int) -> pathlib.Path:
    run = collect.Run(folder, {'data.name': 'synthetic'}, {'seed': 0, 'seconds': {}}, [])
    made, told = synthetic(count, words), page.explanations
    page.explanations = lambda groups, most: [made]
    try:
        (folder / 'report.html').write_text(page.render(collect.grouped([run])), encoding='utf-8')
    finally:
        page.explanations = told
    return folder / 'report.html'


def measure(path: pathlib.Path) -> None:
    chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=['--no-sandbox'] if os.geteuid() == 0 else [])
        opened = browser.new_page(viewport={'width': 1280, 'height': 900})
        opened.goto(path.as_uri())
        opened.locator('.card').first.wait_for()
        shown = opened.get_by_role('status').text_content()
        loaded = opened.evaluate('performance.getEntriesByType("navigation")[0].domComplete')
        tell(claim='report page', cards=shown, megabytes=round(path.stat().st_size / 1e6, 2), loaded_ms=round(loaded))
        for name, steps in STEPS.items():
            times = [opened.evaluate(CHANGE, list(step)) for step in steps]
            tell(claim=name, **told(times))
        times = [opened.evaluate(TURN, go) for go in ('next', 'next', 'last', 'back', 'first')]
        tell(claim='turn the page', **told(times))
        tell(claim='scroll to the end', ms=round(opened.evaluate("""() => new Promise(done => {
          const start = performance.now();
          window.scrollTo(0, document.body.scrollHeight);
          requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
        })"""), 1))
        browser.close()


def told(times: list[list[float]]) -> dict[str, float]:
    """Of [the script's, until painted] milliseconds: medians, and the longest until painted."""
    script, painted = zip(*times)
    return {'script_ms': round(statistics.median(script), 1), 'painted_ms': round(statistics.median(painted), 1),
            'longest_ms': round(max(painted), 1)}


def tell(**figures) -> None:
    print(json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--cards', type=int, default=cards.MOST)
    parser.add_argument('--words', type=int, default=60, help='of a text')
    parser.add_argument('--workdir', type=pathlib.Path, help='a finished run to take the cards from')
    parser.add_argument('--keep', type=pathlib.Path, help='where the page is left')
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, start = pathlib.Path(name), time.perf_counter()
        if given.workdir:
            path = folder / 'report.html'
            report.write_report([given.workdir], 'html', path)
        else:
            path = write_synthetic(folder, given.cards, given.words)
        tell(claim='page made', seconds=round(time.perf_counter() - start, 2))
        if given.keep:
            shutil.copy(path, given.keep)
        measure(path)


if __name__ == '__main__':
    main()
