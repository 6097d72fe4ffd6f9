"""Writing texts: new tokens a second, share of the roofline, memory, compile time; beside transformers' `generate`.

    python bench/decode.py --peer /path/to/python-with-transformers          # two minutes on two idle cores
    python bench/decode.py --shape 8b --dtype bfloat16 --batches 1 128       # on an accelerator, alone
    python bench/decode.py --only compile --shape 8b --dtype bfloat16        # any machine: nothing is run

Prints a JSON line a measurement. A call of `generate.generate` is a prefill of `--prompt` tokens and `--new` greedy
tokens a row, no stop token; `tokens_per_second` are new tokens over the seconds of whole calls, prefill among them.
`ratio` is ours / theirs, the same weights and prompts in the same run (bench/sides.py); `same_tokens` the share of new
tokens at which both sides agree, up to a row's first difference: random weights have near-ties. Our weights are
brought into the form for writing (language/stepping.py) before the calls, as a phase does before its batches;
`prepare_seconds` says how long that takes.

Roofline of a step: bound = cache / BW + max(weights / BW, 2 B P / peak), over the step's seconds: (call − prefill) /
(new − 1). weights: bytes of all matrices, of a table of embeddings only where it is the output matrix too; cache: the
bytes of keys and values of B rows of prompt + new / 2 slots; P: parameters of projections and output matrix.
Roofline of a prefill: B · prompt · (2 P' + 4 L H d · prompt) + 2 B V D FLOPs over the peak; P': projections alone;
attention is not halved for causality. Where the layers are apart, the last one counts for one position of each row, but
for its keys and values.

  speed     as above, for each of `--batches`
  compile   seconds to compile prefill and decoding together, from shapes alone; nothing read from a cache on disk
"""

import pathlib
import sys
import time
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from bench import sides  # noqa: E402


def prompts(batch: int, length: int, vocab_size: int):
    import numpy as np
    return np.random.default_rng(batch).integers(3, vocab_size, (batch, length))


def lower(model, variables, tokens, mask, max_length: int):
    """`generate` of greedy texts that nothing stops, lowered for such prompts."""
    import jax
    from xrec_jax.language import generate
    from xrec_jax.language.sampling import SamplingConfig
    return generate.generate.lower(
        model, variables, tokens, mask, jax.random.key(0),
        sampling=SamplingConfig(max_length=max_length, temperature=0.0), stop_ids=model.config.vocab_size + 1)


