"""RecPIE (Wang, Li, Chen: Can Explanations Improve Recommendations? A Joint Optimization with LLM Reasoning).

    python -m xrec_jax.train --config configs/recpie.py:simulated --workdir runs/recpie
    python -m xrec_jax.train --config configs/recpie.py:ml-100k --workdir runs/recpie-ml --config.data.data_dir=DIR

The argument after the colon: simulated, ml-100k, amazon-movies, yelp, tripadvisor, google-mv, or any dataset of the
catalog (xrec_jax/data/README.md). A rating r is predicted as its place on the scale, (r - low) / (high - low) from 0 to
1, which the paper's errors of 0.17 to 0.30 fit.

With the embedded model the prompts are in the language that it knows (`recpie/tiny_*`); a LLaMA gets the paper's:

    --config.language.model=DIR --config.prompt.positive=recpie/positive --config.prompt.negative=recpie/negative \
    --config.prompt.profile=recpie/profile --config.prompt.direct=recpie/direct --config.explain.profile.stop= \
    --config.explain.profile.max_length=96 --config.generate.max_length=64 \
    --config.prompt.begins.positive= --config.prompt.begins.negative=

What comes out stands in docs/recpie.md.
"""

from ml_collections import ConfigDict

from configs import expctr, tune
from xrec_jax.data import catalog
from xrec_jax.data.readers.google_local import MOUNTAIN_VIEW

# Alternation: the policy explains all splits, the network learns to read it, and PPO pays the policy for what the
# network gains. The first round is written by the frozen model; at the end what the last policy writes is judged.
FIRST = ('explain(frozen)', 'fit(on_frozen)', 'align(first)')
ROUND = ('explain(contrast)', 'fit(with_text)', 'align(next)')
# A round in which only some training examples are explained, and the test split is not: on two cores, texts are dear.
SHORT = ('explain(sample)', 'fit(on_sample)', 'align(next)')
LAST = ('explain(contrast)', 'fit(with_text)')
SHUFFLED = ('explain(shuffled)', 'fit(on_shuffled)')
TRUTH = ('explain(truth)', 'fit(on_truth)')

# Baselines of the paper's table 1: by ids and histories, with a rating head; TALLRec, the model tuned to say Yes or No;
# PETER, which writes, too.
SEQUENCES = {'sasrec': 'SASRec', 'din': 'DIN', 'bert4rec': 'BERT4Rec'}
BASELINES = (*(f'fit({name})' for name in SEQUENCES), 'tune(tallrec)', 'fit(peter)', 'explain(peter_texts)')
# Those of appendix C.2 that have a row in the table and no code yet.
NOT_RUN = ('RecSAVER', 'LLMRG', 'A3NCF', 'SULM', 'AARM', 'MMALFM', 'ANR', 'MTER', 'UniSRec', 'AMCF', 'UCEPic', 'PARSRec')

# The paper's datasets: entry of the catalog, options of its reader.
DATASETS = {
    'amazon-movies': ('amazon-2023', {'category': 'Movies_and_TV'}),
    'yelp': ('yelp', {}),
    'tripadvisor': ('tripadvisor', {}),
    'google-mv': ('google-local', {'zip_codes': MOUNTAIN_VIEW}),
}


