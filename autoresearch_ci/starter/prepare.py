"""The data and the evaluation of the starter. Fixed: train.py may change, this file may not.

The corpus is made up by a small grammar, the same on every machine and in a blink, so nothing is downloaded and no cache is
needed. The tokenizer is the identity: a token is a byte.
"""

import math
import random

import torch

VOCABULARY_SIZE = 256
SEQUENCE_LENGTH = 64
TRAIN_SENTENCES = 10_000
EVALUATION_SEQUENCES = 384
EVALUATION_BATCH = 64

NAMES = "Ada Alan Barbara Claude Donald Edsger Emmy Grace Hedy John Kurt Leslie Margaret Niklaus Radia Sophie".split()
PLACES = "archive bakery cellar garden harbour kitchen laboratory library market observatory station theatre".split()
THINGS = "apple book candle clock compass feather hammer kettle lantern letter mirror needle ribbon violin".split()
COLOURS = "amber black blue crimson golden green grey ivory purple silver violet white".split()
VERBS = {"find": "finds", "hide": "hides", "paint": "paints", "repair": "repairs", "sell": "sells", "carry": "carries"}


def corpus(split):
    """The text of a split, `train` or `val`, as bytes. Both follow the same grammar; no sentence is shared on purpose."""
    chance = random.Random({"train": 1, "val": 2}[split])
    count = TRAIN_SENTENCES if split == "train" else TRAIN_SENTENCES // 12
    return " ".join(sentence(chance) for _ in range(count)).encode()


def sentence(chance):
    """One sentence: subjects agree with verbs, pronouns with names, brackets close, and sums are right."""
    kind = chance.random()
    thing = f"{chance.choice(COLOURS)} {chance.choice(THINGS)}"
    if kind < 0.4:
        name = chance.choice(NAMES)
        verb = VERBS[chance.choice(list(VERBS))]
        return f"{name} {verb} the {thing} in the {chance.choice(PLACES)}, and {name} likes it."
    if kind < 0.7:
        first, second = chance.sample(NAMES, 2)
        verb = chance.choice(list(VERBS))
        return f"{first} and {second} {verb} {chance.randint(2, 9)} {thing}s for {second} and {first}."
    if kind < 0.85:
        left, right = chance.randint(0, 20), chance.randint(0, 20)
        return f"{left} and {right} make {left + right}."
    return f"[{chance.choice(PLACES)} ({thing} <{chance.choice(NAMES)}>)]."


def load(split):
    """The tokens of a split: a one-dimensional int64 tensor, on the CPU."""
    return torch.frombuffer(bytearray(corpus(split)), dtype=torch.uint8).long()


@torch.no_grad()
def evaluate_bpb(model, device):
    """Bits per byte of the model on the validation split: the metric, lower is better.

    `model(tokens)` takes (batch, sequence) tokens and returns (batch, sequence, VOCABULARY_SIZE) logits for the next ones.
    """
    tokens = load("val")[: EVALUATION_SEQUENCES * SEQUENCE_LENGTH + 1]
    inputs = tokens[:-1].view(-1, SEQUENCE_LENGTH)
    targets = tokens[1:].view(-1, SEQUENCE_LENGTH)
    was_training = model.training
    model.eval()
    nats = 0.0
    for batch, target in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
        logits = model(batch.to(device)).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.to(device).flatten(), reduction="sum")
        nats += loss.item()
    model.train(was_training)
    return nats / targets.numel() / math.log(2)


if __name__ == "__main__":
    for name in ("train", "val"):
        text = corpus(name)
        print(f"{name}: {len(text)} bytes, beginning with {text[:120].decode()!r}")
