"""`record(mask=)` over every family: rows of a padded batch, against hooks on each text alone."""

from __future__ import annotations

import inspect
from typing import Any

import every_family
import pytest
import torch
from tiny_models import by_family
from torch import Tensor, nn

import probekit
from probekit.errors import CaptureError

LENGTHS = (5, 12, 9)
ALIKE = (9, 9, 9)
REACHED = ("cpmant", "deepseek_v32", "glm_moe_dsa")  # longer texts reach a row: those of ALIKE
MIXED = ("doge",)  # its router mixes the tokens of a batch: a text is tried by itself
FEW = {"cpmant": 1, "prophetnet": 3, "xlnet": 2}  # that have rows of tokens in front
REFUSED = {
    "big_bird": "runs other modules on longer texts",
    "xmod": "does not run on tensors without values",  # it asks which languages there are
}
# An indexer names its best keys; of those behind a query, which it names is left to chance.
BY_CHANCE = ("indexer",)
ROUTED = (".experts.",)  # in an order of their own
POSITIONS = ("embed_positions",)  # the same rows for every text, which have no batch axis


def texts(lengths: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 90, (n,), generator=generator) for n in lengths]


def given(model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    every = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.arange(ids.shape[1]).expand_as(ids),
        "use_cache": False,
    }
    accepted = inspect.signature(model.forward).parameters
    numbered = any(getattr(m, "padding_idx", None) == 1 for m in model.modules())  # RoBERTa's
    return {k: v for k, v in every.items() if k in accepted and not (numbered and "pos" in k)}


def alone(model: nn.Module, ids: Tensor) -> dict[str, list[Tensor]]:
    """Give what every module gives on one text, by bare hooks."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for path, module in model.named_modules():

        def see(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
            every = output.values() if isinstance(output, dict) else output
            every = (output,) if isinstance(output, Tensor) else every or ()
            first = next((v for v in every if isinstance(v, Tensor)), None)
            if first is not None:
                seen.setdefault(path, []).append(first.detach().clone())

        handles.append(module.register_forward_hook(see))
    with torch.no_grad():
        model(**given(model, ids[None], torch.ones_like(ids)[None]))
    for handle in handles:
        handle.remove()
    return seen


def rows_of(tensor: Tensor, n: int) -> Tensor | None:
    """Give a lone text's rows where its tensor has one for each of its tokens, in front."""
    if tensor.shape[:2] == (1, n):
        return tensor[0]
    return tensor if tensor.ndim == 2 and tensor.shape[0] == n else None


def check(family: str) -> int:
    model = every_family.build(family)
    lengths = ALIKE if family in REACHED else LENGTHS[: 1 if family in MIXED else None]
    single = [alone(model, ids) for ids in texts(lengths)]
    sites = [
        path
        for path in single[0]
        if path
        and not any(part in path for part in (*BY_CHANCE, *ROUTED, *POSITIONS))
        and all(path in seen and len(seen[path]) == len(single[0][path]) for seen in single)
        and all(
            rows_of(tensor, n) is not None
            for seen, n in zip(single, lengths, strict=True)
            for tensor in seen[path]
        )
    ]
    ids = nn.utils.rnn.pad_sequence(texts(lengths), batch_first=True)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    # In inference mode, where GIT and others that change tensors in place are copied.
    with torch.inference_mode(), probekit.record(model, sites, mask=mask) as rec:
        model(**given(model, ids, mask))
    for path in sites:
        assert rec.n_rows(path) == lengths
        for number, call in enumerate(rec.calls(path)):
            pairs = zip(single, lengths, strict=True)
            wanted = torch.cat([rows_of(seen[path][number], n) for seen, n in pairs])
            largest = wanted.abs().max().clamp(min=1e-6)
            assert call.shape == wanted.shape, path
            assert ((call - wanted).abs().max() / largest) < 1e-3, path
    return len(sites)


@pytest.mark.slow
@pytest.mark.parametrize("family", every_family.FAMILIES)
def test_rows_are_what_each_text_gives_alone(family: str) -> None:
    if family in REFUSED:
        with pytest.raises(CaptureError, match=REFUSED[family]):
            check(family)
        return
    assert check(family) >= FEW.get(family, every_family.N_LAYERS)


@pytest.mark.parametrize(
    "family",
    by_family(("bloom", "mamba", "olmoe", "opt", "gpt_neox", "mixtral"), ("bloom", "mamba")),
)
def test_so_they_are_in_families_that_lay_a_batch_out_otherwise(family: str) -> None:
    assert check(family) > every_family.N_LAYERS