def get_config(dataset: str = 'simulated') -> ConfigDict:
    base = expctr.get_config(DATASETS.get(dataset, (dataset, {}))[0])
    config = ConfigDict()
    config.seed = 0
    config.mesh, config.encoder, config.language = base.mesh, base.encoder, base.language
    config.schedule = ('explain(profiles)', 'fit(no_text)', *FIRST, *ROUND, *LAST, *SHUFFLED, *BASELINES, 'judge(table)',
                       'judge(text)')
    config.data = data_config(config, dataset)
    config.prompt = ConfigDict({
        'positive': 'recpie/tiny_positive',
        'negative': 'recpie/tiny_negative',
        # `tiny` follows no instruction to take a side: it says what the history says of the target, in the two ways that
        # it knows, one for each text. A LLaMA needs no such words: ''.
        'begins': {'positive': 'With', 'negative': 'The'},
        'profile': 'recpie/tiny_profile',
        'direct': 'recpie/tiny_direct',  # of the scorers 'LLM directly' and TALLRec
        'attributes': 'named',  # in the item's text where there is no profile; or 'none': titles alone
    })
    # Virtual tokens before each prompt, from the consumer's embedding; 0: none. The projection learns in `align`, the
    # embeddings in `fit`, and with `tune_embeddings` in `align` too.
    config.soft_prompt = ConfigDict({'tokens': 1, 'tune_embeddings': False})
    config.generate = base.generate
    config.generate.max_length = 40

    config.explain = ConfigDict({
        'writes': 'reasons',  # or 'profiles', 'truth', 'shuffled', 'predictor': xrec_jax/phases/explain.py
        'adapter': True,  # False: the frozen model, without soft prompt
        'splits': ('train', 'valid', 'test'),
        'max_examples': 0,  # of the train split; 0: all
        'encode': True,
        'batch_size': 64,
        'checkpoint_every': 10,  # batches
        'of': 'contrast',  # what 'shuffled' shuffles; of 'predictor' the fit that writes
        # Of 'profiles': greedy; `stop` cuts a text where it first stands; `store`: a folder that runs share.
        'profile': {'max_length': 40, 'temperature': 0.0, 'stop': ';', 'reviews': 3, 'review_words': 60, 'store': ''},
    })
    config.fit = ConfigDict({
        'task': 'rating',  # or 'click', then set judge.task and fit.training.monitor too
        'text': True,
        'explanations': 'contrast',  # which phase `explain` is read
        'continues': (),  # fits of which the first that was run before gives the start
        'seeds': 1,
        'fields': ('user_id', 'item_id', 'profile', 'attributes'),
        # use_liked tells the sequence what the user thought of each item, as the prompts of `tiny` tell the writer; the
        # network without text gets it too. The paper's network is not told: use_liked=False.
        'model': {'name': 'recpie', 'embed_dim': 32, 'width': 64, 'mlp': (64, 32), 'dropout': 0.3, 'heads': 2,
                  'inner': 64, 'max_length': 20, 'use_liked': True},
        'training': {'learning_rate': 5e-4, 'weight_decay': 1e-2, 'embedding_decay': 1e-2, 'batch_size': 64,
                     'epochs': 60, 'patience': 15, 'monitor': 'rmse', 'text_dropout': 0.1},
        'checkpoint_every': 5,  # epochs
    })
    config.align = ConfigDict(base.align.to_dict() | {
        'reward': 'rating',
        'predictor': 'with_text',
        'credit': 'shared',  # eq. 1 for both texts of a pair; or 'leave_one_out': each for the difference it makes
        'baseline': 'without_text',  # a control variate: phases/align_rewards.py; 'none' is the paper
        'center_by_label': False,
        'form_penalty': 0.0,  # off the normalised reward of a text that misses the form
        'iterations': 8,
        'rollout_size': 128,  # texts: 64 examples
        'checkpoint_every': 5,
    })
    config.judge = ConfigDict({
        'task': 'rating',
        'scorers': {'No text': 'predictor(no_text)', 'Frozen LLM': 'predictor(on_frozen, frozen)',
                    'RecPIE': 'predictor(with_text, contrast)', 'Shuffled': 'predictor(on_shuffled, shuffled)',
                    'LLM directly': 'direct(direct)', 'TALLRec': 'direct(direct, tallrec)',
                    'PETER': 'predictor(peter)', **{title: f'predictor({name})' for name, title in SEQUENCES.items()}},
        'not_run': NOT_RUN,
        'before': {'explain': 'frozen', 'scorers': ('No text', 'Frozen LLM')},
        'after': {'explain': 'contrast', 'scorers': ('RecPIE',)},
        'attention': 'RecPIE',  # the scorer whose attention values are kept
        'examples': 5,
        # Of task 'text' (table 2).
        'texts': {
            'explanations': ('frozen', 'contrast', 'peter_texts'),  # phases `explain`
            'splits': ('test',),
            'scorer': 'language',  # LMScore by the base model; a BART directory: BARTScore; or 'none'
            'num_terms': 3,  # aspect terms an item, where its interactions have none of their own
        },
    })
    config.text = ConfigDict({'task': 'text'})
    config.profiles = ConfigDict({'writes': 'profiles'})
    config.frozen = ConfigDict({'adapter': False})
    config.shuffled = ConfigDict({'writes': 'shuffled'})
    config.truth = ConfigDict({'writes': 'truth'})
    config.no_text = ConfigDict({'text': False, 'explanations': ''})
    # Sizes for two cores; without them the paper's: embed_dim 512, inner 2048. Weights of the losses are the paper's.
    config.peter = ConfigDict({'text': False, 'explanations': '', 'model': {
        'name': 'peter', 'embed_dim': 64, 'layers': 2, 'heads': 2, 'inner': 128, 'dropout': 0.2, 'max_words': 15}})
    config.peter_texts = ConfigDict({'writes': 'predictor', 'of': 'peter', 'splits': ('test',)})
    config.on_frozen = ConfigDict({'explanations': 'frozen'})
    config.with_text = ConfigDict({'continues': ('with_text', 'on_frozen')})
    config.on_shuffled = ConfigDict({'explanations': 'shuffled'})
    config.on_truth = ConfigDict({'explanations': 'truth'})
    config.first = ConfigDict({'predictor': 'on_frozen'})
    for name in SEQUENCES:
        config[name] = ConfigDict({'text': False, 'explanations': '', 'model': {'name': name, 'embed_dim': 32}})
    config.tune = tune.tune_config()
    config.tallrec = ConfigDict({
        'adapter_name': 'tallrec',
        'data': {'forms': ('verdicts',), 'valid_share': 0.0},  # answers to the prompt `template` of training examples
        'template': 'direct',
        'max_length': 512,
        'row_length': 512,
        'batch_size': 16,  # for `tiny`; the paper 64, at a learning rate of 1e-4
        'optimizer': {'learning_rate': 1e-3},
    })
    if dataset == 'simulated':
        shorten(config)
    return config


