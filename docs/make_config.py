"""Writes docs/config.md: every key of the papers' configs, its value, what it is, and what the paper has.

    python docs/make_config.py            # writes the page
    python docs/make_config.py --check    # ends with 1 where the page is not what it would write

Values are those of `get_config`; what a key is, is the comment that stands behind it in the config's file. What the
papers have stands in PAPERS below, with the place; a key that is not there is one that the paper says nothing of.
"""

import ast
import io
import json
import pathlib
import sys
import tokenize
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import expctr, llmxrec, recpie  # noqa: E402
from xrec_jax.runs.workdir import flat  # noqa: E402

PAGE = ROOT / 'docs' / 'config.md'
# Name → config and argument, files whose comments count (the first that has one).
CONFIGS = {
    'ExpCTR': (expctr, 'ml-100k', ('expctr',)),
    'LLMXRec': (llmxrec, 'ml-100k', ('llmxrec', 'expctr', 'tune')),
    'RecPIE': (recpie, 'simulated', ('recpie', 'expctr', 'tune')),
}
PAPERS = {
    'ExpCTR': {
        'schedule': 'LC alignment, then fit and IC alignment in turns; "two epochs per iteration" (4.3.2, 5.1.4)',
        'data.protocol': 'one random target a user, with what came before it (5.1.1)',
        'data.num_samples': '20,000; BookCrossing 40,000',
        'data.history_length': '10',
        'data.threshold': '4; BookCrossing 5',
        'data.comparison': '"above"',
        'data.split': '8:1:1',
        'prompt.attributes': 'titles alone: `none`',
        'language.model': 'LLaMA-3-"7b"',
        'encoder.model': 'BGE-small',
        'lc_score.form': '`probabilities`: eq. 8 as printed',
        'fit.model.name': 'DeepFM of RecBole',
        'align.kl_coef': '0.05; 0.01 to 0.5 tried (figure 4)',
        'align.reward_clip': '1.0; 0.5 to 5.0 tried (figure 4)',
        'align.learner.learning_rate': '1e-5',
        'align.center_by_label': 'no such thing: `False`',
    },
    'LLMXRec': {
        'schedule': 'fit, tune, explain the first item, tune a judge, compare (2, 3)',
        'data.protocol': 'leave-one-out (4.1)',
        'data.threshold': 'every interaction counts',
        'fit.training.learning_rate': '"default parameters"',
        'explain.requests.max_rows': '1,000 users of each recommender (table 2)',
        'explainer.data.train': '240 explanations of people, and attribute prediction',
        'judge_pairs.train': '1,440 pairs',
        'judge_pairs.test': '360 pairs',
        'language.model': 'LLaMA',
        'prompt.parts.history': 'up to 50; MIND and Steam 10',
        'prompt.parts.thought': 'a chain of thought (3.2), in none of the published prompts',
        'prompt.parts.profile': 'age, gender, occupation',
    },
    'RecPIE': {
        'schedule': 'explanations and network trained in turns (algorithm 1)',
        'data.protocol': 'by each user\'s time (C.2)',
        'data.split': '80-20, validation not told',
        'language.model': 'Llama 3.1 (others in table 4)',
        'encoder.model': '"e.g." DistilBERT',
        'soft_prompt.tokens': 'the embedding itself, before the input (2.1)',
        'soft_prompt.tune_embeddings': 'not told',
        'prompt.positive': '`recpie/positive` (A.1)',
        'prompt.negative': '`recpie/negative` (A.1)',
        'align.credit': '`shared`: eq. 1',
        'align.baseline': 'no such thing: `none`',
        'align.kl_coef': 'not told',
        'fit.model.use_liked': 'not told: `False`',
        'fit.training.learning_rate': 'grid search (C.2)',
    },
}


