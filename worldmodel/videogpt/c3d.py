"""C3D, trained on UCF-101: the classifier of the inception score of videos.

Tran et al. 2015, as pfnet-research/tgan2 runs it, whose code gave VideoGPT its scores (Sec. 4.5).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NUM_FRAMES = 16
SIZE = 112
MEAN_SHAPE = (3, NUM_FRAMES, 128, 171)  # of the clips that it was trained on, blue first
CORNER = 8  # of the square of the mean that is taken off
# name: (channels in, channels out)
CONVOLUTIONS = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")  # a pooling follows these


class C3D(nn.Module):
    """Logits of the 101 classes of UCF-101.

    Args:
        mean: of the training clips, of MEAN_SHAPE, blue first.
    """

    mean: Tensor

    def __init__(self, mean: np.ndarray) -> None:
        super().__init__()
        square = mean[:, :, CORNER : CORNER + SIZE, CORNER : CORNER + SIZE]
        self.register_buffer("mean", torch.from_numpy(square.astype(np.float32)), persistent=False)
        for name, (inputs, outputs) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 101)

    def forward(self, clips: Float[Tensor, "B 3 16 112 112"]) -> Float[Tensor, "B 101"]:
        """Logits of clips in 0..256, red first."""
        x = clips.flip(1) - self.mean
        for name in CONVOLUTIONS:
            x = self.get_submodule(name)(x).relu()
            if name in POOLED:
                kernel = (1, 2, 2) if name == "conv1a" else (2, 2, 2)
                # Chainer, where the weights come from, pools what is left at the edge too.
                x = F.max_pool3d(x, kernel, ceil_mode=True)
        return self.fc8(self.fc7(self.fc6(x.flatten(1)).relu()).relu())