def shorten(config: ConfigDict) -> None:
    """The simulated world on two cores, with its true reasons."""
    config.schedule = ('explain(profiles)', 'fit(no_text)', *FIRST, *SHORT, *LAST, *SHUFFLED, *TRUTH, *BASELINES,
                       'judge(table)', 'judge(text)')
    config.judge.scorers['True reasons'] = 'predictor(on_truth, truth)'
    config.sample = ConfigDict({'splits': ('train', 'valid'), 'max_examples': 200})
    config.on_sample = ConfigDict({'explanations': 'sample', 'continues': ('on_frozen',)})
    config.with_text.continues = ('on_sample', 'on_frozen')
    config.explain.profile.max_length = 24
    config.fit.training.learning_rate, config.fit.checkpoint_every = 2e-3, 20
    config.first.iterations, config.next = 6, ConfigDict({'iterations': 2, 'predictor': 'on_sample'})
    config.judge.texts.scorer = 'none'


def data_config(config: ConfigDict, dataset: str) -> ConfigDict:
    """`config.data`: the 80/20 split by each user's time (appendix C.2), an eighth of training's end for validation."""
    name, options = DATASETS.get(dataset, (dataset, {}))
    data = ConfigDict({
        'name': name,
        'data_dir': '' if name == 'simulated' else f'data/{name}',
        'options': catalog.entry(name).options | options,
        'filters': expctr.get_config(name).data.filters,
        'on_bad_row': 'raise',
        'protocol': 'user_temporal',
        'history_length': 10,
        'threshold': 4.0,  # of a high rating, in attention values and in the prompts of `tiny`
        'comparison': 'at_least',
        'split': (7, 1, 2),
        'train_share': 1.0,
    })
    if name == 'simulated':
        data.options.update({'num_users': 40, 'num_items': 40, 'num_interactions': 800, 'num_attributes': 5,
                             'attributes_per_item': (1, 1), 'num_loved': 2, 'num_hated': 2, 'quality': 1.2, 'noise': 0.3})
        data.options.seed = config.get_ref('seed')
        data.history_length = 6
    if dataset == 'ml-100k':  # what two CPU cores can do; all of it: filters.max_per_user=0, filters.sample_users=0
        data.filters.update({'max_per_user': 50, 'sample_users': 60})
    return data