# Groups of the configs that are the settings of a dataclass, whose comments count too.
CLASSES = {'generate': 'language/sampling.py', 'align.ppo': 'rl/ppo.py', 'align.learner': 'rl/update.py',
           'fit.training': 'recommenders/training.py', 'data.filters': 'data/filters.py',
           'tune.optimizer': 'language/tuning.py', 'prompt.parts': 'language/instructions.py'}
CLASSES_OF = {'LLMXRec': {'fit.training': 'recommenders/ranking/training.py'}}
WORDS_OF = {'LLMXRec': {'fit.task': "'click', 'rating' or 'ranking'"}}  # in place of what another config's comment says
WORDS = {  # what no comment says
    'fit.sequence.mask_ratio': "of BERT4Rec's cloze task: share of a history that is masked",
    'fit.sequence.last_share': 'of it: share of rows whose last item alone is masked',
    'prompt.parts.history_categories': "whether past items are shown with theirs",
    'prompt.parts.candidate_categories': 'whether the target is shown with its own',
    'prompt.parts.words_at_most': 'that the rules allow',
    'seed': 'of the whole run; the same on the same machine gives the same bits',
    'schedule': 'verbs with the names of their settings, in order: xrec_jax/phases/schedule.py',
    'mesh.data': 'devices that share a batch; -1: all that the others leave',
    'mesh.fsdp': 'devices that share batch and parameters',
    'mesh.tensor': 'devices that share each matrix',
    'mesh.dcn_data': 'TPU slices',
    'data.name': 'of the catalog',
    'data.num_samples': 'targets that are drawn',
    'data.history_length': 'items before the target that prompts and models see',
    'data.threshold': 'a rating of at least this is a like; None: every interaction is',
    'data.split': 'train, valid, test',
    'data.train_share': 'of the training targets that are used',
    'prompt.explain': 'template, xrec_jax/language/templates',
    'prompt.click': 'template of the question of eq. 8',
    'prompt.attributes': "'judged', 'named' or 'none': how prompts show an item's attributes",
    'language.dtype': "of the frozen base; 'bfloat16' on accelerators",
    'language.remat': "what the backward pass computes again: 'none', 'projections', 'all'",
    'language.lora_rank': 'of the adapter',
    'language.lora_alpha': 'its scale is alpha / rank',
    'language.lora_targets': 'projections that get one',
    'lc_score.temperature': 'T of eq. 8',
    'explain.adapter': 'write with the tuned adapter; False: the frozen model',
    'explain.splits': 'whose examples are explained',
    'explain.encode': 'keep the sentence vector of each text',
    'explain.batch_size': 'texts at once',
    'fit.text': 'whether the predictor reads explanations',
    'fit.fields': 'of users and items: xrec_jax/recommenders/fields.py',
    'fit.model.name': 'one of xrec_jax/recommenders; its own settings follow',
    'align.reward': "'lc', 'ic' or 'rating': xrec_jax/phases/align_rewards.py",
    'align.iterations': 'of PPO',
    'align.rollout_size': 'texts of an iteration',
    'align.encode': 'keep the sentence vectors, for the next fit',
    'align.truncation_penalty': 'off the normalised reward of a text that was cut off',
    'align.kl_horizon': 'how slowly kl_coef adapts, in texts',
    'data.filters.max_per_item': 'as max_per_user',
    'data.filters.min_per_item': 'as min_per_user',
    'fit.model.embed_dim': 'of ids and other fields',
    'fit.model.mlp': 'widths',
    'fit.model.dropout': 'share',
    'fit.model.text_projection': "to which an explanation's vector is brought; 0: as it is",
    'fit.model.text_projection_dropout': 'share, after the projection',
    'fit.model.use_liked': 'whether the network is told which past items were liked',
    'fit.training.learning_rate': "of Adam, or AdamW",
    'fit.training.batch_size': 'rows, or targets, a step',
    'fit.mask_seen': 'whether what a user has met is kept from the lists',
    'fit.sequence.loss': "'softmax' over all items, or 'binary' with one negative a target",
    'fit.sequence.stride': 'targets that one pass over a history learns from; 0: all',
    'align.learner.learning_rate': 'of Adam, on adapter, value head and soft prompt',
    'align.learner.max_grad_norm': 'of all gradients together',
    'judge.examples': 'shown side by side',
    'judge.ks': 'lengths of the lists that are measured',
    'material': "folder with the authors' files: xrec_jax/data/README.md",
    'judge_prompt.frame': 'what a model expects around an instruction: xrec_jax/language/instructions.py',
    'judge_prompt.explanation_tokens': 'of each explanation that the judge sees, its beginning; 0: all',
    'tune.data.train': 'files of examples',
    'prompt.positive': 'template of the reason for',
    'prompt.negative': 'template of the reason against',
    'prompt.profile': "template of an item's profile",
    'soft_prompt.tokens': 'virtual tokens before each prompt, from the consumer\'s embedding; 0: none',
    'soft_prompt.tune_embeddings': 'whether PPO moves the embeddings too',
    'explain.profile.max_length': 'tokens of a profile',
    'explain.profile.temperature': '0: greedy',
    'explain.profile.stop': 'cuts a profile where it first stands',
    'explain.profile.reviews': 'of the training split that the prompt shows',
    'explain.profile.review_words': 'of each review',
    'explain.profile.store': 'a folder that runs share',
    'judge.task': "'click', 'rating', 'ranking', 'pairs', 'attributes' or 'text'",
}


