"""How does llama.cpp compute our logits? Its C API, through llama_cpp's low-level bindings.

We never use `llama_cpp.Llama`: it serves one sequence at a time behind a lock.
"""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import BackendOptions, BatchEntry, Hear, Interrupted, ModelFacts
from hybrid.backends.library import choose_multiplier, llama, release_multiplier
from hybrid.backends.llama_batch import LlamaBatch
from hybrid.backends.llama_cpp_adapters import load_adapters, set_adapter
from hybrid.backends.llama_cpp_context import load_model, make_context
from hybrid.backends.llama_cpp_embed import LlamaCppEmbedder, can_generate
from hybrid.backends.llama_run import LlamaRun, share_openmp
from hybrid.errors import LocalFailure
from hybrid.fingerprints import model_fingerprint
from hybrid.gguf import GgufHeader, read_header
from hybrid.native import RowDraw, abort_callback_address

if TYPE_CHECKING:
    from llguidance import LLTokenizer

log = logging.getLogger(__name__)

PIECE_BUFFER_BYTES = 256
ABORTED = 2
"""What `llama_decode` gives when the abort callback said so."""
# ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 continuation of the line before.
GGML_WARNING, GGML_ERROR = 3, 4


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def forward_log(level: int, text: bytes, _user_data: Any) -> None:
    """Send llama.cpp's warnings and errors to our log; its chatter about loading stays out."""
    if level in (GGML_WARNING, GGML_ERROR):
        line = text.decode("utf-8", "replace").rstrip()
        log.log(logging.ERROR if level == GGML_ERROR else logging.INFO, "llama.cpp: %s", line)


