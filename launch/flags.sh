# shellcheck shell=bash
# The compiler's and the runtime's settings that matter, all here; sourced by local.sh, through which
# every launch script starts the program. What is set in the environment already wins.
#
# Compiled programs the program itself keeps (xrec_jax/runs/compile_cache.py); where many hosts compile the
# same, JAX_COMPILATION_CACHE_DIR=gs://BUCKET/compiled lets one do it for all.
#
# set_flags ACCELERATOR      cpu, cuda12, cuda13 or tpu
set_flags() {
  case $1 in
    tpu)
      # Weights that fsdp splits are gathered layer by layer: with these, while the layer before is
      # being multiplied, instead of before it. (MaxText's settings for the same layout.)
      export LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-"\
--xla_tpu_enable_async_collective_fusion=true \
--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
--xla_tpu_enable_async_collective_fusion_multiple_steps=true \
--xla_tpu_overlap_compute_collective_tc=true \
--xla_enable_async_all_gather=true"}
      ;;
    cuda*)
      # The same for NCCL's collectives (NVIDIA's own JAX images set it).
      export XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}
      # JAX takes three quarters of a card's memory unless told otherwise; nothing else runs on ours.
      # The rest is for CUDA's and NCCL's own buffers.
      export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
      ;;
  esac
}