# ---------------------------------------------------------------------------------------- comments


def comments(path: pathlib.Path) -> dict[str, str]:
    """Dotted key → the comment at the end of the line where the config's file sets it."""
    text = path.read_text(encoding='utf-8')
    by_line = {token.start[0]: token.string.lstrip('# ') for token in tokenize.generate_tokens(io.StringIO(text).readline)
               if token.type == tokenize.COMMENT and token.line.strip() != token.string}
    found: dict[str, str] = {}
    for key, line in _keys(ast.parse(text)):
        if line in by_line:
            found.setdefault(key, by_line.pop(line))  # of the first, the outermost key of the line
    return found


def field_comments(path: pathlib.Path) -> dict[str, str]:
    """Field of a dataclass → the comment behind it, or the lines of comment above it."""
    lines, found = path.read_text(encoding='utf-8').splitlines(), {}
    tree = ast.parse('\n'.join(lines))
    for node in (field for cls in tree.body if isinstance(cls, ast.ClassDef) for field in cls.body):
        if isinstance(node, ast.AnnAssign):
            behind, above = lines[node.lineno - 1].partition('  #')[2].strip(), []
            for line in reversed(lines[:node.lineno - 1]):
                if not line.strip().startswith('#'):
                    break
                above.insert(0, line.strip().lstrip('# '))
            if text := behind or ' '.join(above):
                found.setdefault(node.target.id, text)
    return found


