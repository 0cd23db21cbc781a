"""Answers of a loaded model: tokens are chosen one by one, and their text is passed on as it arrives."""

from __future__ import annotations

import copy
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from transformers import LogitsProcessor, StoppingCriteria
from transformers.generation.logits_process import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.stopping_criteria import StoppingCriteriaList

from webapp.worker.engine import Completion, Emit, FinishReason, Message, PromptRefused, Sampling
from webapp.worker.text import Detokenizer, StopScan

_CHOICE = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Fields of a generation config that ``_Sampler`` replaces."""
WARM_UP_TOKENS, WARM_UP_ANSWER = 64, 3
"""Tokens of the prompt and of the answer of the warm-up. A prompt uses other kernels than single tokens do."""


class TorchModel:
    """A model and its tokenizer; see ``LoadedModel``."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        longest = getattr(model.config, "max_position_embeddings", None)
        self.context_length = longest if isinstance(longest, int) and longest > 0 else None

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return a chat as tokens, as ``LoadedModel.encode_chat``."""
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError, TypeError, KeyError) as exc:
            raise PromptRefused(str(exc)) from exc
        return self._encode(text, special=False)

    def encode_text(self, prompt: str) -> list[int]:
        """Return a text as tokens, as ``LoadedModel.encode_text``."""
        return self._encode(prompt, special=True)

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, emit: Emit, is_cancelled: Callable[[], bool]
    ) -> Completion:
        """Continue a prompt, as ``LoadedModel.generate``."""
        config = self._config(sampling)
        reader = _Reader(self._decode, sampling, config.eos_token_id, emit, is_cancelled)
        tokens = torch.tensor([list(prompt)], device=self._model.device)
        with torch.inference_mode():
            self._model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                generation_config=config,
                logits_processor=LogitsProcessorList([_Sampler(self._defaults(sampling))]),
                stopping_criteria=StoppingCriteriaList([reader]),
            )
        return reader.finish()

    def warm_up(self) -> None:
        """Answer some tokens, so that the memory of the first answer is allocated before the model is reported as
        ready.

        On a GPU kernels are loaded when they first run, and a library keeps a workspace: 168 and 32 MiB measured on an
        H200. Without the warm-up the stored measurement at rest would be too low by them.
        """
        tokens = max(1, min(WARM_UP_TOKENS, (self.context_length or WARM_UP_TOKENS) - WARM_UP_ANSWER))
        sampling = Sampling(max_new_tokens=WARM_UP_ANSWER, temperature=1.0)
        self.generate([1] * tokens, sampling, lambda _: None, lambda: False)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        with self._tokenizing:  # the fast tokenizers refuse concurrent use
            return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _decode(self, tokens: Sequence[int]) -> str:
        with self._tokenizing:
            return str(
                self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            )

    def _config(self, sampling: Sampling) -> Any:
        """Return the model's own generation config, with the choice of tokens left to ``_Sampler``.

        transformers draws from torch's global generator, which concurrent requests would share: no seed would be
        reproducible.
        """
        config = copy.deepcopy(self._model.generation_config)
        config.update(
            max_new_tokens=sampling.max_new_tokens,
            max_length=None,
            min_length=None,
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            use_cache=True,
            cache_implementation=None,
            return_dict_in_generate=False,
            **dict.fromkeys(_CHOICE),
        )
        if config.eos_token_id is None:
            config.eos_token_id = self._tokenizer.eos_token_id
        if config.pad_token_id is None:
            config.pad_token_id = self._tokenizer.pad_token_id or _first(config.eos_token_id)
        return config

    def _defaults(self, sampling: Sampling) -> Sampling:
        """Fill unset values of the request from the model's own generation config; the temperature is 1 if that has
        none.
        """
        own = self._model.generation_config
        temperature = own.temperature if sampling.temperature is None else sampling.temperature
        return Sampling(
            max_new_tokens=sampling.max_new_tokens,
            temperature=1.0 if temperature is None else temperature,
            top_p=own.top_p if sampling.top_p is None else sampling.top_p,
            top_k=own.top_k if sampling.top_k is None else sampling.top_k,
            seed=sampling.seed,
        )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


class _Sampler(LogitsProcessor):  # type: ignore[misc]
    """Chooses the token with a generator of its own and leaves it as the only possible one."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature or 0.0
        self._warpers: list[Any] = []
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(top_k=sampling.top_k))
        if sampling.top_p is not None and sampling.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(top_p=sampling.top_p))
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        self._generator: torch.Generator | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self._temperature <= 0.0:
            return scores
        scores = scores / self._temperature
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        if self._generator is None:
            self._generator = torch.Generator(device=scores.device).manual_seed(self._seed)
        token = torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=self._generator)
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)


class _Reader(StoppingCriteria):  # type: ignore[misc]
    """Sees every token when it is chosen: passes its text on, and decides when to stop."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        sampling: Sampling,
        end_tokens: Any,
        emit: Emit,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._text = Detokenizer(decode)
        self._stops = StopScan(sampling.stop)
        self._limit = sampling.max_new_tokens
        self._ends = {int(t) for t in (end_tokens if isinstance(end_tokens, list) else [end_tokens]) if t is not None}
        self._emit = emit
        self._is_cancelled = is_cancelled
        self._tokens = 0
        self._reason: FinishReason | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if self._reason is None:
            self._take(int(input_ids[0, -1]))
        return torch.full((input_ids.shape[0],), self._reason is not None, device=input_ids.device, dtype=torch.bool)

    def finish(self) -> Completion:
        """Pass on the held-back text."""
        if self._reason is not FinishReason.CANCELLED:
            self._pass_on(self._stops.feed(self._text.finish()) + self._stops.finish())
        return Completion(self._reason or FinishReason.LENGTH, self._tokens)

    def _take(self, token: int) -> None:
        self._tokens += 1
        if token in self._ends:
            self._reason = FinishReason.STOP
            return
        self._pass_on(self._stops.feed(self._text.feed(token)))
        if self._stops.stopped:
            self._reason = FinishReason.STOP
        elif self._is_cancelled():
            self._reason = FinishReason.CANCELLED
        elif self._tokens >= self._limit:
            self._reason = FinishReason.LENGTH

    def _pass_on(self, text: str) -> None:
        if text:
            self._emit(text)
