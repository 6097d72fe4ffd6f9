"""Instruction tuning of any model on any JSON lines in Alpaca's form (`instruction`, `input`, `output`).

    python -m xrec_jax.train --config configs/tune.py:FILE.jsonl --workdir runs/tuned \
        --config.language.model=DIR   # a Hugging Face directory; default: the embedded `tiny`

Several files are mixed with --config.tune.data.train="('a.jsonl', 'b.jsonl')" --config.tune.data.ratio="(3.0, 1.0)".
The adapter is left in runs/tuned/adapters/01-tune-policy, as PEFT keeps adapters.

LLMXRec says that it tunes LLaMA by LoRA on the conditional objective, with 240 examples, and gives no further
sizes: what is marked [A] is the default of Alpaca-LoRA's finetune.py (github.com/tloen/alpaca-lora).
"""

from ml_collections import ConfigDict


def get_config(file: str = '') -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.schedule = ('tune(policy)',)
    config.mesh = ConfigDict({'data': -1, 'fsdp': 1, 'tensor': 1, 'dcn_data': 1})
    config.language = ConfigDict({
        'model': 'tiny',  # or a Hugging Face directory
        'dtype': 'float32',  # of the frozen base; 'bfloat16' on accelerators. The adapter is float32
        'remat': 'projections',  # what the backward pass computes again; 'none', or 'all' for the least memory
        'attention': 'auto',  # of whole sequences: 'xla', 'cudnn' (GPU), 'tpu'; auto: what the platform has
        'lora_rank': 8,  # [A]
        'lora_alpha': 16.0,  # [A]
        'lora_targets': ('q_proj', 'v_proj'),  # [A]
        'lora_dropout': 0.05,  # [A]
        'lora_rslora': False,  # scale by alpha / √rank, for large ranks
        'quantize': 'none',  # 'int8' [A] or 'int4': the frozen projections, xrec_jax/language/quantize.py
        'quantize_head': False,  # the output head too
    })
    config.tune = tune_config(file)
    return config


def tune_config(*files: str) -> ConfigDict:
    """`config.tune` for these files, for any schedule."""
    return ConfigDict({
        'adapter_name': 'policy',  # what it is called in the run: 'policy' writes explanations
        'load': '',  # a folder with an adapter as PEFT keeps it, which is taken as it is: nothing is tuned
        'fresh': False,  # True: a new adapter even where the run has one of this name
        'data': {
            'folder': '',  # where the files lie
            'train': tuple(file for file in files if file),
            'forms': ('alpaca',),  # of the lines: xrec_jax/phases/tune_forms.py; one, or one for each file
            'ratio': (),  # of the examples from each file; (): each example once an epoch
            'valid': (),  # held-out files, or
            'valid_share': 0.04,  # this share of the training prompts; [A]: 2,000 of 51,760
            'test': (),  # files whose loss is measured before and after
        },
        'template': 'tune/alpaca',  # xrec_jax/language/templates; 'tune/plain': the bare texts
        'max_length': 256,  # tokens of an example; [A]. What is longer loses the beginning of its input
        'row_length': 256,  # tokens of a row, which several short examples share
        'packing': True,  # changes the speed, not the result
        'prompt_weight': 0.0,  # of the prompt's tokens in the loss: LLMXRec eq. 2 and 3; [A] has 1
        'epochs': 3,  # [A]
        'batch_size': 128,  # examples of an optimizer step; [A]
        'microbatch_size': 4,  # rows of a forward and backward pass; [A]
        'together': 1,  # examples, one behind the other in their file, that always share a step
        'patience': 0,  # epochs without a better held-out loss before it stops; 0: all epochs
        'optimizer': {
            'learning_rate': 3e-4,  # [A]
            'schedule': 'linear',  # [A]; or 'cosine', 'constant'
            'warmup_share': 0.085,  # of all steps; [A]: 100 of 1,170
            'weight_decay': 0.0,  # [A]
            'max_grad_norm': 1.0,  # [A]
        },
        'log_every': 10,  # steps
        'checkpoint_every': 100,  # steps, and after each epoch
    })