def _keys(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(dotted key, line) of what the functions of a config's file set."""
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        part = function.name.removesuffix('_config')  # data_config makes config.data
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                prefix = _prefix(node.targets[0], part)
                if prefix is not None:
                    if prefix and not prefix.endswith('.'):
                        yield prefix, node.lineno
                    yield from _of_value(prefix, node.value)
            elif isinstance(node, ast.Return) and part != 'get' and node.value is not None:
                yield from _of_value(part, node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'update':
                prefix = _prefix(node.func.value, part)
                if prefix is not None:
                    yield from _of_value(prefix, node.args[0])


def _prefix(target: ast.expr, part: str) -> str | None:
    """`config.align.learner` → 'align.learner'; of data_config's `data` 'data'; None for anything else."""
    names = []
    while isinstance(target, ast.Attribute):
        names.insert(0, target.attr)
        target = target.value
    if not isinstance(target, ast.Name):
        return None
    if target.id == 'config':
        return '.'.join(names) or None
    return '.'.join([part, *names]) if target.id == part != 'get' else None


def _of_value(prefix: str, value: ast.expr) -> Iterator[tuple[str, int]]:
    if isinstance(value, ast.Call) and value.args:
        yield from _of_value(prefix, value.args[0])
    elif isinstance(value, ast.BinOp):  # base | {…}
        yield from _of_value(prefix, value.left)
        yield from _of_value(prefix, value.right)
    elif isinstance(value, ast.Dict):
        for key, inner in zip(value.keys, value.values):
            if isinstance(key, ast.Constant):
                yield f'{prefix}.{key.value}', key.lineno
                yield from _of_value(f'{prefix}.{key.value}', inner)


# -------------------------------------------------------------------------------------------- page


def rows(name: str) -> list[tuple[str, str, str, str]]:
    """(key, value, what it is, the paper) of every key of a config."""
    module, argument, files = CONFIGS[name]
    values = flat(json.loads(module.get_config(argument).to_json()))
    known = [WORDS_OF.get(name, {}), *(comments(ROOT / 'configs' / f'{file}.py') for file in files)]
    known += [{f'{group}.{field}': text for field, text in field_comments(ROOT / 'xrec_jax' / file).items()}
              for group, file in (CLASSES | CLASSES_OF.get(name, {})).items()] + [WORDS]

    def described(key: str) -> str:
        own = next((found[key] for found in known if key in found), '')
        return own or (f'as `{key.removeprefix("judge_")}`, of what the judge is asked' if key.startswith(
            'judge_prompt.parts.') else '')

    papers, made = PAPERS[name], []
    if unknown := set(papers) - set(values):
        raise SystemExit(f'PAPERS[{name!r}] has keys that the config has not: {", ".join(sorted(unknown))}')
    for key, value in values.items():
        text = described(key)
        if not text and '.' in key and (group := described(key.rsplit('.', 1)[0])) and (
                key.rsplit('.', 1)[0] not in values):
            text = group if _alone(key, values) else ''
        made.append((key, _shown(value), text or _of_phase(key, values['schedule']), papers.get(key, '')))
    return made


def _of_phase(key: str, schedule: list[str]) -> str:
    """What a key of a phase's own settings stands for: 'icl.adapter' for `explain.adapter` in explain(icl)."""
    name, _, rest = key.partition('.')
    entry = next((entry for entry in schedule if entry.endswith(f'({name})')), '')
    return f'`{entry.split("(")[0]}.{rest}` in {entry}' if entry and rest else ''


def _alone(key: str, values: dict) -> bool:
    """Whether a key is the first of its group, which the group's comment then stands beside."""
    group = key.rsplit('.', 1)[0] + '.'
    return next(name for name in values if name.startswith(group)) == key


def _shown(value) -> str:
    if isinstance(value, list):
        text = ', '.join(str(one) for one in value) if value and all(isinstance(one, str) for one in value) else str(value)
    else:
        text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + '…'


def page() -> str:
    """The whole of docs/config.md."""
    parts = ['# Every key of the configs', '',
             'Made by `python docs/make_config.py` from the configs and their comments. Any key can be changed on the command',
             'line, `--config.align.kl_coef=0.1`, tuples as `--config.data.split="(8, 1, 1)"`. An empty last column: the paper',
             'says nothing of it. Values are those for `tiny` on two CPU cores; the papers have larger models.', '']
    for name, (module, argument, _) in CONFIGS.items():
        parts += [f'## {name}: `configs/{module.__name__.split(".")[-1]}.py:{argument}`', '',
                  '| key | value | what it is | the paper |', '|---|---|---|---|']
        for key, value, text, paper in rows(name):
            cells = [cell.replace('|', '\\|') for cell in (f'`{key}`', f'`{value}`' if value else '', text, paper)]
            parts.append(f'| {" | ".join(cells)} |')
        parts.append('')
    return '\n'.join(parts)


if __name__ == '__main__':
    if '--check' in sys.argv[1:]:
        sys.exit(PAGE.read_text(encoding='utf-8') != page())
    PAGE.write_text(page(), encoding='utf-8')
