"""LLMXRec (Luo et al. 2024): a recommender picks an item, a tuned LLaMA says why, a tuned judge compares explanations.

    python -m xrec_jax.train --config configs/llmxrec.py:ml-100k --workdir runs/llmxrec \\
        --config.data.data_dir=../shared/data/ml-100k --config.material=../shared/data/llmxrec

The argument: ml-100k, mind or steam, and the recommenders that are wanted (`ml-100k,bpr,sasrec`; default all three).
`config.material` is a folder with what the authors published, or with files of your own in the same forms
(xrec_jax/data/README.md, "Material"): instruct_train.jsonl, attributes_train.jsonl, judge_train.jsonl, judge_test.jsonl,
explanations.parquet. Recorded explanations (GPT-4's, ChatGLM's, …) are rows like those of our own model; they say which
items were explained, so the pairs are judged on those items. `explain(recommended)` explains our recommenders' own
first items.

Marked: [P] the paper says so, [A] Alpaca-LoRA's finetune.py, which the authors name as their model, [T] for the embedded
`tiny` on two cores: a real LLaMA wants the value behind it.
"""

from ml_collections import ConfigDict, FieldReference

from configs import expctr, tune
from configs.baselines import parse
from xrec_jax.errors import UserError, nearest

DATASETS = {  # argument → name in our catalog, in the material, length of history [P]
    'ml-100k': ('ml-100k', 'ml-100k', 50), 'mind': ('mind-small', 'mind_small_dev', 10), 'steam': ('steam', 'steam', 10)}
RECOMMENDERS = {'bpr': 'BPR-MF', 'sasrec': 'SASRec', 'lightgcn': 'LightGCN'}  # and their names in the material
GENERATORS = {'llama': 'LLaMA2', 'chatglm': 'ChatGLM2', 'gpt35': 'GPT3.5', 'gpt4': 'GPT4'}  # recorded
ATTRIBUTES = {'ml-100k': ('customer',), 'mind': ('category', 'interest'), 'steam': ('price', 'popularity')}


