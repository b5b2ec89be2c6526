"""A small PyTorch network with what exporters to ONNX rename, fold or turn; and how its export was recorded.

PyTorch's newer exporter needs onnxscript, which the tests do without: `pip install onnxscript==0.7.2`, then
`python tests/helpers/golden/pytorch_onnx.py` writes pytorch_dynamo.onnx anew. The older exporter is run by the tests.
"""

import pathlib

import torch
from torch import nn

DYNAMO = pathlib.Path(__file__).parent / "pytorch_dynamo.onnx"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.PReLU(4)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Network(nn.Module):
    """As many channels out as in everywhere, and names that mislead: only nodes tell what is transposed."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Block(), nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.BatchNorm2d(4)))
        self.deconv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.conv2d = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(4, 4, 2, 2, groups=2))
        self.groups = nn.GroupNorm(2, 4)
        self.query, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.words = nn.Embedding(7, 4)

    def forward(self, x, words):
        y = self.groups(self.conv2d(self.deconv(self.body(x))))
        y = self.head(torch.tanh(self.query(y.flatten(2).transpose(1, 2))))  # [N, positions, 4]
        return self.last(y.mean(1)) * self.words(words)


def network():
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim < 2:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            if name.endswith("original0"):
                tensor.mul_(1.5)
    return model


def example():
    torch.manual_seed(1)
    return torch.randn(2, 4, 4, 4), torch.tensor([3, 5])


if __name__ == "__main__":
    import onnx

    program = torch.onnx.export(network(), example(), dynamo=True, output_names=["y"])
    model = program.model_proto
    for part in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        model.graph,
        model,
    ):
        kept = [note for note in part.metadata_props if note.key == "pkg.torch.onnx.name_scopes"]
        del part.metadata_props[:]  # stack traces, with the paths of the machine
        part.metadata_props.extend(kept)
    onnx.save(model, DYNAMO)