class LlamaCppBackend:
    """One GGUF in one llama.cpp context with a unified KV cache."""

    facts: ModelFacts

    def __init__(self, options: BackendOptions) -> None:
        """Load a model.

        Raises: ModelFileError if the file is missing, damaged or not one llama.cpp can run here.
            ValueError for a cache format there is not.
        """
        self._header = header = read_header(options.model_path)
        llama.llama_log_set(forward_log, ctypes.c_void_p(0))
        llama.llama_backend_init()
        share_openmp()
        self._model = load_model(header, options)
        self._vocab = llama.llama_model_get_vocab(self._model)
        trained = int(llama.llama_model_n_ctx_train(self._model))
        context_tokens = min(options.context_tokens, trained) if trained > 0 else options.context_tokens
        threads = options.threads or len(os.sched_getaffinity(0))
        # Before the context, which reserves its graph for the adapters there are.
        self._adapters = load_adapters(self._model, options.adapters)
        self._adapter: int | None = None
        self._ctx = make_context(self._model, options, context_tokens, threads)
        self._multiplier = choose_multiplier(options.matmul)
        self._memory = llama.llama_get_memory(self._ctx)
        self._batch = LlamaBatch(int(llama.llama_n_batch(self._ctx)))
        self._run = LlamaRun(self._ctx, self._vocab, self._batch)
        self._interrupt = ctypes.c_bool(False)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._threads = threads
        self._threads_next: tuple[int, int] | None = None  # asked for while a run computes
        self._rows_address = 0
        self._views: dict[int, NDArray[np.float32]] = {}
        self.facts = self._facts(options, header, context_tokens, trained, threads)
        self._no_rows = np.empty((0, self.facts.vocab_tokens), dtype=np.float32)

    def _facts(
        self,
        options: BackendOptions,
        header: GgufHeader,
        context_tokens: int,
        trained: int,
        threads: int,
    ) -> ModelFacts:
        can_offload = bool(llama.llama_supports_gpu_offload())
        return ModelFacts(
            name=options.model_path.stem,
            architecture=header.architecture,
            vocab_tokens=int(llama.llama_vocab_n_tokens(self._vocab)),
            context_tokens=context_tokens,
            trained_context_tokens=trained,
            slots=options.slots,
            kv_cells=int(llama.llama_n_ctx(self._ctx)),
            has_one_pool=options.has_one_pool,
            can_share_cells=_keeps_every_cell(self._model),
            can_truncate=_keeps_every_cell(self._model),
            can_interrupt=self._watch_interrupt(),
            can_run=self._run.is_there and _keeps_every_cell(self._model),
            sequence_ids=int(llama.llama_n_seq_max(self._ctx)),
            batch_tokens=int(llama.llama_n_batch(self._ctx)),
            threads=threads,
            device="gpu" if can_offload and options.gpu_layers != 0 else "cpu",
            file_bytes=options.model_path.stat().st_size,
            fingerprint=model_fingerprint(options.model_path, options.key_cache, options.value_cache),
            chat_template=header.chat_template,
            bos_text=self._special_text(int(llama.llama_vocab_bos(self._vocab))),
            eos_text=self._special_text(int(llama.llama_vocab_eos(self._vocab))),
            dimensions=int(llama.llama_model_n_embd_out(self._model)),
            can_generate=not options.is_embedder and can_generate(self._model, header),
            state_format=_state_format(options),
            multiplier=self._multiplier,
        )

    def _watch_interrupt(self) -> bool:
        """Let llama.cpp look at the flag between two operations, if what that leaves can be undone: say so."""
        address = abort_callback_address()
        if not address or not _keeps_every_cell(self._model):
            return False
        flag = ctypes.c_void_p(ctypes.addressof(self._interrupt))
        llama.llama_set_abort_callback(self._ctx, ctypes.cast(address, llama.ggml_abort_callback), flag)
        return True

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else self._piece_bytes(token, is_special=True).decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        """Turn rendered template text into ids. No BOS is added: a chat template writes its own."""
        return self._tokenize(text, add_special=False, parse_special=True)

    def tokenize_input(self, text: str) -> list[int]:
        """Turn a text to embed into ids, with what the file says belongs around it (BOS, EOS, [CLS], [SEP])."""
        return self._tokenize(text, add_special=True, parse_special=False)

    def _tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "surrogatepass")
        # A token covers at least one byte, so this bound holds for every vocabulary; + 8 for SentencePiece's prefix.
        ids = (llama.llama_token * (len(data) + 8))()
        count = int(llama.llama_tokenize(self._vocab, data, len(data), ids, len(ids), add_special, parse_special))
        if count < 0:
            raise LocalFailure(f"the tokenizer needs {-count} tokens for {len(data)} bytes; none were taken")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """Give the bytes of a token, empty for control tokens."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._piece_bytes(token, is_special=False)
        return found

    def _piece_bytes(self, token: int, *, is_special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(PIECE_BUFFER_BYTES)
        length = int(llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, is_special))
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = int(llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, is_special))
        return buffer.raw[:length]

    def is_end(self, token: int) -> bool:
        """Say whether the vocabulary marks the token as an end of generation (EOS, EOT and kin)."""
        found = self._ends.get(token)
        if found is None:
            found = self._ends[token] = bool(llama.llama_vocab_is_eog(self._vocab, token))
        return found

    def control_name(self, token: int) -> str:
        """Give the text a control token is written as in templates; empty for a token that stands for bytes."""
        return "" if self.piece(token) else self._special_text(token)

    def marker(self, text: str) -> int | None:
        """Give the token that is exactly `text`, if llguidance's bridge takes it for a control token as well."""
        tokens = self.tokenize(text)
        attributes = int(llama.llama_vocab_get_attr(self._vocab, tokens[0])) if len(tokens) == 1 else 0
        is_bracketed = text.startswith("<") and text.endswith(">")
        is_marker = attributes & llama.LLAMA_TOKEN_ATTR_CONTROL or (
            is_bracketed and attributes & llama.LLAMA_TOKEN_ATTR_USER_DEFINED
        )
        return tokens[0] if is_marker else None

    def control_texts(self) -> list[str]:
        """Give the texts that llama.cpp reads as control tokens in a rendered template, and nowhere else."""
        vocab, control, attributes = self._vocab, llama.LLAMA_TOKEN_ATTR_CONTROL, llama.llama_vocab_get_attr
        tokens = [token for token in range(self.facts.vocab_tokens) if attributes(vocab, token) & control]
        return [self._special_text(token) for token in tokens]

    def grammar_tokenizer(self) -> LLTokenizer:
        """Describe the vocabulary to llguidance. Every token that ends a generation may end a grammar's text."""
        from llguidance.llamacpp import lltokenizer_from_vocab

        ends = [token for token in range(self.facts.vocab_tokens) if self.is_end(token)]
        with warnings.catch_warnings():
            # The bridge of llguidance 1.9 calls a function that llama-cpp-python 0.3.36 has renamed.
            warnings.filterwarnings("ignore", "llama_token_get_attr is deprecated", DeprecationWarning)
            return lltokenizer_from_vocab(self._vocab, eos_token=ends)

    def decode(self, entries: Sequence[BatchEntry]) -> NDArray[np.float32]:
        """Run one `llama_decode` over all entries."""
        count = self._fill(entries)
        status = int(llama.llama_decode(self._ctx, self._batch.native))
        self._interrupt.value = False
        if status != 0:
            self._fail(status, entries)
        if count == 0:
            return self._no_rows
        return self._rows_at(ctypes.addressof(llama.llama_get_logits(self._ctx).contents), count)

    def run(
        self, entries: Sequence[BatchEntry], draws: Sequence[RowDraw], *, steps: int, bundle: int, hear: Hear
    ) -> int:
        """Run several `llama_decode` in one native call."""
        is_decode = all(len(entry.tokens) == 1 and entry.logits == 1 for entry in entries)
        is_one_each = len({entry.slot for entry in entries}) == len(entries) == len(draws)
        if not is_decode or not is_one_each or steps < 1 or bundle < 1:
            raise ValueError("a run of steps takes one token of each sequence, and how its row is drawn from")
        self._fill(entries)
        facts = self.facts
        self._run.is_on = True
        try:
            status, done = self._run.steps(
                draws, vocab_tokens=facts.vocab_tokens, steps=steps, bundle=bundle, threads=self._threads, hear=hear
            )
        finally:
            self._run.is_on = False
            if self._threads_next is not None:
                self.set_threads(*self._threads_next)
        self._interrupt.value = False
        if status != 0:
            for entry in entries:
                llama.llama_memory_seq_rm(self._memory, entry.slot, entry.position + done, -1)
            if not done:
                self._fail(status, entries)
        return done

    def hasten(self, *, is_wanted: bool = True) -> None:
        """Raise the flag that a run looks at after each step, or take it down."""
        self._run.flag.value = is_wanted

    def _fill(self, entries: Sequence[BatchEntry]) -> int:
        """Write the batch; give how many rows it wants."""
        for entry in entries:
            self._check_slot(entry.slot)
            if not entry.tokens or min(entry.tokens) < 0 or max(entry.tokens) >= self.facts.vocab_tokens:
                raise ValueError(f"slot {entry.slot} is given no token, or one that the vocabulary lacks")
        return self._batch.fill(entries)

    def _fail(self, status: int, entries: Sequence[BatchEntry]) -> NoReturn:
        if status == ABORTED:
            for entry in entries:  # the micro-batches before the last stay in the cache
                llama.llama_memory_seq_rm(self._memory, entry.slot, entry.position, -1)
            raise Interrupted
        kind = "no KV cells are free" if status == 1 else f"status {status}"
        raise LocalFailure(f"llama_decode failed on {self._batch.tokens} tokens: {kind}")

    def interrupt(self) -> None:
        """Raise the flag. Raised too late it ends the next step, which is then planned again."""
        self._interrupt.value = self.facts.can_interrupt

    def _rows_at(self, address: int, count: int) -> NDArray[np.float32]:
        """View llama.cpp's rows: they lie in the order of the batch, one after the other, mostly in the same place.

        A view takes longer to make than one row to draw from, so those made are kept for as long as the place is.
        """
        if address != self._rows_address:
            self._rows_address, self._views = address, {}
        view = self._views.get(count)
        if view is None:
            place = (ctypes.c_float * (count * self.facts.vocab_tokens)).from_address(address)
            view = self._views[count] = np.ctypeslib.as_array(place).reshape(count, -1)
        return view

    def set_threads(self, decode: int, prefill: int) -> None:
        """Tell llama.cpp; OpenMP threads that are too many sleep from the next step on."""
        self._threads_next = (decode, prefill) if self._run.is_on else None
        if not self._run.is_on:
            llama.llama_set_n_threads(self._ctx, decode, prefill)
            self._threads = decode

    def use_adapter(self, adapter: int | None) -> None:
        """Apply one LoRA to the whole context. llama.cpp lays out its graph anew at a change: some milliseconds."""
        if adapter != self._adapter:
            set_adapter(self._ctx, None if adapter is None else self._adapters[adapter])
            self._adapter = adapter

    def embedder(self) -> LlamaCppEmbedder:
        """Make a second context of the same weights."""
        facts = self.facts
        return LlamaCppEmbedder(self._model, self._header, context_tokens=facts.context_tokens, threads=facts.threads)

    def copy(self, source: int, target: int, count: int) -> None:
        """Let `target` begin as `source` does. In a common pool only the owners of cells are written down.

        Between caches llama.cpp copies whole ones, at the next decode, and aborts where it is asked for a part: so the
        whole is asked for, and the rest given back.
        """
        self._check_slot(source)
        self._check_slot(target)
        held = self._length(source)
        if source == target or not self.facts.can_share_cells or not 0 < count <= held or self._length(target):
            raise ValueError(f"{count} of {held} cells cannot be shared by slot {source} with slot {target}")
        if self.facts.has_one_pool:
            llama.llama_memory_seq_cp(self._memory, source, target, 0, count)
            return
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        llama.llama_memory_seq_rm(self._memory, target, count, -1)

    def truncate(self, slot: int, length: int) -> None:
        """Free the cells of a slot from position `length` on."""
        self._check_slot(slot)
        if not self.facts.can_truncate or not 0 <= length <= self._length(slot):
            raise ValueError(f"slot {slot} holds {self._length(slot)} cells and cannot be cut to {length}")
        llama.llama_memory_seq_rm(self._memory, slot, length, -1)

    def forget(self, slot: int) -> None:
        """Free every KV cell of a slot."""
        self._check_slot(slot)
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def save(self, slot: int) -> bytearray:
        """Give the cells of a slot in llama.cpp's own format; cells that other slots share count as the slot's."""
        self._check_slot(slot)
        size = int(llama.llama_state_seq_get_size(self._ctx, slot))
        state = bytearray(size)
        written = int(llama.llama_state_seq_get_data(self._ctx, _pointer(state), size, slot))
        if written != size:
            raise LocalFailure(f"llama.cpp gave {written} of {size} bytes of slot {slot}")
        return state

    def restore(self, slot: int, state: bytes | bytearray, count: int) -> None:
        """Fill a slot. llama.cpp checks types, shapes and room itself, and takes nothing if they do not fit."""
        self._check_slot(slot)
        if not 0 < count <= self.facts.kv_cells or self._length(slot):
            raise ValueError(f"{count} cells cannot be restored into slot {slot}, which holds {self._length(slot)}")
        taken = int(llama.llama_state_seq_set_data(self._ctx, _pointer(state), len(state), slot))
        first = int(llama.llama_memory_seq_pos_min(self._memory, slot))
        held = self._length(slot)
        if (taken, first, held) != (len(state), 0, count):
            self.forget(slot)
            raise LocalFailure(f"llama.cpp took {taken} of {len(state)} bytes and holds {held} of {count} cells")

    def _check_slot(self, slot: int) -> None:
        """Refuse what llama.cpp would abort the process on; -1 would even mean every slot."""
        if not 0 <= slot < self.facts.sequence_ids:
            raise ValueError(f"slot {slot} is none of the {self.facts.sequence_ids} there are")

    def _length(self, slot: int) -> int:
        return int(llama.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def close(self) -> None:
        """Free context and model, in that order."""
        llama.llama_free(self._ctx)
        llama.llama_model_free(self._model)
        release_multiplier()


def _keeps_every_cell(model: Any) -> bool:
    """Tell models whose cache is one cell a token: recurrent state and sliding windows keep no full past to share."""
    is_recurrent = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
    return not is_recurrent and int(llama.llama_model_n_swa(model)) == 0


def _state_format(options: BackendOptions) -> str:
    """Name what the bytes of saved cells depend on beside model and context: the library and the types of the cache."""
    return (
        f"llama-cpp-python {llama.__version__}, state {llama.LLAMA_STATE_SEQ_VERSION}, "
        f"types {options.key_cache} {options.value_cache}, flash attention {options.flash_attention}"
    )


def _pointer(data: bytes | bytearray) -> Any:
    """Point at bytes that are there as long as the call: a copy would double hundreds of megabytes."""
    pointer = ctypes.POINTER(ctypes.c_uint8)
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), pointer)
    return ctypes.cast((ctypes.c_uint8 * len(data)).from_buffer(data), pointer)