def get_config(argument: str = 'ml-100k') -> ConfigDict:
    name, recommenders = parse(argument, RECOMMENDERS)
    if name not in DATASETS:
        raise UserError(f'--config …:{argument}: "{name}" is no dataset of LLMXRec.{nearest(name, DATASETS)}')
    dataset, published, history = DATASETS[name]
    config = ConfigDict()
    config.seed = 0
    config.schedule = (
        *(f'fit({recommender})' for recommender in recommenders), 'judge(ranking)',
        'tune(explainer)', 'explain(recommended)',
        *(f'explain({generator})' for generator in GENERATORS), 'explain(untuned)', 'explain(tuned)',
        'tune(judge_adapter)', 'judge(tuning)', 'judge(pairs)', 'judge(attributes)')
    config.mesh = ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1, 'dcn_data': 1})
    config.material = '../shared/data/llmxrec'
    material = config.get_ref('material')

    # Stage 1: leave-one-out, every interaction counts [P].
    config.data = expctr.data_config(config, dataset)
    for key in ('num_samples', 'split'):  # of ExpCTR's protocol
        del config.data[key]
    config.data.update({'protocol': 'leave_one_out', 'history_length': max(50, history), 'train_share': 1.0})
    config.data.threshold = None
    config.fit = ConfigDict({
        'task': 'ranking',
        'seeds': 1,
        'model': {'name': 'bpr'},
        'training': {'learning_rate': 1e-3, 'batch_size': 2048, 'epochs': 300, 'patience': 30, 'monitor': 'mrr@10'},
        'sequence': {'loss': 'softmax', 'stride': 0, 'mask_ratio': 0.2, 'last_share': 0.5},
        'mask_seen': True,
        'checkpoint_every': 20,
    })
    for recommender in recommenders:
        config[recommender] = ConfigDict({'model': {'name': recommender, 'embed_dim': 64}})

    # Stage 2: instructions (section 3.2) and the model.
    parts = {
        'history': history,
        'history_categories': True,
        'candidate_categories': True,
        'profile': ('age', 'gender', 'occupation'),  # () leaves it out, as in figure 4
        'role': True,
        'thought': False,  # chain of thought: in the paper's list, in none of its published prompts
        'rules': True,
        'words_at_most': 75,
    }
    # [T] A published instruction has up to 1,900 of tiny's tokens, more than its context; so six items of history, and no
    # words that it cannot read. For a real LLaMA: frame 'alpaca' or 'llama2', as_recorded True, and `parts`.
    config.prompt = ConfigDict({
        'frame': 'plain',  # xrec_jax/language/instructions.py, FRAMES
        'role': False,  # the authors' system message before it
        'as_recorded': False,  # True: recorded instructions stay as they are; False: written anew with `parts`
        'parts': parts | {'history': 6, 'role': False, 'rules': False},
    })
    # [T] `tiny` judges by the candidate's title and the beginnings of the two explanations, under short headings: some
    # 145 of its short tokens, where the published prompt [P] has 900 to 1,400. For a real LLaMA: frame 'alpaca' or
    # 'llama2', form 'published', question True, `parts` as above, explanation_tokens 0.
    config.judge_prompt = ConfigDict({
        'frame': 'plain',
        'role': False,
        'form': 'short',
        'parts': parts | {'history': 0, 'profile': (), 'candidate_categories': False, 'role': False,
                          'rules': False},
        'question': False,
        'explanation_tokens': 32,
    })
    config.judge_pairs = ConfigDict({
        'train': _file(material, 'judge_train.jsonl'),
        'test': _file(material, 'judge_test.jsonl'),
        'valid_share': 0.1,  # of the training pairs, whole instructions
    })
    config.language = tune.get_config().language
    config.language.update({  # [T]; [A] is rank 8 on two projections with dropout
        'lora_rank': 16, 'lora_alpha': 32.0, 'lora_dropout': 0.0, 'remat': 'none',
        'lora_targets': ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')})
    config.generate = ConfigDict({'max_length': 224, 'temperature': 0.7, 'top_k': 0, 'top_p': 0.95, 'min_length': 1})

    config.tune = tune.tune_config()
    config.tune.update({'max_length': 512, 'row_length': 512, 'batch_size': 8, 'microbatch_size': 4})  # [T]
    config.explainer = ConfigDict({
        'adapter_name': 'explainer',
        'load': '',  # an adapter that was tuned before
        'data': {
            'folder': material,
            'train': ('instruct_train.jsonl', 'attributes_train.jsonl'),
            'forms': ('instructions', 'attributes'),
            'ratio': (1.0, 0.3),  # the multi-task mixture; the paper gives no ratio
            'test': ('instruct_test_unseen.jsonl',),
            'valid_share': 0.1,
        },
        'epochs': 1,  # [T], [A] 3; an epoch has as many examples as both files, and meets an explanation four times
        'optimizer': {'learning_rate': 1e-3},  # [T]; [A] 3e-4
    })
    config.judge_adapter = ConfigDict({
        'adapter_name': 'judge',
        'load': '',
        'data': {'train': (), 'forms': ('pairs',), 'valid_share': 0.0},  # config.judge_pairs
        # [T]. With a learning rate of 4e-3, or with 32 in a batch and 3e-3, `tiny` answers by chance to the end.
        'epochs': 3,
        'batch_size': 4,
        'together': 2,  # both orders of a pair in one step, so that none of them leaves a liking for one place
        'max_length': 192,
        'row_length': 192,
        'optimizer': {'learning_rate': 1e-3},
    })

    config.explain = ConfigDict({
        'writer': 'model',  # or 'recorded', 'endpoint'
        'adapter': 'explainer',  # '': the base model
        'generator': '',  # of recorded explanations
        'endpoint': {'model': '', 'parameters': {'temperature': 0.0, 'max_tokens': 256}},  # language/endpoint.py
        'requests': {
            'source': 'recorded',  # or 'top1': what our own recommenders put first
            'predictors': tuple(recommenders),
            'file': _file(material, 'explanations.parquet'),
            'dataset': published,
            'recommenders': tuple(RECOMMENDERS[recommender] for recommender in recommenders),
            'max_rows': 0,  # users of each recommender; 0: all
        },
        'parts': {},  # what of config.prompt.parts is otherwise in a phase
        'batch_size': 32,
        'checkpoint_every': 8,  # batches
    })
    config.recommended = ConfigDict({'requests': {'source': 'top1'}})
    for key, generator in GENERATORS.items():
        config[key] = ConfigDict({'writer': 'recorded', 'generator': generator})
    config.untuned = ConfigDict({'adapter': '', 'requests': {'max_rows': 100}})
    config.tuned = ConfigDict({})

    # What each `judge` looks at; the settings of all three stand together.
    config.judge = ConfigDict({
        'task': 'pairs',
        'batch_size': 64,
        'checkpoint_every': 32,  # batches
        # ranking: the recommenders
        'ks': (5, 10, 20),
        'scorers': {RECOMMENDERS[recommender]: f'predictor({recommender})' for recommender in recommenders},
        # pairs: generators by their phases `explain`, all of the same requests; and the judge
        'generators': (('LLaMA', 'llama'), ('ChatGLM', 'chatglm'), ('GPT-3.5', 'gpt35'), ('GPT-4', 'gpt4'),
                       ('ours, tuned', 'tuned')),
        'ours': 'ours, tuned',  # which of them stands where the paper's table has LLMXRec
        'adapter': 'judge',
        'reference': '',  # one of them, to compare the others with it alone; and what they differ in
        'condition': '',
        'max_requests': 0,  # compared of each recommender; 0: all
        # attributes: what is inferred, by which models (their adapters; '': the base model), of which items
        'attributes': ATTRIBUTES[name],
        'models': {'ours, untuned': '', 'ours, tuned': 'explainer'},
        'requests': {'source': 'top1', 'predictors': tuple(recommenders), 'max_rows': 300},  # [T]; 0: all users
        'history': 5,  # items in these prompts; [T], 10 as published
        'max_length': 48,  # tokens of an answer
    })
    config.ranking = ConfigDict({'task': 'ranking'})
    config.tuning = ConfigDict({'task': 'pairs', 'generators': (('ours, untuned', 'untuned'), ('ours, tuned', 'tuned'))})
    config.pairs = ConfigDict({'task': 'pairs'})
    config.attributes = ConfigDict({'task': 'attributes'})
    return config


def _file(material: FieldReference, name: str) -> FieldReference:
    """The path of a file in the folder `config.material`, which may be given on the command line."""
    return material + f'/{name}'
