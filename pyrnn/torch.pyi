from typing import overload

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

__all__ = ["RNN"]

class RNN(nn.RNN):
    @overload
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...
    def __prepare_scriptable__(self) -> nn.RNN: ...
