"""Values that nobody means well with: hypothesis strategies of numbers, names, globs, words, junk.

Nothing here imports probekit.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

# Right-to-left marks and their kind, a terminal's escape, C1 controls, separators, astral tags.
ODD_CHARACTERS = "\u202e\u202d\u2066\u2069\u200e\u200b\ufeff\u2028\x85\x9b\x1b\x07\0\x7f\U000e0041"
ODD_NAMES = st.text(alphabet=ODD_CHARACTERS + "ab.é中", min_size=1, max_size=12)
ABSURD_NUMBERS = st.sampled_from(
    [
        *(0, -1, -(10**4), 10**6, 2**31 - 1, 2**31, -(2**31), 2**32, 10**12, 2**63 - 1, 2**63),
        *(-(2**63), -(2**64), 10**39, 10**300, 1e308, -1e308, 5e-324, -0.0, 0.5, 1.0),
        *(float("inf"), float("-inf"), float("nan")),
    ]
)
LONG = [60, 1000, 20_000, 300_000, 3_000_000]


def repeated(lengths: list[int]) -> Strategy:
    """Give texts of about so many characters, of one piece over and over."""
    return st.builds(
        lambda piece, n: piece * max(1, n // len(piece)),
        st.sampled_from(
            ["a", "é", "\u202e", " ", "a ", "\n", ".", "*", "a.", "{", "\\", "'", "💥"]
        ),
        st.sampled_from(lengths),
    )


LONG_TEXTS = repeated(LONG)
# A tokenizer of Rust takes some 300 bytes a token, and ends the process where it gets none: a text
# that is read whole must go into the memory that an attempt has.
READ_TEXTS = repeated(LONG[:3])
GLOBS = st.one_of(
    st.sampled_from(
        [
            *("{0..999999999}", "{0..10000}", "{0..9999}", "{9..1}", "{00..07}", "{0..-1}", "{}"),
            *("{a,}", "{,}", "{..}", "{0...5}", "**", "***", "**.**.**", ".", "..", "a..b", ".a"),
            *("(a+)+$", "(.*)*b", "[a-z]*", "^a", "a|b", "\\", "?", "!a", "a]", "}{", "{{a}}"),
            *(
                "transformer.h.\u202e0.mlp",
                "transformer.h.{0,1\u202e}.mlp",
                "transformer.h.\x1b[31m",
            ),
        ]
    ),
    st.builds(
        lambda piece, n, end: piece * n + end,
        st.sampled_from(
            [
                *("*a", "**.", "*.", "{0..9999}.", "{0..9999}", "{0..99}.", "{a,b}", "{a,b}.", "{"),
                *("{a,{b,", "a*", "*{a,*}.", "**.{a,b}.", "{0..9999,x}*.", "transformer.", "h.*."),
            ]
        ),
        st.sampled_from([1, 2, 3, 7, 30, 300, 900]),
        st.sampled_from(["", "b", "**", "}", "{0..9}", "mlp.act"]),
    ),
)
MANY_GLOBS = st.builds(
    lambda pattern, n: [f"{pattern}{i or ''}" for i in range(n)],
    GLOBS,
    st.sampled_from([2, 50, 3000]),
)
EINOPS = st.one_of(
    st.sampled_from(
        [
            *("token d -> d token", "token (a b) -> token a b", "token ... -> token ...", "-> ->"),
            *("token d -> token -> token d", "token () -> token"),
            *("token (d -> token", "token d d -> token d", "token -> token d", "token d ->", "()"),
            *("token (a (b c)) -> token a b c", "token 0 -> token 0", "token lambda -> token"),
            *(
                "token _ -> token",
                "token d -> token d d",
                "token {d} -> token d",
                "token d-> token",
            ),
        ]
    ),
    st.builds(
        lambda piece, n: f"token {piece * n} -> token",
        st.sampled_from(["a ", "(a ", "(a) ", "1 ", "... ", "é ", "\u202e "]),
        st.sampled_from([1, 5, 40, 3000]),
    ),
)
WORDS = st.sampled_from(
    [
        *("all", "first", "last", "auto", "output", "output@1", "output.0@0", "input.x", "pattern"),
        *("top_k", "scores", "token_logprob", "0:0", "::0", "5:2", "-1:", "1:2:3:4", "~", "null"),
        *("1e999", "0x" + "f" * 30, "1GiB", "999999TiB", "0B", "-1B", "cuda:999", "mps", "cuda"),
        *("../../../etc/passwd", "/dev/zero", "/proc/self/mem", "~root/x", "~\u202e/x", "a" * 300),
        *("file:///etc/passwd", "\\\\host\\share", "CON", "/", ".", "..", "/" + "a/" * 3000),
        *("sample:tiny-gpt2", "sample:../tiny-gpt2", "sample:", "gpt2/../../x", "gpt2", "x.gguf"),
        *("/dev/null", "/etc/passwd", "prompts.jsonl", "x.csv", "x.parquet", "bfloat16", "zstd"),
    ]
)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), ABSURD_NUMBERS, ODD_NAMES, LONG_TEXTS, GLOBS, EINOPS, WORDS),
    *(st.integers(-9, 9), st.text(max_size=8)),
)


def nested(depth: int, kind: str) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


HUGE_LISTS = st.builds(
    lambda item, n, end: [item] * n if end is None else [*range(n), end],
    SCALARS.filter(lambda value: len(str(value)) < 50),
    st.sampled_from([50, 3000, 40_000]),
    st.sampled_from([None, 0, -1, "x"]),
)
JUNK = st.one_of(
    SCALARS,
    HUGE_LISTS,
    st.builds(nested, st.sampled_from([3, 48, 51, 200]), st.sampled_from(["list", "mapping"])),
    st.lists(SCALARS, max_size=4),
    st.dictionaries(
        st.one_of(
            ODD_NAMES, st.sampled_from(["name", "texts", "random", "modules", "n_layer", "<<"])
        ),
        SCALARS,
        max_size=4,
    ),
)
OVERRIDES = st.dictionaries(  # fields of a model's own config, each a way into its code
    st.sampled_from(
        [
            *("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "n_ctx"),
            *("num_hidden_layers", "num_labels", "architectures", "activation_function", "dtype"),
            *("attn_pdrop", "layer_norm_epsilon", "initializer_range", "model_type", "auto_map"),
            *("torch_dtype", "is_encoder_decoder", "id2label", "label2id", "tie_word_embeddings"),
            *("scale_attn_weights", "reorder_and_upcast_attn", "summary_type", "return_dict"),
            *("attn_implementation", "_attn_implementation", "quantization_config", "to_dict"),
            *(
                "add_cross_attention",
                "use_cache",
                "eos_token_id",
                "pad_token_id",
                "transformers_version",
            ),
            *("__class__", "__init__", "problem_type", "chunk_size_feed_forward", "attribute_map"),
            *(
                "output_attentions",
                "output_hidden_states",
                "_name_or_path",
                "is_decoder",
                "pruned_heads",
            ),
        ]
    ),
    st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.sampled_from(["gelu", "relu", "float16"])),
    min_size=1,
    max_size=3,
)