def ours(args) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from xrec_jax.language import decoder, stepping, weights
    if args.model:
        config, params = weights.load_model(args.model, dtype=jnp.dtype(args.dtype).type)
    else:
        config, params = sides.random_model(args.shape, args.dtype)
    model, states = decoder.Decoder(config), {}
    projections, head = sides.sizes(config, params)
    itemsize = jnp.dtype(config.dtype).itemsize
    slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize
    attention = 4 * config.num_heads * config.head_dim * args.prompt  # FLOPs of a position in a layer
    last = 0  # FLOPs of a position in the last layer that only the last position needs
    if stepping.unrolled(model, {'params': params}):
        keys_and_values = 2 * config.hidden_size * config.num_kv_heads * config.head_dim
        last = 2 * (projections // config.num_layers - keys_and_values) + attention

    def begin(batch):
        tokens = jnp.asarray(prompts(batch, args.prompt, config.vocab_size), jnp.int32)
        mask = jnp.ones(tokens.shape, bool)
        prepare = lambda: jax.block_until_ready(stepping.prepared(model, {'params': params}, batch))
        prepare()  # compiled
        start = time.perf_counter()
        variables = prepare()
        prepared = time.perf_counter()
        states[batch] = {name: (lower(model, variables, tokens, mask, length).compile(), variables, tokens, mask)
                         for name, length in (('call', args.new), ('prefill', 1))}
        program = states[batch]['call'][0]
        return {'compile_seconds': time.perf_counter() - prepared, 'prepare_seconds': prepared - start,
                'planned_mib': program.memory_analysis().temp_size_in_bytes / 2**20,
                'weight_bytes': (projections + head) * itemsize,
                'cache_bytes': batch * (args.prompt + args.new // 2) * slot,
                'step_flops': 2 * batch * (projections + head),
                'prefill_flops': batch * (args.prompt * (2 * projections + config.num_layers * attention)
                                          - (args.prompt - 1) * last + 2 * head)}

    def go(batch):
        answer = {}
        for name, (program, *inputs) in states[batch].items():
            start = time.perf_counter()
            out = jax.block_until_ready(program(*inputs, jax.random.key(0)))
            answer[name] = time.perf_counter() - start
            if name == 'call':
                answer['tokens'] = np.asarray(out.tokens).tolist()
        return answer

    sides.serve(begin=begin, go=go, about=lambda: sides.device() | sides.rooflines(args.dtype))


def theirs(args) -> None:
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def go(batch):
        tokens, answer = torch.tensor(prompts(batch, args.prompt, model.config.vocab_size)), {}
        for name, length in (('call', args.new), ('prefill', 1)):
            start = time.perf_counter()
            with torch.inference_mode():
                out = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=length,
                                     do_sample=False, pad_token_id=0)
            answer[name] = time.perf_counter() - start
            if name == 'call':
                answer['tokens'] = out[:, args.prompt:].tolist()
        return answer

    sides.serve(begin=lambda batch: {}, go=go, about=sides.versions)


def speed(args) -> None:
    with sides.workers(__file__, args, 'prompt', 'new') as workers:
        for batch in args.batches:
            for line in measure(args, workers, batch):
                sides.show(**line)


def measure(args, workers: dict[str, sides.Worker], batch: int) -> Iterator[dict]:
    """A line a side, and one with the ratio."""
    import numpy as np
    begun = {side: worker.ask('begin', batch) for side, worker in workers.items()}
    answers = sides.take_turns(workers, args.rounds, 'go', batch)
    rates = {}
    for side, worker in workers.items():
        call, prefill = (sides.median(answers[side], key) for key in ('call', 'prefill'))
        step = (call - prefill) / (args.new - 1)
        rates[side] = batch * args.new / call
        line = {'claim': 'decode', 'batch': batch, 'side': side, 'tokens_per_second': rates[side],
                'call_seconds': call, 'prefill_seconds': prefill, 'step_ms': step * 1e3,
                'fastest_call': min(answer['call'] for answer in answers[side]), **begun[side],
                **worker.ask('about'), 'peak_mib': answers[side][-1]['peak_mib']}  # before the rooflines were measured
        if side == 'ours':
            reading = line['cache_bytes'] / line['bandwidth']
            weights = line['weight_bytes'] / line['bandwidth']
            line['step_share_of_roofline'] = (reading + max(weights, line['step_flops'] / line['peak_flops'])) / step
            line['prefill_share_of_peak'] = line['prefill_flops'] / line['peak_flops'] / prefill
        yield line
    if 'theirs' in rates:
        ours, theirs = (np.array(answers[side][-1]['tokens']) for side in ('ours', 'theirs'))
        yield {'claim': 'decode', 'batch': batch, 'ratio': rates['ours'] / rates['theirs'],
               'same_tokens': float(np.cumprod(ours == theirs, axis=1).mean())}


def compilation(args) -> None:
    import jax
    import jax.numpy as jnp
    from xrec_jax.language import decoder
    from xrec_jax.language.config import DecoderConfig
    jax.config.update('jax_enable_compilation_cache', False)
    config = DecoderConfig(**sides.SHAPES[args.shape], dtype=jnp.dtype(args.dtype).type)
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, config.dtype)
    params = jax.tree.map(shape, jax.eval_shape(lambda key: decoder.init_params(key, config), jax.random.key(0)))
    for batch in args.batches:
        tokens = jax.ShapeDtypeStruct((batch, args.prompt), jnp.int32)
        mask = jax.ShapeDtypeStruct(tokens.shape, bool)
        start = time.perf_counter()
        lowered = lower(decoder.Decoder(config), {'params': params}, tokens, mask, args.new)
        traced = time.perf_counter() - start
        lowered.compile()
        sides.show(claim='compile', shape=args.shape, dtype=args.dtype, batch=batch, trace_seconds=traced,
                   seconds=time.perf_counter() - start, device=jax.devices()[0].device_kind)


PARTS = {'speed': speed, 'compile': compilation}


def main() -> None:
    parser = sides.options(__doc__, 'torch and transformers')
    parser.add_argument('--only', choices=PARTS, default='speed')
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 16, 64])
    parser.add_argument('--prompt', type=int, default=128)
    parser.add_argument('--new', type=int, default=64)
    args = parser.parse_args()
    if args.new < 2:
        parser.error('--new should be at least 2: steps are what is behind the prefill')
    sides.run(parser, args, ours, theirs, PARTS[args.only])


if __name__ == '__main__':
    main()
