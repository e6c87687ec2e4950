"""Hugging Face transformers as a serving engine: its continuous batching, with weights drawn at random.

On a CPU its attention is replaced, through the library's own interface for that, by one SDPA a sequence
(``torch_attention.attend``): what it does by itself there, one masked call over all queries and all keys of a batch,
costs the square of the batch, which no serving engine pays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from apexsim.calibration.closed_loop.engine import EngineLimits
from apexsim.calibration.closed_loop.served import Served
from apexsim.calibration.microbench.torch_attention import attend
from apexsim.errors import InputError
from apexsim.workload.trace import Trace

ANSWER_S = 300.0
"""The engine hangs, or a request was lost, when nothing ends for so long."""


class TransformersEngine:
    """One model on one device; keeps ``closed_loop.engine.ServingEngine``."""

    name = "transformers"

    def __init__(
        self, config: Mapping[str, Any], limits: EngineLimits, *, device: str = "cpu", threads: int = 1
    ) -> None:
        """Load ``config`` (a config.json) with random weights in bfloat16 and start the engine's thread."""
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        logging.getLogger("transformers").setLevel(logging.ERROR)
        self.limits = limits
        self.device = device
        self.versions: Mapping[str, str] = {
            "transformers": str(transformers.__version__), "torch": str(torch.__version__)
        }
        if device == "cpu":
            AttentionInterface.register("sdpa", _attention)
        known = AutoConfig.for_model(**{name: value for name, value in config.items() if not name.startswith("_")})
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(known, dtype=torch.bfloat16, attn_implementation="sdpa")
        self.model = model.eval()
        self.vocab_size = int(known.vocab_size)
        self._manager = self.model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=limits.block_size, num_blocks=limits.kv_tokens // limits.block_size,
                max_batch_tokens=limits.max_num_batched_tokens, max_requests_per_batch=limits.max_num_seqs,
                allow_block_sharing=False,
            ),
        )
        if device == "cuda":
            self._manager.warmup()
        self._manager.start()

    def warm_up(self) -> None:
        """Run each kind of linear layer at every number of tokens: oneDNN compiles a kernel for each, once."""
        if self.device == "cpu":
            with torch.inference_mode():
                for layer, most in self._kinds_of_linear():
                    for tokens in range(1, most + 1):
                        layer(torch.zeros(1, tokens, layer.in_features, dtype=torch.bfloat16))
        random = np.random.default_rng(0)
        lengths = random.integers(1, self.limits.max_num_batched_tokens // 2, 12)
        trace = Trace("warm-up", np.zeros(12), lengths, np.full(12, 8, dtype=np.int64))
        self.serve(trace, seed=0)

    def _kinds_of_linear(self) -> list[tuple[torch.nn.Linear, int]]:
        """One layer of each shape, and the most rows that it sees."""
        head = self.model.get_output_embeddings()
        layers = [layer for layer in self.model.modules() if isinstance(layer, torch.nn.Linear)]
        kinds = {(layer.in_features, layer.out_features): layer for layer in layers}
        limits = self.limits
        return [
            (layer, limits.max_num_seqs if layer is head else limits.max_num_batched_tokens) for layer in kinds.values()
        ]

    def serve(self, trace: Trace, seed: int) -> Served:
        """Offer each request at its instant; see ``ServingEngine``."""
        random = np.random.default_rng(seed)
        prompts = [random.integers(1, self.vocab_size, size=tokens).tolist() for tokens in trace.input_tokens]
        before = _processor_times()
        began = time.perf_counter()
        for i, prompt in enumerate(prompts):
            time.sleep(max(0.0, began + float(trace.arrival_s[i]) - time.perf_counter()))
            self._manager.add_request(
                prompt, request_id=f"{seed}/{i}", max_new_tokens=int(trace.output_tokens[i]), record_timestamps=True,
                eos_token_id=-1,
            )
        outputs = self._outputs(len(prompts))
        waited = _waited_share(before, _processor_times())
        ordered = [outputs[f"{seed}/{i}"] for i in range(len(prompts))]
        origin = ordered[0].created_time
        return Served(
            np.array([output.created_time for output in ordered]) - origin,
            np.array([output.lifespan[0] for output in ordered]) - origin,
            tuple(np.array(output.timestamps) - origin for output in ordered),
            np.array(trace.input_tokens, dtype=np.int64), waited,
        )

    def _outputs(self, count: int) -> dict[str, Any]:
        """Results by their request, when all are there."""
        found: dict[str, Any] = {}
        while len(found) < count:
            output = self._manager.get_result(timeout=ANSWER_S)
            if output is None or output.error:
                reason = output.error if output else f"nothing came for {ANSWER_S:.0f} s"
                raise InputError(f"transformers: {reason} ({len(found)} of {count} requests had ended)")
            if output.is_finished():
                found[output.request_id] = output
        return found

    def close(self) -> None:
        """Stop the engine's thread."""
        self._manager.stop(block=True, timeout=10)


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
    scaling: float | None = None, cache: Any = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of a layer inside the engine: writes and gathers the cache, then goes through the sequences."""
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    query_ends, key_ends = (kwargs[name].tolist() for name in ("cu_seq_lens_q", "cu_seq_lens_k"))
    return attend(query, key, value, query_ends, key_ends, scaling).transpose(1, 2).contiguous(), None


def _processor_times() -> dict[str, tuple[int, int]]:
    """Thread -> (nanoseconds on a processor, nanoseconds ready without one); empty where Linux does not tell."""
    times = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        on, ready, _ = path.read_text(encoding="ascii").split()
        times[path.parent.name] = (int(on), int(ready))
    return times


def _waited_share(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> float:
    """Of the busiest thread."""
    spent = [
        (on - before.get(thread, (0, 0))[0], ready - before.get(thread, (0, 0))[1])
        for thread, (on, ready) in after.items()
    ]
    on, ready = max(spent, default=(0, 0))
    return ready / (on + ready) if on + ready else float("nan")
