"""GPT-2: learned positions, layer norms with biases, one matrix for q, k and v, stored [in, out]."""

from xrec_jax.language.families.reading import check_only, check_present, choice
from xrec_jax.language.families.source import Source

ARCHITECTURES = ('GPT2LMHeadModel',)
# `gelu_pytorch_tanh` is the same formula.
ACTIVATIONS = {'gelu_new': 'gelu_new', 'gelu_pytorch_tanh': 'gelu_new', 'gelu': 'gelu'}


def fields(hf: dict) -> dict:
    check_present(hf, 'vocab_size', 'n_embd', 'n_layer', 'n_head')
    # `reorder_and_upcast_attn` asks for float32 scores, which ours are anyway.
    check_only(hf, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return {
        'vocab_size': hf['vocab_size'],
        'hidden_size': hf['n_embd'],
        'intermediate_size': hf.get('n_inner') or 4 * hf['n_embd'],
        'num_layers': hf['n_layer'],
        'num_heads': hf['n_head'],
        'num_kv_heads': hf['n_head'],
        'head_dim': hf['n_embd'] // hf['n_head'],
        'max_position_embeddings': hf.get('n_positions', 1024),
        'rms_norm_eps': hf.get('layer_norm_epsilon', 1e-5),
        'tie_word_embeddings': hf.get('tie_word_embeddings', True),
        'attention_bias': True,
        'mlp_bias': True,
        'norm': 'layer',
        'positions': 'learned',
        'activation': choice(hf, 'activation_function', 'gelu_new', ACTIVATIONS),
        'gated': False,
    }


def to_hf(config) -> dict:
    return {
        'vocab_size': config.vocab_size,
        'n_embd': config.hidden_size,
        'n_inner': config.intermediate_size,
        'n_layer': config.num_layers,
        'n_head': config.num_heads,
        'n_positions': config.max_position_embeddings,
        'layer_norm_epsilon': config.rms_norm_eps,
        'tie_word_embeddings': config.tie_word_embeddings,
        'activation_function': config.activation,
    }


def tensors(config) -> dict[tuple[str, ...], Source]:
    def source(name: str, **range_of) -> Source:
        # The published files leave out the prefix that `save_pretrained` writes.
        return Source('transformer.' + name, also=(name,), **range_of)

    sources = {
        ('embed_tokens',): source('wte.weight'),
        ('embed_positions',): source('wpe.weight'),
    }
    width, hidden = config.num_heads * config.head_dim, 'h.{layer}.'
    for ours, theirs in (('weight', 'scale'), ('bias', 'bias')):
        sources['norm', theirs] = source(f'ln_f.{ours}')
        sources['layers', 'input_layernorm', theirs] = source(f'{hidden}ln_1.{ours}')
        sources['layers', 'post_attention_layernorm', theirs] = source(f'{hidden}ln_2.{ours}')
    for stored, leaf in (('weight', 'kernel'), ('bias', 'bias')):
        axis = 1 if leaf == 'kernel' else 0
        for n, name in enumerate(('q_proj', 'k_proj', 'v_proj')):
            sources['layers', 'self_attn', name, leaf] = source(
                f'{hidden}attn.c_attn.{stored}', axis=axis, start=n * width, whole=3 * width)
        sources['layers', 'self_attn', 'o_proj', leaf] = source(f'{hidden}attn.c_proj.{stored}')
        sources['layers', 'mlp', 'up_proj', leaf] = source(f'{hidden}mlp.c_fc.{stored}')
        sources['layers', 'mlp', 'down_proj', leaf] = source(f'{hidden}mlp.c_proj.{stored}')
    if not config.tie_word_embeddings:
        sources[('lm_head',)] = Source('lm_head.weight', transposed=True)
    return sources
