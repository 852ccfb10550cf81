"""`adapters`: a model with more parameters than its checkpoint, as LoRA makes it (arXiv:2106.09685)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.architectures.model import Parameter
from meminspect.strategies import materialising, recipes
from meminspect.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.strategies.task import LoadTask
    from meminspect.theory.ledger import Step

__all__ = ["RANK", "STRATEGY"]

RANK: Final = 8
"""Of the update that is added to a layer."""

_DTYPE: Final = "float32"  # in which updates are trained, whatever the base is in

_LORA: Final = f"""
class LoRA(nn.Module):
    # The update of a linear layer, of low rank. B begins as zeros, so that at first it changes nothing.
    def __init__(self, rows, columns, rank={RANK}):
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, columns, dtype=torch.float32))
        self.B = nn.Parameter(torch.empty(rows, rank, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        nn.init.zeros_(self.B)

def add_update(module, inputs, output):
    lora = module.lora
    return output + (inputs[0].to(lora.A.dtype) @ lora.A.T @ lora.B.T).to(output.dtype)
"""


def _targets(task: LoadTask) -> list[Parameter]:
    """The weights of the attentions' linear layers."""
    return [parameter for parameter in task.linears if parameter.linear == "attention"]


def _recipe(task: LoadTask) -> str:
    targets = _targets(task)
    endings = dict.fromkeys("." + ".".join(target.name.split(".")[-3:-1]) for target in targets)
    shape = "module.weight.T.shape" if targets[0].transposed else "module.weight.shape"
    return recipes.recipe(
        recipes.header(task, "from torch import nn", lazily=True),
        _LORA,
        f"""{recipes.meta_build(task)}
    for name, module in list(model.named_modules()):
        if name.endswith({tuple(endings)!r}):
            module.lora = LoRA(*{shape})
            module.register_forward_hook(add_update)
""",
        materialising.put(task),
        materialising.read_one_by_one(task),
        materialising.lacking(task),
    )


def _adds(task: LoadTask) -> Sequence[Parameter]:
    """A and B of each layer, in the order in which the model has them."""
    added: list[Parameter] = []
    for target in _targets(task):
        layer = target.name.rpartition(".")[0]
        rows, columns = reversed(target.shape) if target.transposed else target.shape
        added.append(Parameter(f"{layer}.lora.A", (RANK, columns), dtype=_DTYPE))
        added.append(Parameter(f"{layer}.lora.B", (rows, RANK), dtype=_DTYPE))
    return added


def _ledger(task: LoadTask) -> Iterator[Step]:
    yield from materialising.one_by_one(task)
    yield from materialising.initialised(task, _adds(task))


def _lacks(task: LoadTask) -> str | None:
    if _targets(task):
        return None
    return "nobody knows which tensors of a model of unknown architecture are those of attentions"


STRATEGY = Strategy(
    id="adapters",
    summary="loads lazily into a model that LoRA has given more parameters than the checkpoint has, and begins those",
    good="fine-tuning: the base is loaded, the update begins as it must, with zeros in B",
    bad="as lazy: the pages of a file stay mapped until it is closed",
    recipe=_recipe,
    ledger=_ledger,
    maps=lambda _: True,
    adds=_adds,
    lacks=_lacks,
)
