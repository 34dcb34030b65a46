"""Trains a small byte-level transformer for a fixed time and prints what it reached: the file that the research changes.

The protocol is karpathy/autoresearch's: constants at the top, a time budget, `name: number` lines at the end. It runs on a
CPU, an NVIDIA GPU or Apple Silicon; the AUTORESEARCH_ variables say which, for how long, and how much fits.
"""

import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from prepare import SEQUENCE_LENGTH, VOCABULARY_SIZE, evaluate_bpb, load

# Model
DEPTH = 2
WIDTH = 64
HEADS = 4
MLP_RATIO = 4
ACTIVATION = "relu"
DROPOUT = 0.1

# Optimization
OPTIMIZER = "adamw"
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
BETA1 = 0.9
BETA2 = 0.95
EPSILON = 1e-8
GRAD_CLIP = 1.0
WARMUP_FRACTION = 0.2  # of the time budget
COOLDOWN_FRACTION = 0.2
BATCH_SIZE = 16  # sequences of a step
DEVICE_BATCH_SIZE = 16  # sequences at a time; the rest of a step is accumulated

# What we are told, not what we choose
TIME_BUDGET = float(os.environ.get("AUTORESEARCH_TIME_BUDGET", "10"))  # seconds
DEVICE = os.environ.get("AUTORESEARCH_DEVICE", "cpu")
SEED = int(os.environ.get("AUTORESEARCH_SEED", "42"))
BATCH_SCALE = float(os.environ.get("AUTORESEARCH_BATCH_SCALE", "1"))
COMPILE = os.environ.get("AUTORESEARCH_COMPILE", "0") == "1"

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu2": lambda x: x.clamp(min=0).square(),
}


class Block(nn.Module):
    """Causal self-attention, then a multilayer perceptron, each on a normalised residual stream."""

    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.mlp_in = nn.Linear(WIDTH, int(MLP_RATIO * WIDTH))
        self.mlp_out = nn.Linear(int(MLP_RATIO * WIDTH), WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.attention_out(mixed.transpose(1, 2).reshape(batch, length, WIDTH)))
        return x + self.dropout(self.mlp_out(ACTIVATIONS[ACTIVATION](self.mlp_in(self.mlp_norm(x)))))


class Model(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY_SIZE, WIDTH)
        self.positions = nn.Embedding(SEQUENCE_LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY_SIZE, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Optimizer:
    """AdamW, Lion or SGD with momentum, with decoupled weight decay of the matrices.

    Short enough to experiment on; and importing those of torch takes two seconds more of every run.
    """

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, learning_rate):
        """One update from the gradients, which are then forgotten."""
        self.steps += 1
        for parameter, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            gradient = parameter.grad
            mean.lerp_(gradient, 1 - BETA1)
            if OPTIMIZER == "adamw":
                square.lerp_(gradient.square(), 1 - BETA2)
                spread = (square / (1 - BETA2**self.steps)).sqrt().add_(EPSILON)
                update = (mean / (1 - BETA1**self.steps)).div_(spread)
            elif OPTIMIZER == "lion":
                update = mean.sign()
            elif OPTIMIZER == "sgd":
                update = mean
            else:
                raise ValueError(f"there is no optimizer {OPTIMIZER}")
            if parameter.dim() >= 2:
                parameter.mul_(1 - learning_rate * WEIGHT_DECAY)
            parameter.sub_(update, alpha=learning_rate)
            parameter.grad = None


def schedule(progress):
    """The share of the learning rate at `progress` (0 to 1): up, level, and down to a tenth."""
    up = min(1.0, progress / WARMUP_FRACTION) if WARMUP_FRACTION > 0 else 1.0
    down = min(1.0, (1 - progress) / COOLDOWN_FRACTION) if COOLDOWN_FRACTION > 0 else 1.0
    return max(0.01, up) * (0.1 + 0.9 * down)


def synchronize():
    """Waits for the device, so that times are those of the work and not of its planning."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    elif DEVICE == "mps":
        torch.mps.synchronize()


start = time.time()
# A model this small gains little from more threads, and all of them wait when another program takes one of the cores.
torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
torch.manual_seed(SEED)
data = load("train")
shuffle = torch.Generator().manual_seed(SEED)


def batch(size):
    """`size` random sequences of the corpus, and for each position the byte that follows."""
    starts = torch.randint(len(data) - SEQUENCE_LENGTH - 1, (size, 1), generator=shuffle)
    windows = data[starts + torch.arange(SEQUENCE_LENGTH + 1)].to(DEVICE)
    return windows[:, :-1], windows[:, 1:]


model = Model().to(DEVICE)
optimizer = Optimizer(model.parameters())
forward = torch.compile(model) if COMPILE else model
device_batch_size = max(1, min(BATCH_SIZE, int(DEVICE_BATCH_SIZE * BATCH_SCALE)))
accumulation = max(1, round(BATCH_SIZE / device_batch_size))

step, training_seconds, smooth_loss = 0, 0.0, 0.0
while training_seconds < TIME_BUDGET:
    began = time.time()
    loss_sum = 0.0
    for _ in range(accumulation):
        inputs, targets = batch(device_batch_size)
        loss = F.cross_entropy(forward(inputs).flatten(0, 1), targets.flatten()) / accumulation
        loss.backward()
        loss_sum += loss.item()
    if not math.isfinite(loss_sum):
        print("\nFAIL: the loss is not finite", flush=True)
        raise SystemExit(1)
    nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    optimizer.step(LEARNING_RATE * schedule(training_seconds / TIME_BUDGET))
    synchronize()
    training_seconds += time.time() - began
    step += 1
    smooth_loss = loss_sum if step == 1 else 0.9 * smooth_loss + 0.1 * loss_sum
    print(
        f"\rstep {step} ({100 * min(1.0, training_seconds / TIME_BUDGET):.0f}%) loss {smooth_loss:.4f}",
        end="",
        flush=True,
    )
print()

val_bpb = evaluate_bpb(model, DEVICE)
peak_bytes = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0  # elsewhere it is measured from outside
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {training_seconds:.1f}")
print(f"total_seconds:    {time.time() - start:.1f}")
print(f"peak_vram_mb:     {peak_bytes / 1024 / 1024:.1f}")
print(f"total_tokens_M:   {step * accumulation * device_batch_size * SEQUENCE_LENGTH / 1e6:.1f}")
print(f"num_steps:        {step}")
print(f"num_params_M:     {sum(p.numel() for p in model.parameters()) / 1e6:.1f}")
print(f"depth:            {DEPTH}")
