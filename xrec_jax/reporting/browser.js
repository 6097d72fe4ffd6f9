'use strict';
// The browser of explanations: filters, sorts and shows the cards that `cards.py` has put into the page as JSON.
//
//   read      the run that is shown, with what filters ask for often kept beside it
//   places    which cards the filters leave, in which order
//   card      one card as elements; only those of the page that is shown are made
//   changes   which words of two texts differ;  mentions: where a text names items of the history, or shared attributes
//
// Texts are data: they become text nodes, never markup.
(() => {
  const SIZE = 20;  // cards of a page
  const KINDS = {reason: 'reason', positive: 'positive reason', negative: 'negative reason'};
  const NAMED = {item: 'an item of the history', attribute: 'an attribute that target and history share'};
  const OPINIONS = ['disliked', 'liked', 'met'];  // as `cards.py` numbers them
  const runs = JSON.parse(document.getElementById('explanations-data').textContent).runs;
  const form = document.getElementById('explanations-filters');
  const list = document.getElementById('explanations-cards');
  const status = document.getElementById('explanations-status');
  const field = name => form.elements.namedItem(name);  // `elements.item` is a method
  let run, found = [], at = 0;  // the run, its cards that are left, the page

  // ------------------------------------------------------------------------------------------------- elements

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.filter(child => child !== null));
    return made;
  }

  const option = (value, text) => element('option', {value}, text);

  function choices(name, options, chosen) {
    const select = field(name);
    select.replaceChildren(...options.map(([value, text]) => option(value, text)));
    select.value = chosen;
    select.closest('label').hidden = options.length < 2;
  }

  // ----------------------------------------------------------------------------------------------------- data

  function read(number) {
    run = runs[number];
    run.low ??= {user: run.user.map(lower), item: run.item.map((id, n) => lower(`${id}\n${title(run.target[n])}`)),
                 texts: []};
    const every = [['', 'any']];
    const all = names => [...every, ...names.map((name, n) => [n, name])];
    const phases = run.phases.map((name, n) => [n, name]);
    choices('after', phases, run.after);
    choices('before', [...phases, ['', 'nothing']], run.before === run.after ? '' : run.before);
    choices('split', run.splits.length > 1 ? all(run.splits) : every, '');
    choices('kind', run.kinds.length > 1 ? all(run.kinds.map(kind => KINDS[kind] ?? kind)) : every, '');
    choices('group', run.groups.length > 1 ? all(run.groups) : every, '');
    const labelled = run.liked.some(liked => liked >= 0);
    choices('label', labelled ? [...every, [1, 'liked'], [0, 'disliked'], [-1, 'unknown']] : every, '');
    choices('scorer', run.scorers.map((name, n) => [n, name]), run.judging);
    field('scorer').closest('label').hidden = !run.scorers.length;
    outcomes();
    const rewarded = run.rewards.some(of => of.some(reward => reward !== null));
    for (const name of ['least', 'most']) field(name).closest('label').hidden = !rewarded;
    choices('sort', [
      ['', 'as in the data'],
      ...(rewarded ? [['reward-', 'reward, highest first'], ['reward+', 'reward, lowest first'],
                      ['gain-', 'reward, most gained first'], ['gain+', 'reward, most lost first']] : []),
      ...(run.scorers.length ? [['score-', 'prediction, highest first'], ['score+', 'prediction, lowest first'],
                                ['change-', 'prediction, most changed first']] : []),
      ['length-', 'longest first'], ['length+', 'shortest first'], ['user+', 'user'], ['item+', 'item']], '');
    const note = document.getElementById('explanations-note');
    note.textContent = run.note;
    note.hidden = !run.note;
  }

  function outcomes() {
    const versus = run.against[field('scorer').value] ?? -1;
    choices('outcome', run.scorers.length ? [['', 'any'], ['right', 'right'], ['wrong', 'wrong'], ...(versus < 0 ? [] : [
      ['turned right', `right, and ${run.scorers[versus]} wrong`],
      ['turned wrong', `wrong, and ${run.scorers[versus]} right`]])] : [['', 'any']], '');
  }

  const lower = text => text.toLowerCase();
  const title = item => item < 0 ? '' : run.items[item][0];
  const number = name => field(name).value === '' ? null : Number(field(name).value);
  const lowered = phase => run.low.texts[phase] ??= run.texts[phase].map(text => text === null ? null : lower(text));

  // Whether a scorer is right about an example: it says "liked", or not, as it came. null: nobody knows.
  function right(scorer, example) {
    const score = run.scores[scorer]?.[example] ?? null;
    if (score === null || run.liked[example] < 0) return null;
    return (run.above ? score > run.threshold : score >= run.threshold) === (run.liked[example] === 1);
  }

  function places() {
    const after = number('after'), before = number('before'), scorer = number('scorer') ?? -1;
    const [split, kind, group, label] = ['split', 'kind', 'group', 'label'].map(number);
    const [least, most] = ['least', 'most'].map(number);
    const [user, item, words] = ['user', 'item', 'words'].map(name => lower(field(name).value.trim()));
    const outcome = field('outcome').value, versus = run.against[scorer] ?? -1;
    const texts = words ? lowered(after) : null;
    const fits = (card, example) =>
      run.texts[after][card] !== null && (split === null || run.split[example] === split)
      && (kind === null || run.kind[card] === kind) && (group === null || run.group[example] === group)
      && (label === null || run.liked[example] === label)
      && (!user || run.low.user[example].includes(user)) && (!item || run.low.item[example].includes(item))
      && (!words || texts[card].includes(words)) && within(run.rewards[after][card], least, most)
      && (!outcome || outcome === turned(example, scorer, versus, outcome));
    const left = [];
    run.example.forEach((example, card) => { if (fits(card, example)) left.push(card); });
    return sorted(left, after, before, scorer, versus);
  }

  const within = (value, least, most) =>
    (least === null && most === null)
    || (value !== null && (least === null || value >= least) && (most === null || value <= most));

  function turned(example, scorer, versus, wanted) {
    const now = right(scorer, example), said = now === null ? '' : now ? 'right' : 'wrong';
    if (!wanted.startsWith('turned ')) return said;
    return now !== null && right(versus, example) === !now ? `turned ${said}` : '';
  }

  function sorted(cards, after, before, scorer, versus) {
    const by = field('sort').value;
    if (!by) return cards;
    const minus = (one, other) => (one ?? null) === null || (other ?? null) === null ? null : one - other;
    const score = (of, card) => run.scores[of]?.[run.example[card]] ?? null;
    const key = {
      reward: card => run.rewards[after][card],
      gain: card => before === null ? null : minus(run.rewards[after][card], run.rewards[before][card]),
      score: card => score(scorer, card),
      change: card => {
        const by = minus(score(scorer, card), score(versus, card));
        return by === null ? null : Math.abs(by);
      },
      length: card => run.texts[after][card].length,
      user: card => run.user[run.example[card]],
      item: card => run.item[run.example[card]],
    }[by.slice(0, -1)];
    const sign = by.endsWith('-') ? -1 : 1, names = new Intl.Collator('en', {numeric: true});
    const keys = new Map(cards.map(card => [card, key(card)]));
    return cards.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (a === null || b === null) return (a === null) - (b === null) || one - other;  // the unknown come last
      return sign * (typeof a === 'string' ? names.compare(a, b) : a - b) || one - other;
    });
  }

  // ---------------------------------------------------------------------------------------------------- texts

  const words = text => text.match(/\s+|[^\s]+/g) ?? [];

  // Of each piece of two texts, words and blanks, whether it is not in a longest common sequence of words.
  function changes(old, now) {
    const pieces = [words(old), words(now)];
    const [a, b] = pieces.map(of => of.map((piece, n) => n).filter(n => /\S/.test(of[n])));
    const same = (i, j) => pieces[0][a[i]] === pieces[1][b[j]];
    let start = 0, ends = [a.length, b.length];
    while (start < Math.min(...ends) && same(start, start)) start++;
    while (Math.min(...ends) > start && same(ends[0] - 1, ends[1] - 1)) ends = ends.map(end => end - 1);
    const [rows, columns] = ends.map(end => end - start), width = columns + 1;
    const length = new Uint16Array((rows + 1) * width);  // of what two ends of the texts have in common
    for (let i = rows - 1; i >= 0; i--)
      for (let j = columns - 1; j >= 0; j--)
        length[i * width + j] = same(start + i, start + j) ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    const changed = pieces.map(of => of.map(() => false));
    let i = 0, j = 0;
    while (i < rows || j < columns) {
      if (i < rows && j < columns && same(start + i, start + j)) {
        i++;
        j++;
      } else if (j >= columns || (i < rows && length[(i + 1) * width + j] >= length[i * width + j + 1]))
        changed[0][a[start + i++]] = true;
      else
        changed[1][b[start + j++]] = true;
    }
    // A blank between two changed words is changed with them.
    return changed.map((of, side) => of.map(
      (is, n) => is || (n > 0 && !/\S/.test(pieces[side][n]) && of[n - 1] && of[n + 1] === true)));
  }

  const plain = text => text.replace(/[\u2018\u2019]/g, "'").replace(/[\u2010\u2011]/g, '-');
  const letter = /[\p{L}\p{N}]/u;

  // Where a name stands in a text as whole words.
  function* standing(text, name) {
    for (let at = text.indexOf(name); at >= 0; at = text.indexOf(name, at + 1)) {
      const [before, behind] = [text[at - 1] ?? '', text[at + name.length] ?? ''];
      if (!letter.test(before) && !letter.test(behind)) yield at;
    }
  }

  // What a text may call an item: its title, also without the year, and with its article in front. A short word alone,
  // as of the film "It", is no name.
  const names = item => (run.named ??= [])[item] ??= named(item);

  function named(item) {
    const full = run.items[item][0], bare = full.replace(/ \(\d{4}\)$/, '');
    const turned = bare.replace(/^(.*), (The|A|An)$/, '$2 $1');
    return [...new Set([full, bare, turned].map(plain))].filter(name => name.length > 3);
  }

  function shared(example) {
    if (run.target[example] < 0) return [];
    const met = new Set(run.history[example].flatMap(code => run.items[Math.floor(code / 3)][1]));
    return run.items[run.target[example]][1].filter(word => met.has(word));
  }

  // [start, end, 'item' or 'attribute', item] of what a text names, none within another. The target's own title is left
  // out, and an attribute in a title is none.
  function mentions(text, example) {
    const spans = [], where = plain(text);
    const add = (inside, name, kind, item) => {
      for (const at of standing(inside, name)) {
        const end = at + name.length;
        if (spans.every(span => end <= span[0] || at >= span[1])) spans.push([at, end, kind, item]);
      }
    };
    const called = new Map();
    const met = run.history[example].map(code => Math.floor(code / 3));
    for (const item of run.target[example] < 0 ? met : [...met, run.target[example]])
      for (const name of names(item)) called.set(name, item);
    const longest = (one, other) => other.length - one.length;  // first: a name within another is none
    for (const name of [...called.keys()].sort(longest)) add(where, name, 'item', called.get(name));
    const small = lower(where), same = small.length === where.length;  // a few letters are longer when small
    for (const word of shared(example).map(word => plain(run.words[word])).filter(word => word.trim()).sort(longest))
      add(same ? small : where, same ? lower(word) : word, 'attribute', null);
    return spans.filter(span => span[2] !== 'item' || span[3] !== run.target[example]).sort((a, b) => a[0] - b[0]);
  }

  // A text with its changed words in <ins> or <del>, and what it names in <mark>.
  function marked(text, changed, spans, tag) {
    const made = element('p', {class: 'text'});
    const of = new Array(text.length).fill(false);
    if (changed) words(text).reduce((from, piece, n) => {
      if (changed[n]) of.fill(true, from, from + piece.length);
      return from + piece.length;
    }, 0);
    const span = new Array(text.length).fill(null);
    for (const one of spans) span.fill(one, one[0], one[1]);
    for (let from = 0, to; from < text.length; from = to) {
      for (to = from + 1; to < text.length && of[to] === of[from] && span[to] === span[from];) to++;
      let part = document.createTextNode(text.slice(from, to));
      if (span[from]) part = element('mark', {class: span[from][2], title: NAMED[span[from][2]]}, part);
      made.append(of[from] ? element(tag, {}, part) : part);
    }
    return made;
  }

  // ---------------------------------------------------------------------------------------------------- cards

  const shown = value => value === null || value === undefined ? '–' : String(Number(value.toFixed(3)));
  const chip = (text, kind = '') => element('span', {class: `chip ${kind}`}, text);

  const listed = (words, common) => words.flatMap((word, n) => [n ? ', ' : '', common.has(word)
    ? element('mark', {class: 'attribute'}, run.words[word]) : run.words[word]]);

  function about(item, kind, named, common) {
    const [name, attributes] = run.items[item];
    const of = element(named ? 'mark' : 'span', named ? {class: 'item'} : {}, name);
    if (!attributes.length) return element('li', {class: kind}, of);
    return element('li', {class: kind}, of, element('span', {class: 'attributes'}, ' ', ...listed(attributes, common)));
  }

  function past(example, named, common) {
    const codes = run.history[example], made = element('div', {class: 'past'});
    if (!codes.length) return run.target[example] < 0 ? null : element('p', {class: 'soft'}, 'No history.');
    for (const opinion of [1, 0, 2]) {
      const items = codes.filter(code => code % 3 === opinion).map(code => Math.floor(code / 3)).reverse();
      if (!items.length) continue;
      const shown = items.map(item => about(item, OPINIONS[opinion], named.has(item), common));
      made.append(element('div', {}, element('h4', {}, `${OPINIONS[opinion]} before`),
                          element('ul', items.length > 6 ? {class: 'many'} : {}, ...shown)));
    }
    const older = run.lengths[example] - codes.length;
    if (older > 0) made.append(element('p', {class: 'soft'}, `and ${older} older ones`));
    return made;
  }

  function prediction(scorer, example) {
    const is = right(scorer, example), unit = run.judged === 'rating' ? ' stars' : '';
    return element('li', {}, `${run.scorers[scorer]} ${shown(run.scores[scorer][example])}${unit}`,
                   is === null ? null : element('span', {class: is ? 'right' : 'wrong'}, is ? ' ✓ right' : ' ✗ wrong'));
  }

  function side(heading, card, phase, text) {
    const example = run.example[card], scores = element('ul', {class: 'scores'});
    const reading = run.scorers.map((_, n) => n).filter(n => run.reads[n] === phase && run.scores[n][example] !== null);
    scores.append(...reading.map(n => prediction(n, example)));
    const llm = run.llm_scores[phase][card], reward = run.rewards[phase][card];
    const same = reading.some(n => Math.abs(run.scores[n][example] - llm) < 1e-3);
    if (llm !== null && !same) scores.append(element('li', {}, `frozen model, reading it ${shown(llm)}`));
    if (reward !== null) scores.append(element('li', {}, `reward ${shown(reward)}`));
    return element('div', {class: 'side'}, element('h4', {}, `${heading}: ${run.phases[phase]}`), text,
                   scores.children.length ? scores : null);
  }

  function card(place) {
    const example = run.example[place], after = number('after'), before = number('before');
    const now = run.texts[after][place], old = before === null || before === after ? null : run.texts[before][place];
    const differing = old !== null && field('changes').checked ? changes(old, now) : [null, null];
    const named = text => field('marks').checked ? mentions(text, example) : [];
    const [spans, oldSpans] = [named(now), old === null ? [] : named(old)];
    const items = new Set([...spans, ...oldSpans].filter(span => span[2] === 'item').map(span => span[3]));
    const made = element('article', {class: 'card', 'aria-label': `user ${run.user[example]}, item ${run.item[example]}`});
    const target = run.target[example], liked = run.liked[example], rating = run.rating[example];
    const opinion = OPINIONS[liked], stars = rating === null ? '' : `, ${rating} stars`;
    const label = liked < 0 ? chip('no label') : chip(`${opinion} in truth${stars}`, opinion);
    const kind = run.kinds[run.kind[place]], id = run.item[example];
    const head = element('h3', {}, `user ${run.user[example]} → `);
    if (target < 0) head.append(`item ${run.item[example]}`);
    else head.append(title(target));
    made.append(head, element('p', {class: 'chips'}, label, chip(run.splits[run.split[example]]),
                              run.kinds.length > 1 ? chip(KINDS[kind] ?? kind) : null,
                              run.group[example] < 0 ? null : chip(run.groups[run.group[example]]),
                              id === title(target) ? null : chip(`item ${id}`)));
    const common = new Set(field('marks').checked ? shared(example) : []);
    const facts = element('p', {class: 'facts'});
    if (target >= 0 && run.items[target][1].length)
      facts.append(element('span', {}, 'attributes: ', ...listed(run.items[target][1], common)));
    const decided = run.aspects[example].map(word => run.words[word]);
    if (decided.length) facts.append(element('span', {}, `what truly decided: ${decided.join(', ')}`));
    if (run.profile[example]) facts.append(element('span', {}, `user: ${run.profile[example]}`));
    if (facts.children.length) made.append(facts);
    const history = past(example, items, common);
    if (history) made.append(history);
    const sides = element('div', {class: 'sides'});
    if (old !== null) sides.append(side('before', place, before, marked(old, differing[0], oldSpans, 'del')));
    sides.append(side(old === null ? 'explanation' : 'after', place, after, marked(now, differing[1], spans, 'ins')));
    made.append(sides);
    const others = run.scorers.map((_, n) => n).filter(n => run.reads[n] < 0 && run.scores[n][example] !== null);
    if (others.length) made.append(element('div', {}, element('h4', {}, 'without explanations'), element(
      'ul', {class: 'scores'}, ...others.map(n => prediction(n, example)))));
    return made;
  }

  // ---------------------------------------------------------------------------------------------------- pages

  const pages = () => Math.max(1, Math.ceil(found.length / SIZE));

  function show(page) {
    at = Math.min(Math.max(0, page), pages() - 1);
    list.replaceChildren(...found.slice(at * SIZE, (at + 1) * SIZE).map(place => element('li', {}, card(place))));
    const [left, all, total] = [found.length, run.example.length, run.total].map(count => count.toLocaleString('en'));
    const sampled = run.total > run.example.length ? ` (${total} in the run; test first, then drawn)` : '';
    status.textContent = `${left} of ${all} explanations${sampled}`;
    for (const nav of document.querySelectorAll('.pages')) {
      nav.hidden = pages() < 2;
      const [here, last] = [at + 1, pages()].map(page => page.toLocaleString('en'));
      nav.querySelector('[data-here]').textContent = `page ${here} of ${last}`;
      for (const button of nav.querySelectorAll('button')) {
        // Not `disabled`: a button that has the focus would lose it.
        const there = {first: 0, back: at - 1, next: at + 1, last: pages() - 1}[button.dataset.go];
        button.setAttribute('aria-disabled', there === at || there < 0 || there >= pages());
      }
    }
  }

  function refresh() {
    found = places();
    show(0);
  }

  form.addEventListener('submit', event => event.preventDefault());
  form.addEventListener('reset', () => {
    const kept = field('run').value;
    setTimeout(() => { field('run').value = kept; read(kept); refresh(); });  // behind the reset itself
  });
  form.addEventListener('input', event => {
    if (event.target.name === 'run') read(event.target.value);
    if (event.target.name === 'scorer') outcomes();
    if (['changes', 'marks'].includes(event.target.name)) show(at);
    else refresh();
  });
  for (const nav of document.querySelectorAll('.pages'))
    nav.addEventListener('click', event => {
      const button = event.target.closest('button');
      if (!button || button.getAttribute('aria-disabled') === 'true') return;
      show({first: 0, back: at - 1, next: at + 1, last: pages() - 1}[button.dataset.go]);
      if (nav.dataset.below !== undefined) status.scrollIntoView({block: 'start'});
    });

  choices('run', runs.map((one, n) => [n, one.name]), 0);
  read(0);
  refresh();
  document.getElementById('explanations').hidden = false;
  document.getElementById('explanations-off').hidden = true;
})();
